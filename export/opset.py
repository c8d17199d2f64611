"""Opset 18, which PyTorch's exporter writes, in terms of opset 17, the newest that TensorRT 8.6 reads.

TensorRT 8.6 (JetPack 6.0) parses newer files, too, but takes no notice of the axes that opset 18 gives to
ReduceMean and its like as an input: it reduces over all.
"""

from typing import Any

import onnx
from onnx import helper, numpy_helper

from il2vseg.calib.layers import drop_unused_constants, initializers, replace

OPSET = 17

NEW_SETTINGS: dict[str, dict[str, Any]] = {
    "Pad": {},
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"},
    "Split": {"num_outputs": ...},
}
"""Attributes that opset 18 added, by operator, with the value that opset 17 can do without; ...: any."""


def lower_opset(model: onnx.ModelProto) -> None:
    """Rewrite a graph of opset 18 in opset 17, in place.

    Raises:
        ValueError: a node does what opset 17 cannot.
    """
    constants = initializers(model)
    for node in model.graph.node:
        if onnx.defs.get_schema(node.op_type, 18).since_version <= OPSET:
            continue
        if node.op_type.startswith("Reduce"):
            _move_axes(node, constants)
        elif node.op_type not in NEW_SETTINGS or not _drop_settings(node, NEW_SETTINGS[node.op_type]):
            raise ValueError(f"{node.name}: opset {OPSET} cannot do what this {node.op_type} does")
    drop_unused_constants(model)
    replace(model.opset_import, [helper.make_opsetid("", OPSET)])


def _move_axes(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> None:
    """Make the axes of a reduction, a constant input, an attribute."""
    axes = [numpy_helper.to_array(constants[name]).tolist() for name in node.input[1:]]
    del node.input[1:]
    kept = [a for a in node.attribute if a.name != "noop_with_empty_axes"]
    replace(node.attribute, [*kept, *(helper.make_attribute("axes", values) for values in axes)])


def _drop_settings(node: onnx.NodeProto, new: dict[str, Any]) -> bool:
    """Remove the attributes that opset 17 does not know; False where that would change what the node does."""
    old = onnx.defs.get_schema(node.op_type, OPSET)
    if len(node.input) > old.max_input:
        return False
    added = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name not in old.attributes}
    replace(node.attribute, [a for a in node.attribute if a.name in old.attributes])
    return all(name in new and new[name] in (..., value) for name, value in added.items())
