"""The static check of graphs for TensorRT: ours pass it, and each thing that it looks for is found."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from il2vseg.base.images import Frame, resize_frame
from il2vseg.export.graph import export_onnx
from il2vseg.export.half import to_half
from il2vseg.export.parity import LIMITS, compare
from il2vseg.export.runners import onnx_runner
from il2vseg.export.tensorrt_support import obstacles
from il2vseg.export.variants import to_int8
from il2vseg.models.backbones import BACKBONES, build_backbone
from il2vseg.models.eager import EagerBackend
from il2vseg.models.spec import LowLevelSpec
from il2vseg.runtime.catalog import bundled

from .conftest import make_segmenter

Frames = list[tuple[str, Frame]]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_transformer_passes_in_every_precision(precision: str, model: Path, frames: Frames) -> None:
    proto = onnx.load(model)
    if precision == "fp16":
        proto = to_half(proto)
    elif precision == "int8":
        proto = to_int8(proto, frames[:2], "tensorrt").model
    assert obstacles(proto) == []


@pytest.mark.parametrize(
    ("form", "batch"),
    [
        (LowLevelSpec(iterations=1, space="rgb", xy_weight=0, prior="none", sigma=0.1, refine=0), 1),
        (LowLevelSpec(iterations=1, space="rgb", xy_weight=0, prior="none", scale=2, refine=0), 4),
        (LowLevelSpec(iterations=1, m=1.7, prior="pixel", refine=1), 4),
    ],
    ids=["paper", "fine", "refined"],
)
def test_every_form_of_the_low_level_branch_passes(form: LowLevelSpec, batch: int, tmp_path: Path) -> None:
    export_onnx(make_segmenter(low_level=form), tmp_path / "model.onnx", batch)
    assert obstacles(onnx.load(tmp_path / "model.onnx")) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, spec in BACKBONES.items() if not spec.random])
def test_every_backbone_passes_and_computes_the_same(name: str, frames: Frames, tmp_path: Path) -> None:
    import timm

    spec, weights = BACKBONES[name], tmp_path / "weights.safetensors"
    save_file(timm.create_model(spec.timm_name, num_classes=0).state_dict(), weights)
    backbone = build_backbone(name, (4 * spec.patch, 5 * spec.patch), weights)
    segmenter = make_segmenter(backbone=backbone)
    export_onnx(segmenter, tmp_path / "model.onnx")
    assert obstacles(onnx.load(tmp_path / "model.onnx")) == []
    small = [(name, resize_frame(frame, backbone.size)) for name, frame in frames[:2]]
    runners = EagerBackend(segmenter), onnx_runner(tmp_path / "model.onnx", 1)
    report = compare(*runners, small, LIMITS["fp32"])
    assert report.passed, report.failures


@pytest.mark.parametrize("folder", bundled(), ids=lambda folder: folder.name)
def test_the_models_in_the_package_pass(folder: Path) -> None:
    assert obstacles(onnx.load(folder / "model.onnx")) == []


def graph(
    *nodes: NodeProto, kind: int = TensorProto.FLOAT, opset: int = 17, **constants: np.ndarray
) -> onnx.ModelProto:
    """Nodes from "x" (1, 2, 3) to "y"."""
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("x", kind, [1, 2, 3])],
            [helper.make_empty_tensor_value_info("y")],
            [numpy_helper.from_array(v, k) for k, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
    )
    return onnx.shape_inference.infer_shapes(model)


def node(op: str, *inputs: str, output: str = "y", **attributes: object) -> NodeProto:
    return helper.make_node(op, inputs, [output], f"my_{op}", **attributes)


SCALE, ZERO = np.float32(0.1).reshape(()), np.zeros((), np.int8)
ONES = np.ones((1, 2, 3), np.float32)


def cast(kind: int, *to: int) -> onnx.ModelProto:
    """The input, cast to one type after the other."""
    names = ["x", *(f"a{i}" for i in range(len(to) - 1)), "y"]
    return graph(
        *(node("Cast", a, output=b, to=t) for a, b, t in zip(names, names[1:], to, strict=False)), kind=kind
    )


def shaped_by_shape(op: str) -> onnx.ModelProto:
    return graph(node("Shape", "x", output="a"), node(op, "x", "a"))


FLOAT, INT32, UINT8 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT8
ONLY = "is UINT8, which only a cast of floats to an output"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (graph(node("Relu", "x"), opset=18), "opset 18: the newest is 17"),
        (graph(node("NonZero", "x")), "my_NonZero (NonZero): not among the operators"),
        (graph(node("Relu", "x"), kind=TensorProto.DOUBLE), "my_Relu (Relu): x is DOUBLE"),
        (graph(node("Erf", "x"), kind=INT32), "my_Erf (Erf): x is INT32"),
        (graph(node("Identity", "x"), kind=UINT8), "my_Identity (Identity): x is UINT8"),
        (cast(UINT8, INT32), "my_Cast (Cast): x is UINT8"),
        (cast(INT32, UINT8), f"my_Cast (Cast): y {ONLY}"),
        (cast(FLOAT, UINT8, FLOAT), f"my_Cast (Cast): a0 {ONLY}"),
        (shaped_by_shape("ReduceSum"), "my_ReduceSum (ReduceSum): a is not a constant"),
        (shaped_by_shape("Expand"), "a shape that is known only when it runs"),
        (graph(node("Reshape", "x", "shape"), shape=np.array([1] * 8 + [6])), "9 axes, at most 8"),
        (
            graph(node("DequantizeLinear", "q", "s", "z"), q=ONES.astype(np.int8), s=SCALE, z=ZERO),
            "my_DequantizeLinear (DequantizeLinear): q is an INT8 constant",
        ),
        (
            graph(
                node("QuantizeLinear", "x", "s", "z", output="q"),
                node("DequantizeLinear", "q", "s", "z"),
                s=SCALE,
                z=ZERO + 1,
            ),
            "my_QuantizeLinear (QuantizeLinear): its zero point is not an INT8 zero",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_obstacle_is_named(model: onnx.ModelProto, expected: str) -> None:
    found = obstacles(model)
    assert any(expected in line for line in found), found


@pytest.mark.parametrize("model", [cast(UINT8, FLOAT), cast(FLOAT, UINT8), cast(UINT8, FLOAT, UINT8)])
def test_bytes_may_come_in_and_go_out(model: onnx.ModelProto) -> None:
    assert obstacles(model) == []
