"""FP16 where it is safe: the matrices of the transformer, and nothing that can overflow or cancel.

The residual stream, layer normalisation and softmax stay in float32 (a ViT's residual stream has outliers
that half precision cannot hold), and so does everything after the backbone: cosine, fuzzy c-means,
affinity, fusion. Of a convolutional student, all from its first to its last layer is in half precision.
Types live in the graph, so TensorRT, which is strongly typed, and ONNX Runtime agree.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from il2vseg.base.errors import UserError
from il2vseg.calib.layers import (
    attentions,
    drop_unused_constants,
    initializers,
    layer_norms,
    network_nodes,
    replace,
    value,
)

FLOAT_OPS = frozenset({"LayerNormalization", "Softmax", "ReduceMean", "ReduceSum", "Pow", "Sqrt"})
"""Operators that sum or exponentiate many values."""

SHAPE_OPS = frozenset({"Reshape", "Resize", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split"})
"""Operators whose first input alone is data; the others are shapes."""


def half_nodes(model: onnx.ModelProto) -> set[str]:
    """First outputs of the nodes that run in half precision (nodes may have no names)."""
    chosen = set()
    has_stream = bool(layer_norms(model))
    for node in network_nodes(model):
        is_residual = (
            has_stream and node.op_type == "Add" and not set(node.input).intersection(initializers(model))
        )
        if node.op_type not in FLOAT_OPS and not is_residual:
            chosen.add(node.output[0])
    return chosen


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph with its network in mixed precision; inputs and outputs keep their types.

    Raises:
        UserError: the graph has no network to speak of.
    """
    chosen = half_nodes(model)
    if not chosen:
        raise UserError("fp16 needs a transformer or a convolutional network; export it as fp32")
    return _in_half(model, chosen)


def attention_to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph with the two products of every attention in half precision, and all else as it is.

    For INT8 files: GPUs multiply halves many times as fast as floats, and eight bits are too few for the
    weights of attention.
    """
    return _in_half(model, {node.output[0] for x in attentions(model) for node in (x.scores, x.output)})


def _in_half(model: onnx.ModelProto, chosen: set[str]) -> onnx.ModelProto:
    """Copy a graph with the nodes of these outputs in half precision."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = initializers(copy)
    is_half: set[str] = set()
    casts: dict[tuple[str, bool], str] = {}
    nodes: list[onnx.NodeProto] = []
    new: dict[str, onnx.TensorProto] = {}

    def as_type(name: str, half: bool) -> str:
        """Name of a tensor in the wanted type, casting it once if needed."""
        if name in constants:
            tensor = constants[name]
            if not half or tensor.data_type != TensorProto.FLOAT:
                return name
            new[f"{name}_half"] = numpy_helper.from_array(value(tensor).astype(np.float16), f"{name}_half")
            return f"{name}_half"
        if (name in is_half) == half:
            return name
        if (name, half) not in casts:
            output = f"{name}_{'half' if half else 'float'}"
            to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
            nodes.append(helper.make_node("Cast", [name], [output], f"cast/{output}", to=to))
            casts[name, half] = output
        return casts[name, half]

    for node in copy.graph.node:
        half = node.output[0] in chosen
        for i, name in enumerate(node.input):
            if name and not (node.op_type in SHAPE_OPS and i > 0) and (half or name in is_half):
                node.input[i] = as_type(name, half)
        if half:
            is_half.update(node.output)
        nodes.append(node)
    replace(copy.graph.node, nodes)
    copy.graph.initializer.extend(new.values())
    del copy.graph.value_info[:]  # types of before
    drop_unused_constants(copy)
    onnx.checker.check_model(copy, full_check=True)
    return copy
