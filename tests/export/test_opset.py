"""Graphs of opset 18 in opset 17: the same numbers, or a refusal."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from il2vseg.calib.observe import session
from il2vseg.export.opset import OPSET, lower_opset

X = np.random.default_rng(0).normal(size=(1, 3, 4, 6)).astype(np.float32)


def graph(op: str, constants: dict[int, np.ndarray], outputs: int = 1, **attributes: Any) -> onnx.ModelProto:
    """One operator of opset 18 on "frame", (1, 3, 4, 6), with constant inputs at the given places."""
    names = ["frame", *("" for _ in range(max(constants, default=0)))]
    for place in constants:
        names[place] = f"constant{place}"
    results = [f"y{i}" for i in range(outputs)]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(op, names, results, "node", **attributes)],
            "graph",
            [helper.make_tensor_value_info("frame", TensorProto.FLOAT, X.shape)],
            [helper.make_empty_tensor_value_info(y) for y in results],
            [numpy_helper.from_array(v, f"constant{k}") for k, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model)
    return model


AXES = np.array([2, 3], np.int64)


@pytest.mark.parametrize(
    "model",
    [
        *(graph(op, {1: AXES}, keepdims=k) for op in ("ReduceMean", "ReduceL2", "ReduceMax") for k in (0, 1)),
        graph("ReduceMean", {}),
        graph("ReduceSum", {1: AXES}),
        graph("Split", {}, 3, axis=1, num_outputs=3),
        graph("Split", {1: np.array([1, 2], np.int64)}, 2, axis=1),
        graph("Pad", {1: np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)}, mode="edge"),
        graph("Resize", {3: np.array([1, 3, 8, 9], np.int64)}, mode="linear", antialias=0),
        graph("Relu", {}),
    ],
    ids=lambda model: model.graph.node[0].op_type,
)
def test_the_numbers_stay_the_same(model: onnx.ModelProto) -> None:
    before = session(model)(X)
    lower_opset(model)
    onnx.checker.check_model(model, full_check=True)
    assert [o.version for o in model.opset_import] == [OPSET]
    for expected, found in zip(before, session(model)(X), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "model",
    [
        graph("Resize", {3: np.array([1, 3, 2, 3], np.int64)}, mode="linear", antialias=1),
        graph("Resize", {3: np.array([2, 3], np.int64)}, mode="linear", axes=[2, 3]),
        graph("Pad", {1: np.array([1, 1], np.int64), 3: np.array([3], np.int64)}),
        graph("Mish", {}),
    ],
    ids=["antialias", "resize-axes", "pad-axes", "operator"],
)
def test_what_opset_17_cannot_do_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(ValueError, match=f"node: opset {OPSET} cannot"):
        lower_opset(model)
