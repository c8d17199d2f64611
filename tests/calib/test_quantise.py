"""INT8: ranges, rounding, rescaling and the choice of layers that stay in float, on small graphs."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame
from il2vseg.calib.layers import linears
from il2vseg.calib.observe import Observation, observe, session
from il2vseg.calib.qdq import CPU, TENSORRT, Convention, insert_qdq
from il2vseg.calib.quantise import quantise, rounded_weights, sensitivity
from il2vseg.calib.rounding import round_weight
from il2vseg.calib.smooth import smooth

SIZE, WIDTH, LAYERS = (8, 8), 256, 4


def network(outlier: float = 1.0, spoiled: float = 1.0) -> onnx.ModelProto:
    """A frame's pixels through LayerNorm, linear and ReLU layers to two classes.

    Args:
        outlier: factor of one channel of every layer norm. spoiled: spreads the channels of the third
            layer's activation, which nothing can rescale.
    """
    rng = np.random.default_rng(0)
    constants: dict[str, NDArray[np.generic]] = {
        "embed": rng.normal(0, 0.01, (3, WIDTH)).astype(np.float32),
        "classes": rng.normal(0, 1, (WIDTH, 2)).astype(np.float32),
        "shape": np.array([1, *SIZE, 2], np.int64),
        "flat": np.array([1, SIZE[0] * SIZE[1], 3], np.int64),
        "spread": np.exp(np.log(spoiled) * rng.random(WIDTH)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["frame"], ["pixels"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "flat"], ["rows"], "flatten"),
        helper.make_node("MatMul", ["rows", "embed"], ["x0"], "embedding"),
    ]
    for i in range(LAYERS):
        gain = np.ones(WIDTH, np.float32)
        gain[7] = outlier
        constants |= {f"gain{i}": gain, f"shift{i}": np.zeros(WIDTH, np.float32)}
        constants[f"w{i}"] = rng.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32)
        constants[f"b{i}"] = rng.normal(0, 0.1, WIDTH).astype(np.float32)
        norm = f"n{i}"
        nodes.append(
            helper.make_node("LayerNormalization", [f"x{i}", f"gain{i}", f"shift{i}"], [norm], f"norm{i}")
        )
        if i == 2:
            nodes.append(helper.make_node("Mul", [norm, "spread"], ["spoiled"], "spoil"))
            norm = "spoiled"
        nodes += [
            helper.make_node("MatMul", [norm, f"w{i}"], [f"y{i}"], f"linear{i}"),
            helper.make_node("Add", [f"y{i}", f"b{i}"], [f"z{i}"], f"bias{i}"),
            helper.make_node("Relu", [f"z{i}"], [f"r{i}"], f"relu{i}"),
            helper.make_node("Add", [f"x{i}", f"r{i}"], [f"x{i + 1}"], f"residual{i}"),
        ]
    nodes += [
        helper.make_node("MatMul", [f"x{LAYERS}", "classes"], ["logits"], "classifier"),
        helper.make_node("Reshape", ["logits", "shape"], ["scores"], "unflatten"),
        helper.make_node("ArgMax", ["scores"], ["ids"], "argmax", axis=3, keepdims=0),
        helper.make_node("Cast", ["ids"], ["labels"], "cast_labels", to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, *SIZE, 3])],
        [
            helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, *SIZE]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, *SIZE, 2]),
        ],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="module")
def frames() -> list[tuple[str, Frame]]:
    rng = np.random.default_rng(1)
    return [(str(i), rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)) for i in range(4)]


def scores(model: onnx.ModelProto, frames: list[tuple[str, Frame]]) -> NDArray[np.float32]:
    run = session(model, ["scores"])
    return np.concatenate([run(f[None])[0] for _, f in frames])


def activations(model: onnx.ModelProto) -> list[str]:
    return [layer.activation for layer in linears(model)]


def int8(
    model: onnx.ModelProto,
    observed: dict[str, Observation],
    convention: Convention,
    keep_float: Collection[str] = (),
) -> onnx.ModelProto:
    return insert_qdq(model, observed, rounded_weights(model, observed), convention, keep_float)


def error(model: onnx.ModelProto, exact: NDArray[np.float32], frames: list[tuple[str, Frame]]) -> float:
    return float(np.abs(scores(model, frames) - exact).mean())


def test_only_large_matrices_are_linear_layers() -> None:
    assert [layer.node for layer in linears(network())] == [f"linear{i}" for i in range(LAYERS)]


@given(
    low=st.floats(-50, 0, width=32), high=st.floats(0, 50, width=32), share=st.floats(0, 1, width=32),
    convention=st.sampled_from([CPU, TENSORRT]),
)  # fmt: skip
@example(low=0.0, high=1e-45, share=0.0, convention=CPU)
@example(low=-1e-45, high=0.0, share=0.0, convention=TENSORRT)
@settings(max_examples=100)
def test_rounding_errs_by_half_a_step_at_most_and_keeps_zero(
    low: float, high: float, share: float, convention: Convention
) -> None:
    scale, _ = convention.parameters(low, high)
    x = np.array([low + share * (high - low), 0.0], np.float32)
    rounded = convention.round_trip(x, low, high)
    step = float(scale)
    assert abs(rounded[0] - x[0]) <= step * 1.01 + 1e-6  # the zero point is rounded, too
    assert rounded[1] == 0.0


@given(seed=st.integers(0, 100), columns=st.integers(1, 6))
@settings(max_examples=30)
def test_weights_are_rounded_by_output_channel(seed: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    w = (rng.normal(size=(12, columns)) * 10.0 ** rng.integers(-4, 4, columns)).astype(np.float32)
    integers, scale = round_weight(w)
    assert (np.abs(integers * scale - w) <= 0.5001 * scale).all()
    assert (np.abs(integers).max(0) == 127).all()


def test_a_column_of_zeros_stays_zero() -> None:
    integers, scale = round_weight(np.zeros((4, 2), np.float32))
    assert not integers.any()
    assert scale.tolist() == [1.0, 1.0]


@given(seed=st.integers(0, 100), size=st.integers(1, 150), shared=st.floats(0, 10))
@settings(max_examples=30)
def test_rounding_for_inputs_changes_the_output_less(seed: int, size: int, shared: float) -> None:
    rng = np.random.default_rng(seed)
    # Tokens have much in common: some directions, and a mean.
    x = rng.normal(size=(400, 4)) @ rng.normal(size=(4, size)) + shared * rng.normal(size=size)
    x = (x + 0.1 * rng.normal(size=(400, size))).astype(np.float32)
    # Greedy rounding may lose a single column to nearest rounding, by chance; not the sum over many.
    w = rng.normal(size=(size, 64)).astype(np.float32)

    def change(gram: NDArray[np.float32] | None) -> float:
        integers, scale = round_weight(w, gram)
        assert (np.abs(integers.astype(int)) <= 127).all()
        return float(np.square(x @ (integers * scale) - x @ w).sum())

    assert change(x.T @ x) <= 1.05 * change(None)
    if size > 30:
        assert change(x.T @ x) < 0.5 * change(None)


@pytest.mark.parametrize("size", [5, 64, 65, 130])
def test_rounding_for_inputs_is_that_of_the_paper_row_by_row(size: int) -> None:
    """GPTQ without blocks: every row's error is made good by all rows to come."""
    rng = np.random.default_rng(size)
    w = rng.normal(size=(size, 3)).astype(np.float32)
    inputs = rng.normal(size=(200, size)) @ rng.normal(size=(size, size))
    gram = (inputs.T @ inputs).astype(np.float32).astype(np.float64)
    scale = np.abs(w).max(0) / 127
    damped = gram + 0.01 * np.diag(gram).mean() * np.eye(size)
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, expected = w.astype(np.float64), np.zeros(w.shape)
    for j in range(size):
        expected[j] = np.clip(np.rint(left[j] / scale), -127, 127)
        error = (left[j] - expected[j] * scale) / upper[j, j]
        for later in range(j + 1, size):
            left[later] -= upper[j, later] * error
    integers, found = round_weight(w, gram.astype(np.float32))
    np.testing.assert_allclose(found, scale)
    np.testing.assert_array_equal(integers, expected)


