"""What TensorRT's ONNX parser takes, from 8.6 on: a check that needs neither TensorRT nor a GPU.

The tables follow the parser's list of operators (onnx-tensorrt, docs/operators.md) and TensorRT's notes on
data types, for the operators that our graphs have. Later versions take more: what passes here, they read,
too.
"""

from collections.abc import Iterator

import onnx
from onnx import TensorProto, numpy_helper

from il2vseg.export.opset import OPSET

Types = frozenset[int]

FLOAT: Types = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})
INTEGER: Types = frozenset({TensorProto.INT32, TensorProto.INT64})
BOOL: Types = frozenset({TensorProto.BOOL})
QUANTISED: Types = frozenset({TensorProto.INT8})
NUMBER = FLOAT | INTEGER
ANY = NUMBER | BOOL

_OF_NUMBERS = (
    "Add", "ArgMax", "Div", "Equal", "Gather", "Greater", "Less", "Max", "Min", "Mul", "Neg", "Pad", "Sub",
)  # fmt: skip
_OF_FLOATS = (
    "AveragePool", "Clip", "Conv", "Erf", "Exp", "Gemm", "GlobalAveragePool", "HardSigmoid", "HardSwish",
    "LayerNormalization", "Log", "MatMul", "MaxPool", "Pow", "QuantizeLinear", "Reciprocal", "ReduceL2",
    "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Resize", "Sigmoid", "Softmax", "Sqrt", "Tanh",
)  # fmt: skip
_OF_ANYTHING = (
    "Cast", "Concat", "Expand", "Identity", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze", "Where",
)  # fmt: skip

OPERATORS: dict[str, Types] = {
    **dict.fromkeys(_OF_NUMBERS, NUMBER),
    **dict.fromkeys(_OF_FLOATS, FLOAT),
    **dict.fromkeys(_OF_ANYTHING, ANY),
    "DequantizeLinear": QUANTISED,
}
"""Types of an operator's data, by operator."""

CONSTANTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "Clip", "Pad"), (1, 2)),
    **dict.fromkeys(("ReduceSum", "Split", "Squeeze", "Unsqueeze", "Conv"), (1,)),
    "Resize": (1, 2, 3),
    "Slice": (3, 4),
}
"""Inputs that must be known when the graph is parsed."""

SHAPES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Expand", "Reshape", "ReduceSum", "Split", "Squeeze", "Unsqueeze", "Gather"), (1,)),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), (1, 2)),
    "Pad": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Where": (0,),
}
"""Inputs that are no data: sizes, axes, indices, conditions, scales."""

MAX_RANK = 8


def obstacles(model: onnx.ModelProto) -> list[str]:
    """Say what keeps TensorRT 8.6 or later from parsing a graph, a line each; nothing: it can."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = {v.name: v.type.tensor_type for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    types = {name: v.elem_type for name, v in values.items()}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    types |= {name: tensor.data_type for name, tensor in constants.items()}
    outputs = {v.name for v in model.graph.output}
    found = [f"opset {o.version}: the newest is {OPSET}" for o in model.opset_import if o.version > OPSET]
    found += [f"{o.domain}: operators of another domain" for o in model.opset_import if o.domain]
    free_batch = any(d.dim_param for d in values[model.graph.input[0].name].shape.dim[:1])
    known = set(constants)
    for node in model.graph.node:
        name = f"{node.name or node.output[0]} ({node.op_type})"
        if all(x in known for x in node.input if x):
            known.update(node.output)  # folded when the graph is parsed
        found += [f"{name}: {reason}" for reason in _of_node(node, types, constants, known, outputs)]
        for output in node.output:
            shape = values[output].shape.dim if output in values else ()
            if len(shape) > MAX_RANK:
                found.append(f"{name}: {len(shape)} axes, at most {MAX_RANK}")
            if not free_batch and (output not in values or not all(d.HasField("dim_value") for d in shape)):
                found.append(f"{name}: a shape that is known only when it runs")
    return found


def _of_node(
    node: onnx.NodeProto,
    types: dict[str, int],
    constants: dict[str, onnx.TensorProto],
    known: set[str],
    outputs: set[str],
) -> Iterator[str]:
    taken = OPERATORS.get(node.op_type)
    if taken is None:
        yield "not among the operators that our graphs may have"
        return
    for index, x in enumerate(node.input):
        if not x:
            continue
        kind = types.get(x, TensorProto.UNDEFINED)
        if index in CONSTANTS.get(node.op_type, ()) and x not in known:
            yield f"{x} is not a constant"
        if index in SHAPES.get(node.op_type, ()):
            continue
        if node.op_type == "Cast" and kind == TensorProto.UINT8 and types[node.output[0]] in FLOAT:
            continue
        if kind not in taken:
            yield f"{x} is {TensorProto.DataType.Name(kind)}"
    for y in node.output:
        if types.get(y) == TensorProto.UINT8 and not (
            node.op_type == "Cast" and types[node.input[0]] in FLOAT and y in outputs
        ):
            yield f"{y} is UINT8, which only a cast of floats to an output of the graph may be"
    if node.op_type == "DequantizeLinear" and node.input[0] in constants:
        yield f"{node.input[0]} is an INT8 constant, where a QuantizeLinear is expected"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None or zero.data_type != TensorProto.INT8 or numpy_helper.to_array(zero).any():
            yield "its zero point is not an INT8 zero"
