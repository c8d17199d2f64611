"""The whole path from camera frame to class ids as one ONNX graph."""

import ast
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from il2vseg.base.errors import UserError
from il2vseg.base.files import atomic_path
from il2vseg.calib.layers import replace
from il2vseg.export.deploy_form import deploy_form
from il2vseg.export.describe import INPUT
from il2vseg.export.opset import lower_opset
from il2vseg.export.student_graph import StudentGraph
from il2vseg.models.network import Network, frames_to_images, label_pixels
from il2vseg.models.student import Student

if TYPE_CHECKING:
    import onnx

OUTPUTS = ("labels", "scores", "confidence")


class DeployableGraph(nn.Module):
    """A network from uint8 BGR to class ids: no preprocessing is left for a device to get wrong.

    Normalisation, backbone, head, unrolled FCM, tiled affinity, fusion, upsampling and argmax are inside.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.segmenter = network  # its name is in the names of the graph

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        """uint8 BGR (1, H, W, 3) -> labels (1, H, W) uint8, scores (1, C, gh, gw) float32, and a confidence
        (1, h, w) float32 where the network has one."""
        images = frames_to_images(frame)
        scores, confidence = self.segmenter.judge(images)
        labels = label_pixels(scores, images, self.segmenter.spec.low_level)
        return (labels, scores) if confidence is None else (labels, scores, confidence[:, 0])


def export_onnx(network: Network, path: Path, batch: int = 1) -> None:
    """Write the graph of a network to an ONNX file, checked and whole, or not at all.

    Args:
        batch: most frames per call. Every shape is fixed at 1; above that the batch axis alone is free.
    Raises:
        UserError: more classes than uint8 labels can name.
    """
    import onnx

    if len(network.class_names) > 255:
        raise UserError(f"{len(network.class_names)} classes do not fit the uint8 labels of the graph")
    made = StudentGraph(network) if isinstance(network, Student) else DeployableGraph(deploy_form(network))
    graph = made.eval()
    # The exporter takes an axis of length 1 for a fixed one.
    frame = torch.zeros(min(batch, 2), *network.size, 3, dtype=torch.uint8)
    free = ({0: torch.export.Dim("batch", min=1, max=batch)},) if batch > 1 else None
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's notes on its own internals
        program = torch.onnx.export(
            graph,
            (frame,),
            input_names=[INPUT],
            output_names=list(OUTPUTS[: 3 if network.spec.novelty else 2]),
            opset_version=18,  # the exporter's oldest
            dynamic_shapes=free,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.optimize()
    model = program.model_proto
    name_nodes(model)
    read_shapes_of_floats(model)
    lower_opset(model)
    store_in_half(model)
    onnx.checker.check_model(model, full_check=True)
    buffer = io.BytesIO()
    onnx.save(model, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def name_nodes(model: "onnx.ModelProto") -> None:
    """Name every node after the module it comes from, and drop the exporter's notes.

    The notes hold stack traces with paths of the machine that exported; the names make reports readable.
    """
    for node in model.graph.node:
        notes = {entry.key: entry.value for entry in node.metadata_props}
        scopes = [s for s in ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]")) if "." in s]
        module = scopes[-1].removeprefix("segmenter.") if scopes else ""
        node.name = f"{module}/{node.name}" if module else node.name
        del node.metadata_props[:]


def read_shapes_of_floats(model: "onnx.ModelProto") -> None:
    """Read the free batch axis off the frame as floats: TensorRT has no operator on uint8 but the cast."""
    nodes = list(model.graph.node)
    cast = next(node for node in nodes if node.op_type == "Cast" and node.input[0] == INPUT)
    for node in nodes:
        if node.op_type == "Shape" and node.input[0] == INPUT:
            node.input[0] = cast.output[0]
    replace(model.graph.node, [cast, *(node for node in nodes if node is not cast)])


def store_in_half(model: "onnx.ModelProto") -> None:
    """Store the kernels that half precision holds exactly in it, cast where the graph starts.

    Runtimes fold the cast when they load the file: the same numbers from half the bytes. Those of a student
    are such (`il2vseg.models.student.finish`).
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    kernels = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    casts = []
    for tensor in model.graph.initializer:
        if tensor.name not in kernels:
            continue
        exact = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):  # what is too large for half precision becomes infinite, and unequal
            half = exact.astype(np.float16)
        if np.array_equal(half, exact):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_stored"))
            casts.append(
                helper.make_node("Cast", [tensor.name], [name], f"cast/{name}", to=TensorProto.FLOAT)
            )
    replace(model.graph.node, [*casts, *model.graph.node])
