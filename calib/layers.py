"""Find the large linear layers and the transformer blocks of an exported graph."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import numpy_helper

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

MIN_WEIGHTS = 1 << 15
"""Smaller matrices (whitening, head, prototypes) stay in float: they cost little and matter much."""


@dataclass(frozen=True)
class Linear:
    """A MatMul with a constant matrix.

    Attributes:
        node: its name. activation: tensor (..., in). weight: initializer (in, out).
    """

    node: str
    activation: str
    weight: str


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Constants of a graph by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def linears(model: onnx.ModelProto) -> list[Linear]:
    """List the large linear layers of a graph, in the order of execution."""
    constants = initializers(model)
    found = []
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants:
            shape = constants[node.input[1]].dims
            if len(shape) == 2 and shape[0] * shape[1] >= MIN_WEIGHTS:
                found.append(Linear(node.name, node.input[0], node.input[1]))
    return found


def layer_norms(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """List the layer normalisations of a graph; only its ViT has them."""
    return [node for node in model.graph.node if node.op_type == "LayerNormalization"]


@dataclass(frozen=True)
class Attention:
    """The two products of an attention: query and key to scores, softmax of the scores and value to output.

    Attributes:
        scores, output: the MatMul nodes. query, key: the tensors (..., channels) that the scores are made of.
    """

    scores: onnx.NodeProto
    output: onnx.NodeProto
    query: str
    key: str


def attentions(model: onnx.ModelProto) -> list[Attention]:
    """List the attentions of a graph's ViT, in the order of execution."""
    nodes = network_nodes(model) if layer_norms(model) else []
    maker = {output: node for node in nodes for output in node.output}

    def untransposed(tensor: str) -> str:
        while tensor in maker and maker[tensor].op_type in ("Transpose", "Reshape"):
            tensor = maker[tensor].input[0]
        return tensor

    found = []
    for softmax in nodes:
        if softmax.op_type == "Softmax":
            scores, readers = maker.get(softmax.input[0]), consumers(model, softmax.output[0])
            if scores is not None and [n.op_type for n in (scores, *readers)] == ["MatMul", "MatMul"]:
                found.append(Attention(scores, readers[0], *map(untransposed, scores.input)))
    return found


CONFIDENCE = "novelty"
"""Module of a network that computes its confidence, as it stands in the names of the nodes."""


def consumers(model: onnx.ModelProto, tensor: str) -> list[onnx.NodeProto]:
    """List the nodes that read a tensor."""
    return [node for node in model.graph.node if tensor in node.input]


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """List the convolutions of a graph's network; those of its confidence are not among them: its distances
    are differences of large numbers, and stay in float."""
    return [
        node
        for node in model.graph.node
        if node.op_type == "Conv" and not node.name.startswith(f"{CONFIDENCE}/")
    ]


def network_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """List the nodes of the transformer, from the input of its first to that of its last layer normalisation;
    without a transformer those of the convolutional network, up to the output of its last layer."""
    if norms := layer_norms(model):
        return _between(model, norms[0].input[0], norms[-1].input[0])
    if convs := convolutions(model):
        return _between(model, convs[0].input[0], convs[-1].output[0])
    return []


def nodes_behind(model: onnx.ModelProto, tensor: str) -> list[onnx.NodeProto]:
    """List the nodes that compute a tensor from the graph's frame."""
    return _between(model, model.graph.input[0].name, tensor)


def _between(model: onnx.ModelProto, first: str, last: str) -> list[onnx.NodeProto]:
    """List the nodes that compute the tensor `last` from the tensor `first`."""
    reached = {first}
    downstream = []
    for node in model.graph.node:  # in topological order
        if reached.intersection(node.input):
            reached.update(node.output)
            downstream.append(node)
    needed = {last}
    between = []
    for node in reversed(downstream):
        if needed.intersection(node.output):
            needed.update(node.input)
            between.append(node)
    return between[::-1]


def with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """Copy a graph and make it give inner tensors, too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    existing = {output.name for output in copy.graph.output}
    for name in dict.fromkeys(tensors):
        if name not in existing:
            copy.graph.output.append(onnx.ValueInfoProto(name=name))
    return copy


def value(tensor: onnx.TensorProto) -> NDArray[np.float32]:
    """A float constant as an array."""
    return np.asarray(numpy_helper.to_array(tensor), np.float32)


def set_constant(
    model: onnx.ModelProto, node: onnx.NodeProto, index: int, array: NDArray[np.generic]
) -> None:
    """Give a node a constant input of its own: the exporter shares equal constants between nodes."""
    name = f"{node.name}_input{index}"
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    node.input[index] = name


def drop_unused_constants(model: onnx.ModelProto) -> None:
    """Remove the constants that no node reads."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    replace(model.graph.initializer, kept)


T = TypeVar("T", bound=Message)


def replace(field: "RepeatedCompositeFieldContainer[T]", items: Iterable[T]) -> None:
    """Replace what a repeated field of a graph holds; the items may be its own."""
    copies = []
    for item in items:
        copy = type(item)()
        copy.CopyFrom(item)
        copies.append(copy)
    del field[:]
    field.extend(copies)
