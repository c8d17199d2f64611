"""A student exports like everything else: small files, FP16 and INT8 for both families of runtimes."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame, resize_frame
from il2vseg.calib.convolutions import quantise_convolutions
from il2vseg.calib.qdq import CPU, TENSORRT, Convention
from il2vseg.data import open_dataset
from il2vseg.export.engine import build_engine
from il2vseg.export.graph import export_onnx
from il2vseg.export.half import half_nodes, to_half
from il2vseg.export.parity import LIMITS, compare
from il2vseg.export.runners import onnx_runner
from il2vseg.export.tensorrt_support import obstacles
from il2vseg.export.variants import to_int8
from il2vseg.models.eager import EagerBackend
from il2vseg.models.spec import LowLevelSpec, ModelSpec
from il2vseg.models.student import METHOD, Student, finish
from tests.export.test_engine import for_ada, rtx
from tests.runtime.conftest import build_graph

SIZE = (64, 96)
NAMES = ("water", "obstacle", "sky")
SPEC = ModelSpec(
    METHOD, "mobilenetv4_small_050", "random", SIZE, NAMES, 0.0, 1.0, False, LowLevelSpec(refine=0), "none"
)


@pytest.fixture(scope="module")
def frames() -> list[tuple[str, Frame]]:
    scenes = open_dataset("synthetic", None, "val", limit=6)
    return [(sample.name, resize_frame(sample.frame, SIZE)) for sample in scenes]


@pytest.fixture(scope="module")
def student(frames: list[tuple[str, Frame]]) -> Student:
    """A network that has learned brightness: random ones put everything into one class."""
    torch.manual_seed(0)
    random.seed(0)
    network = Student(SPEC).train()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    images = torch.from_numpy(np.stack([f for _, f in frames])).float().flip(-1).permute(0, 3, 1, 2) / 255
    grey = torch.nn.functional.adaptive_avg_pool2d(images.mean(1), network.grid)
    low, high = grey.quantile(1 / 3), grey.quantile(2 / 3)
    target = (grey > low).long() + (grey > high).long()
    for _ in range(25):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network.logits(images), target).backward()
        optimizer.step()
    return finish(network)


@pytest.fixture(scope="module")
def model(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "model.onnx"
    export_onnx(student, path)
    return path


def test_kernels_are_stored_in_half_and_nothing_is_lost(
    student: Student, model: Path, frames: list[tuple[str, Frame]]
) -> None:
    graph = onnx.load(model).graph
    kernels = [t for t in graph.initializer if len(t.dims) == 4]
    # Those that read the frame's one channel of bytes are scaled to them, which half precision cannot hold.
    in_float = [t for t in kernels if t.data_type != TensorProto.FLOAT16]
    assert [(len(kernels) - len(in_float), {t.dims[1] for t in in_float})] == [(len(kernels) - 2, {1})]
    weights = sum(p.numel() for p in student.parameters())
    assert model.stat().st_size < 2.5 * weights
    report = compare(EagerBackend(student), onnx_runner(model, 1), frames, LIMITS["fp32"])
    assert report.passed, report.failures


def test_half_precision_covers_the_network(model: Path, frames: list[tuple[str, Frame]]) -> None:
    proto = onnx.load(model)
    chosen = half_nodes(proto)
    in_float = [n.name for n in proto.graph.node if n.op_type == "Conv" and n.output[0] not in chosen]
    # What reads the frame itself is outside: the network starts behind the first layer's input.
    assert all("edges" in name for name in in_float)
    half = model.with_name("half.onnx")
    onnx.save(to_half(proto), half)
    report = compare(onnx_runner(model, 1), onnx_runner(half, 1), frames, LIMITS["fp16"])
    assert report.passed, report.failures


@pytest.mark.parametrize("convention", [CPU, TENSORRT], ids=["cpu", "tensorrt"])
def test_int8_agrees_on_both_families(
    convention: Convention, model: Path, frames: list[tuple[str, Frame]]
) -> None:
    proto = onnx.load(model)
    quantised = quantise_convolutions(proto, frames[:3], convention)
    graph = quantised.model.graph
    made = {output: node.op_type for node in graph.node for output in node.output}
    kernels = [made.get(node.input[1]) for node in graph.node if node.op_type == "Conv"]
    assert kernels == ["DequantizeLinear"] * (len(kernels) - 1) + [None]
    stored = {t.data_type for t in graph.initializer if len(t.dims) == 4}
    assert (TensorProto.INT8 in stored) != convention.paired
    assert len(quantised.float_nodes) == 1
    path = model.with_name(f"int8-{convention.signed}.onnx")
    onnx.save(quantised.model, path)
    report = compare(onnx_runner(model, 1), onnx_runner(path, 1), frames[3:], LIMITS["int8"])
    assert report.passed, report.failures


def test_int8_of_a_graph_without_layers_is_refused(frames: list[tuple[str, Frame]]) -> None:
    with pytest.raises(UserError, match="fp32"):
        quantise_convolutions(build_graph(), frames, CPU)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_takes_a_student(
    precision: Any, model: Path, frames: list[tuple[str, Frame]], tmp_path: Path, require: Any
) -> None:
    path, proto = tmp_path / "model.onnx", onnx.load(model)
    if precision == "fp16":
        proto = to_half(proto)
    elif precision == "int8":
        proto = to_int8(proto, frames[:2], "tensorrt").model
    assert obstacles(proto) == []
    trt = rtx(require)
    onnx.save(proto, path)
    assert len(build_engine(path, precision, trt, configure=for_ada(trt))) > 10_000
