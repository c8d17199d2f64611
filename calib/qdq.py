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
    Attention,
    Linear,
    attentions,
    drop_unused_constants,
    initializers,
    linears,
    replace,
    set_constant,
    value,
)
from il2vseg.calib.observe import Observation
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
    wanted = {x.node: x for x in linears(copy) if x.node not in keep_float}
    products = attentions(copy) if convention.scores else []
    scores = {x.scores.name: x for x in products if x.scores.name not in keep_float}
    biases = _biases(copy)
    writer = _Writer(convention, observed)
    for node in copy.graph.node:
        if attention := scores.get(node.name):
            writer.quantise_scores(node, attention)
        if linear := wanted.get(node.name):
            writer.quantise_linear(node, linear, weights[linear.weight])
            if bias := biases.get(node.output[0]):
                # ONNX Runtime turns MatMul and a one-dimensional bias into Gemm before it looks for Q/DQ,
                # and has no INT8 Gemm with a float bias: the layer would run in float, and slower.
                add, array = bias
                set_constant(copy, add, 1, array.reshape(1, 1, -1))
        writer.nodes.append(node)
    replace(copy.graph.node, writer.nodes)
    copy.graph.initializer.extend(writer.constants)
    drop_unused_constants(copy)
    return copy


def _biases(model: onnx.ModelProto) -> dict[str, tuple[onnx.NodeProto, NDArray[Any]]]:
    """The additions of a constant, and the constant, by the tensor that it is added to."""
    constants = initializers(model)
    return {
        node.input[0]: (node, value(constants[node.input[1]]))
        for node in model.graph.node
        if node.op_type == "Add" and node.input[1] in constants
    }


class _Writer:
    """Collects the nodes and the new constants of a quantised graph; each pair is written once.

    Attributes:
        nodes, constants: of the new graph, in order.
    """

    def __init__(self, convention: Convention, observed: dict[str, Observation]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._convention, self._observed = convention, observed
        self._written: set[str] = set()

    def quantise_scores(self, node: onnx.NodeProto, attention: Attention) -> None:
        """Put pairs in front of query and key."""
        for index, source in enumerate((attention.query, attention.key)):
            x = node.input[index]
            seen = self._observed[source]
            # Signed for all: two computed factors with zero points would need the sums of both.
            node.input[index] = self._pair(x, x, *self._parts(x, *TENSORRT.parameters(seen.low, seen.high)))

    def quantise_linear(self, node: onnx.NodeProto, linear: Linear, weight: RoundedWeight) -> None:
        """Put a pair in front of a layer's activation, and one behind its rounded weight."""
        x, w = linear.activation, linear.weight
        own = f"_{node.name}" if self._convention.paired else ""
        seen = self._observed[x]
        parts = self._parts(x, *self._convention.parameters(seen.low, seen.high))
        node.input[0] = self._pair(x, f"{x}{own}", *parts)
        integers, steps = weight
        parts = self._parts(w, steps, np.zeros(len(steps), np.int8))
        if self._convention.paired:
            rounded = self._constant(f"{w}_rounded", integers * steps)
            node.input[1] = self._pair(rounded, f"{w}{own}", *parts, axis=1)
        else:
            node.input[1] = self._pair(w, w, *parts, integers=self._constant(f"{w}_q", integers), axis=1)

    def _parts(
        self, tensor: str, scale: NDArray[Any] | np.generic, zero: NDArray[np.integer]
    ) -> tuple[str, str]:
        """Scale and zero point of a tensor, as constants."""
        return self._constant(f"{tensor}_scale", scale), self._constant(f"{tensor}_zero_point", zero)

    def _pair(
        self, x: str, name: str, *parts: str, integers: str | None = None, axis: int | None = None
    ) -> str:
        """What a tensor x becomes in INT8: its `integers`, where they are a constant, as floats again."""
        quantised = integers or self._node("QuantizeLinear", [x, *parts], f"{name}_q", axis)
        return self._node("DequantizeLinear", [quantised, *parts], f"{name}_dq", axis)

    def _constant(self, name: str, array: NDArray[Any] | np.generic) -> str:
        if name not in self._written:
            self.constants.append(numpy_helper.from_array(np.asarray(array), name))
            self._written.add(name)
        return name

    def _node(self, operator: str, inputs: list[str], output: str, axis: int | None = None) -> str:
        if output not in self._written:
            self.nodes.append(helper.make_node(operator, inputs, [output], output, axis=axis))
            self._written.add(output)
        return output