def test_inputs_without_common_directions_leave_nearest_rounding() -> None:
    w = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    for gram in (None, np.zeros((100, 100), np.float32), 3 * np.eye(100, dtype=np.float32)):
        integers, scale = round_weight(w, gram)
        np.testing.assert_array_equal(integers, np.rint(w / scale))


def test_the_range_holds_every_value_and_zero() -> None:
    rng = np.random.default_rng(0)
    seen = Observation()
    for outlier in (100.0, 3.0):
        values = rng.uniform(1, 2, (1, 500, 16)).astype(np.float32)
        values[0, 0, 5] = outlier
        seen.add(values, rng)
    assert (seen.low, seen.high) == (0.0, 100.0)
    assert seen.channel_max.argmax() == 5
    assert seen.channel_max[5] == 100.0


@pytest.mark.parametrize("convention", [CPU, TENSORRT])
def test_quantised_graph_stays_near_and_names_its_types(
    convention: Convention, frames: list[tuple[str, Frame]]
) -> None:
    model = network()
    exact = scores(model, frames)
    quantised = int8(model, observe(model, activations(model), frames), convention)
    onnx.checker.check_model(quantised, full_check=True)
    assert 0 < error(quantised, exact, frames) < 0.02 * np.abs(exact).mean()
    zeros = [numpy_helper.to_array(t) for t in quantised.graph.initializer if t.name.endswith("_zero_point")]
    assert {z.dtype.name for z in zeros} == ({"int8"} if convention.signed else {"int8", "uint8"})
    if convention.signed:  # what TensorRT's parser requires
        assert not any(z.any() for z in zeros)
    if not convention.paired:
        assert len(quantised.SerializeToString()) < 0.4 * len(model.SerializeToString())


