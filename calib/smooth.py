"""SmoothQuant (Xiao et al. 2023): move the outlier channels of activations into weights.

A ViT's activations after layer normalisation have channels tens of times larger than the rest, and one
INT8 scale for all of them leaves nothing of the small ones. Dividing channel j by s_j and multiplying row
j of the weights by it changes nothing in float; layer normalisation absorbs the division.
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from il2vseg.calib.layers import (
    consumers,
    drop_unused_constants,
    initializers,
    layer_norms,
    linears,
    replace,
    set_constant,
    value,
)
from il2vseg.calib.observe import Observation

Largest = NDArray[np.float32]

STRENGTH = 0.85
"""Share of the difficulty moved to the weights, 0 to 1 (the paper's α); `rounding` lets them bear it."""


def _factors(activation: Largest, rows: list[Largest], strength: float) -> Largest:
    """s_j of every channel from the largest magnitudes of the activation and of the weights' rows."""
    weights = np.maximum.reduce([np.abs(matrix).max(1) for matrix in rows])
    s = np.maximum(activation, 1e-5) ** strength / np.maximum(weights, 1e-5) ** (1 - strength)
    return np.asarray(np.maximum(s, 1e-5), dtype=np.float32)


def smooth(
    model: onnx.ModelProto, observed: dict[str, Observation], strength: float = STRENGTH
) -> onnx.ModelProto:
    """Copy a graph with the input of every linear layer rescaled by channel.

    Layer normalisation absorbs the factors where it feeds linear layers only. Elsewhere (after GELU and
    attention) a multiplication is inserted, which costs little beside the layer.

    Args:
        observed: of the linear layers' activations.
    Returns:
        a graph of the same outputs; its linear layers' activations are not the observed ones.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = initializers(copy)
    weights = {linear.node: linear.weight for linear in linears(copy)}
    norms = {norm.output[0]: norm for norm in layer_norms(copy)}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in copy.graph.node:
        if node.name in weights:
            readers.setdefault(node.input[0], []).append(node)
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        nodes.append(node)
        for tensor in node.output:
            if tensor not in readers:
                continue
            layers = readers[tensor]
            rows = [value(constants[weights[layer.name]]) for layer in layers]
            s = _factors(observed[tensor].channel_max, rows, strength)
            if tensor in norms and len(consumers(copy, tensor)) == len(layers):
                for index in range(1, len(node.input)):  # scale and shift
                    set_constant(copy, node, index, value(constants[node.input[index]]) / s)
            else:
                scaled = helper.make_node(
                    "Mul", [tensor, ""], [f"{tensor}_smooth"], f"{layers[0].name}_smooth"
                )
                set_constant(copy, scaled, 1, 1 / s)
                nodes.append(scaled)
                for layer in layers:
                    layer.input[0] = scaled.output[0]
            for layer, matrix in zip(layers, rows, strict=True):
                set_constant(copy, layer, 1, matrix * s[:, None])
    replace(copy.graph.node, nodes)
    drop_unused_constants(copy)
    return copy
