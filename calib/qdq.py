"""Explicit quantisation: QuantizeLinear/DequantizeLinear pairs around the linear layers of a graph, and for
CPUs around query and key.

Precision lives in the file, so every runtime that reads it computes the same. Two conventions, because
hardware differs: TensorRT takes signed symmetric activations only; CPUs multiply unsigned by signed.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from il2vseg.calib.layers import (
    Linear,
    attentions,
    drop_unused_constants,
    initializers,
    linears,
    replace,
    set_constant,
    value,
)
from il2vseg.calib.observe import Method, Observation
from il2vseg.calib.rounding import RoundedWeight


@dataclass(frozen=True)
class Convention:
    """How a family of runtimes wants its integers.

    Attributes:
        signed: activations are signed and symmetric, else unsigned with a zero point.
        paired: constants are floats behind a QuantizeLinear, and no two layers share a pair; else constants
            are integers, and layers share what they read.
        scores: attention's scores are a product of integers, too.
    """

    signed: bool
    paired: bool
    scores: bool

    def parameters(self, low: float, high: float) -> tuple[np.float32, NDArray[np.integer]]:
        """Scale and zero point of the range (low ≤ 0 ≤ high); scale 1 where float32 has none so small."""
        scale = max(-low, high) / 127 if self.signed else (high - low) / 255
        if scale < np.finfo(np.float32).tiny:
            scale = 1.0
        if self.signed:
            return np.float32(scale), np.array(0, np.int8)
        return np.float32(scale), np.array(round(np.clip(-low / scale, 0, 255)), np.uint8)

    def round_trip(self, x: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
        """Quantise values with the range (low, high) and return what they become."""
        scale, zero = self.parameters(low, high)
        limits = np.iinfo(zero.dtype)
        levels = np.rint(x / scale) + zero.astype(np.float32)
        clipped = levels.clip(limits.min, limits.max)
        return np.asarray((clipped - zero.astype(np.float32)) * scale, dtype=np.float32)


CPU = Convention(signed=False, paired=False, scores=True)
TENSORRT = Convention(signed=True, paired=True, scores=False)
"""TensorRT 8 has no INT8 constants, and looks for one layer behind each pair; later ones fold both away."""


def insert_qdq(
    model: onnx.ModelProto,
    observed: dict[str, Observation],
    weights: dict[str, RoundedWeight],
    convention: Convention,
    method: Method,
    keep_float: Collection[str] = (),
) -> onnx.ModelProto:
    """Copy a graph with its linear layers in INT8, and its attention's scores where the convention has it so.

    Args:
        observed: of every layer's activation, and of query and key. weights: by name of the float weight.
        keep_float: names of nodes left as they are.
    Returns:
        the graph; biases and everything else stay in float.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, constants = copy.graph, initializers(copy)
    reader = {node.input[0]: node for node in graph.node if node.op_type == "Add"}
    wanted: dict[str, Linear] = {x.node: x for x in linears(copy) if x.node not in keep_float}
    products = attentions(copy) if convention.scores else []
    scores = {x.scores.name: x for x in products if x.scores.name not in keep_float}
    new: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()

    def constant(name: str, array: NDArray[Any] | np.generic) -> str:
        if name not in done:
            new.append(numpy_helper.from_array(np.asarray(array), name))
            done.add(name)
        return name

    def insert(operator: str, inputs: list[str], output: str, axis: int | None = None) -> str:
        if output not in done:
            nodes.append(helper.make_node(operator, inputs, [output], output, axis=axis))
            done.add(output)
        return output

    def pair(x: str, name: str, *parts: str, integers: str | None = None, axis: int | None = None) -> str:
        """What a tensor x becomes in INT8: its `integers`, where they are a constant, as floats again."""
        quantised = integers or insert("QuantizeLinear", [x, *parts], f"{name}_q", axis)
        return insert("DequantizeLinear", [quantised, *parts], f"{name}_dq", axis)

    for node in graph.node:
        if attention := scores.get(node.name):
            for index, source in enumerate((attention.query, attention.key)):
                x = node.input[index]
                # Signed for all: two computed factors with zero points would need the sums of both.
                scale, zero = TENSORRT.parameters(*observed[source].range(method))
                parts = constant(f"{x}_scale", scale), constant(f"{x}_zero_point", zero)
                node.input[index] = pair(x, x, *parts)
        if linear := wanted.get(node.name):
            x, w = linear.activation, linear.weight
            own = f"_{node.name}" if convention.paired else ""
            scale, zero = convention.parameters(*observed[x].range(method))
            parts = constant(f"{x}_scale", scale), constant(f"{x}_zero_point", zero)
            node.input[0] = pair(x, f"{x}{own}", *parts)
            integers, steps = weights[w]
            zeros = np.zeros(len(steps), np.int8)
            parts = constant(f"{w}_scale", steps), constant(f"{w}_zero_point", zeros)
            if convention.paired:
                rounded = constant(f"{w}_rounded", integers * steps)
                node.input[1] = pair(rounded, f"{w}{own}", *parts, axis=1)
            else:
                node.input[1] = pair(w, w, *parts, integers=constant(f"{w}_q", integers), axis=1)
            bias = reader.get(node.output[0])
            if bias is not None and bias.input[1] in constants:
                # ONNX Runtime turns MatMul and a one-dimensional bias into Gemm before it looks for Q/DQ,
                # and has no INT8 Gemm with a float bias: the layer would run in float, and slower.
                set_constant(copy, bias, 1, value(constants[bias.input[1]]).reshape(1, 1, -1))
        nodes.append(node)
    replace(graph.node, nodes)
    graph.initializer.extend(new)
    drop_unused_constants(copy)
    return copy