def test_onnx_runtime_really_multiplies_integers(frames: list[tuple[str, Frame]], tmp_path: Path) -> None:
    import onnxruntime as ort

    model = network()
    quantised = int8(model, observe(model, activations(model), frames), CPU)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(quantised.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert ops.count("MatMulIntegerToFloat") == LAYERS


def test_layers_can_stay_in_float(frames: list[tuple[str, Frame]]) -> None:
    model = network()
    observed = observe(model, activations(model), frames)
    kept = int8(model, observed, CPU, [f"linear{i}" for i in range(LAYERS)])
    np.testing.assert_array_equal(scores(kept, frames), scores(model, frames))


def test_smoothing_changes_nothing_in_float_and_helps_int8(frames: list[tuple[str, Frame]]) -> None:
    model = network(outlier=80.0)
    before = model.SerializeToString()
    exact = scores(model, frames)
    observed = observe(model, activations(model), frames)
    smoothed = smooth(model, observed)
    assert model.SerializeToString() == before
    np.testing.assert_allclose(scores(smoothed, frames), exact, rtol=1e-3, atol=1e-3)
    plain = error(int8(model, observed, TENSORRT), exact, frames)
    rescaled = observe(smoothed, activations(smoothed), frames)
    better = error(int8(smoothed, rescaled, TENSORRT), exact, frames)
    assert better < 0.7 * plain


def test_the_layer_that_cannot_bear_int8_is_found_and_kept(frames: list[tuple[str, Frame]]) -> None:
    model = network(spoiled=300)
    observed = observe(model, activations(model), frames)
    noise = sensitivity(model, observed, rounded_weights(model, observed), TENSORRT)
    assert max(noise, key=lambda node: noise[node]) == "linear2"
    lines: list[str] = []
    # Without smoothing, which would mend the layer.
    result = quantise(model, frames, TENSORRT, smoothing=0, goal=1.1, progress=lines.append)
    assert result.float_nodes == ["linear2"]  # a quarter of four layers: an unreachable goal ends there
    assert result.describe()["float_nodes"] == ["linear2"]
    assert "1 of 4 layers in float" in lines[-1]


def test_a_reached_goal_keeps_every_layer_in_int8(frames: list[tuple[str, Frame]]) -> None:
    result = quantise(network(), frames, CPU, goal=0.5)
    assert result.float_nodes == []
    assert result.agreement >= 0.5


def test_a_model_without_large_layers_is_refused(frames: list[tuple[str, Frame]]) -> None:
    from tests.runtime.conftest import build_graph

    with pytest.raises(UserError, match="fp32"):
        quantise(build_graph(), frames, CPU)
