"""SmoothQuant (Xiao et al. 2023): move the outlier channels of activations into weights.

A ViT's activations after layer normalisation have channels tens of times larger than the rest, and one
INT8 scale for all of them leaves nothing of the small ones. Dividing channel j by s_j and multiplying row
j of the weights by it changes nothing in float; layer normalisation absorbs the division.
"""

import numpy as np
import onnx

from il2vseg.calib.graphs import (
    consumers,
    drop_unused_constants,
    initializers,
    layer_norms,
    linears,
    set_constant,
    value,
)
from il2vseg.calib.observe import Observation

STRENGTH = 0.7
"""Share of the difficulty moved to the weights, 0 to 1 (the paper's α)."""


def smooth(
    model: onnx.ModelProto, observed: dict[str, Observation], strength: float = STRENGTH
) -> onnx.ModelProto:
    """Copy a graph with every layer normalisation that feeds linear layers only rescaled by channel.

    Args:
        observed: of the linear layers' activations.
    Returns:
        a graph of the same outputs; the activations of its rescaled layers are not the observed ones.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = initializers(copy)
    weights = {linear.node: linear.weight for linear in linears(copy)}
    for norm in layer_norms(copy):
        readers = consumers(copy, norm.output[0])
        if not readers or any(reader.name not in weights for reader in readers):
            continue
        rows = [value(constants[weights[reader.name]]) for reader in readers]
        largest = np.maximum.reduce([np.abs(matrix).max(1) for matrix in rows])
        activation = observed[norm.output[0]].channel_max
        s = np.maximum(activation, 1e-5) ** strength / np.maximum(largest, 1e-5) ** (1 - strength)
        s = np.maximum(s, 1e-5).astype(np.float32)
        for index in range(1, len(norm.input)):  # scale and shift
            set_constant(copy, norm, index, value(constants[norm.input[index]]) / s)
        for reader, matrix in zip(readers, rows, strict=True):
            set_constant(copy, reader, 1, matrix * s[:, None])
    drop_unused_constants(copy)
    return copy
