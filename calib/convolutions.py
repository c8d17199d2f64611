"""Static INT8 of a convolutional network (a student), by ONNX Runtime's quantiser.

A ViT needs care that a convolutional network with folded normalisations does not: see `calib.quantise` for
the former.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame
from il2vseg.calib.layers import convolutions, initializers, nodes_behind, replace, value
from il2vseg.calib.observe import session
from il2vseg.calib.qdq import Convention
from il2vseg.calib.quantise import CHECK_FRAMES, Quantised


def quantise_convolutions(
    model: onnx.ModelProto,
    frames: Sequence[tuple[str, Frame]],
    convention: Convention,
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> Quantised:
    """Quantise the convolutions of a graph and the sums between them; the last one, the classifier, stays in
    float.

    Args:
        frames: representative (name, BGR uint8 (H, W, 3)) of the graph's size.
    Raises:
        UserError: the graph has no convolution but the classifier.
    """
    layers = convolutions(model)
    if len(layers) < 2:
        raise UserError(
            "the model has no large linear layer, so INT8 would change nothing; export it as fp32"
        )
    # What stands beside the network or behind it, such as the confidence, is not quantised either.
    classifier = layers[-1].name
    network = {node.name for node in nodes_behind(model, layers[-1].output[0])}
    excluded = [classifier, *(node.name for node in model.graph.node if node.name not in network)]
    progress(f"observing {len(layers) - 1} convolutions on {len(frames)} frames")
    quantised = _quantised_graph(model, frames, convention, excluded)
    before, after = session(model, ["labels"]), session(quantised, ["labels"])
    checked = [frame[None] for _, frame in frames[:CHECK_FRAMES]]
    agreement = float(np.mean([(before(f)[0] == after(f)[0]).mean() for f in checked]))
    progress(f"labels agree on {agreement:.2%}")
    return Quantised(quantised, len(frames), 0.0, agreement, [classifier])


class _Reader:
    """Hands the frames to ONNX Runtime's quantiser, one at a time."""

    def __init__(self, name: str, frames: Sequence[tuple[str, Frame]]) -> None:
        self._inputs = iter([{name: frame[None]} for _, frame in frames])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._inputs, None)


def _quantised_graph(
    model: onnx.ModelProto, frames: Sequence[tuple[str, Frame]], convention: Convention, excluded: list[str]
) -> onnx.ModelProto:
    """Run ONNX Runtime's quantiser with the settings that the convention asks for."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    options: dict[str, bool] = {}
    if convention.signed:
        options |= {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    if convention.paired:
        options |= {"AddQDQPairToWeight": True, "DedicatedQDQPair": True}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantize_static(
            kernels_in_float(model),
            str(path),
            _Reader(model.graph.input[0].name, frames),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add"],
            per_channel=True,
            activation_type=QuantType.QInt8 if convention.signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=excluded,
            extra_options=options,
        )
        return onnx.load(path)


def kernels_in_float(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph with its kernels as plain float constants, which is where the quantiser looks for them."""
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = initializers(copy)
    rest = []
    for node in copy.graph.node:
        if node.op_type == "Cast" and node.input[0] in constants:
            tensor = constants[node.input[0]]
            tensor.CopyFrom(numpy_helper.from_array(value(tensor), node.output[0]))
        else:
            rest.append(node)
    replace(copy.graph.node, rest)
    add_pre_process_metadata(copy)  # shapes are known: else the quantiser asks for its own preparation
    return copy
