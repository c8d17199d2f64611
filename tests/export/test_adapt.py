"""Adapted prototypes in the exported graph: the numbers of the model, in float, for every runtime."""

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from il2vseg.base.images import Frame
from il2vseg.export.describe import describe
from il2vseg.export.graph import export_onnx
from il2vseg.export.half import to_half
from il2vseg.export.parity import LIMITS, compare
from il2vseg.export.runners import onnx_runner
from il2vseg.export.tensorrt_support import obstacles
from il2vseg.export.variants import to_int8
from il2vseg.models.checkpoint import assemble
from il2vseg.models.eager import EagerBackend
from il2vseg.models.segmenter import Classifier, Segmenter
from il2vseg.models.spec import AdaptSpec, LowLevelSpec
from il2vseg.models.whitening import Whitening
from il2vseg.runtime.backends.providers import open_engine
from il2vseg.runtime.manifest import Manifest, describe_file

from .conftest import make_segmenter

Frames = list[tuple[str, Frame]]
NAMES = ("water", "obstacle", "water", "unsure", "sky")
ADAPT = AdaptSpec(strength=10.0, class_weight=0.4, sure=0.4, min_tokens=1.0)


@pytest.fixture(scope="module")
def adapted() -> Segmenter:
    """Five clusters of three classes, in a scene of 48 tokens. Not to be changed."""
    plain = make_segmenter(alpha=0.15, low_level=LowLevelSpec(iterations=1, refine=0))
    spec = dataclasses.replace(plain.spec, class_names=NAMES, adapt=ADAPT)
    generator = torch.Generator().manual_seed(3)
    classifier = Classifier(Whitening(plain.backbone.dim, 8, spec.centre), len(NAMES))
    classifier.whitening.basis.normal_(generator=generator)
    classifier.set_prototypes(torch.randn(len(NAMES), 64, generator=generator))
    return assemble(plain.backbone, classifier, spec)


@pytest.fixture(scope="module", params=[1, 4], ids=["fixed", "batched"])
def batch(request: pytest.FixtureRequest) -> int:
    """Most frames per call."""
    return int(request.param)


@pytest.fixture(scope="module")
def graph(adapted: Segmenter, batch: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its graph. Not to be changed."""
    path = tmp_path_factory.mktemp("adapted") / "model.onnx"
    export_onnx(adapted, path, batch)
    return path


def test_the_graph_computes_the_model_and_the_model_adapts(
    adapted: Segmenter, graph: Path, frames: Frames
) -> None:
    report = compare(EagerBackend(adapted), onnx_runner(graph, 1), frames, LIMITS["fp32"])
    assert report.passed, report.failures
    assert report.max_score_difference < 1e-4
    stacked = torch.from_numpy(np.stack([frame for _, frame in frames]))
    scores = adapted.predict(stacked)[1]
    for settings in (None, dataclasses.replace(ADAPT, class_weight=0.0)):
        other = assemble(
            adapted.backbone, adapted.classifier, dataclasses.replace(adapted.spec, adapt=settings)
        )
        assert float((other.predict(stacked)[1] - scores).abs().max()) > 0.01


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_agrees_is_taken_by_tensorrt_and_adapts_in_float(
    precision: str, adapted: Segmenter, graph: Path, frames: Frames, tmp_path: Path
) -> None:
    model = onnx.load(graph)
    if precision == "fp16":
        model = to_half(model)
    elif precision == "int8":
        model = to_int8(model, frames[:3], "tensorrt").model
    assert obstacles(model) == []
    inferred = onnx.shape_inference.infer_shapes(model).graph
    halves = {v.name for v in inferred.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    after = [n for n in model.graph.node if n.name.startswith("classifier")]
    assert sum(n.op_type == "MatMul" for n in after) > 6
    assert not halves.intersection(name for n in after for name in (*n.input, *n.output))
    assert not {"QuantizeLinear", "DequantizeLinear"} & {n.op_type for n in after}
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    report = compare(EagerBackend(adapted), onnx_runner(path, 1), frames[3:], LIMITS[precision])
    assert report.passed, report.failures


@pytest.mark.parametrize("batch", [1], indirect=True, scope="module")
def test_shapes_are_static(graph: Path) -> None:
    inferred = onnx.shape_inference.infer_shapes(onnx.load(graph), data_prop=True).graph
    dims = [d for v in inferred.value_info for d in v.type.tensor_type.shape.dim]
    assert dims
    assert all(d.HasField("dim_value") for d in dims)
    assert not {"Loop", "If", "Scan", "NonZero"} & {node.op_type for node in inferred.node}


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_providers_agree_and_the_manifest_says_how_it_adapts(
    provider: str, adapted: Segmenter, graph: Path, batch: int, frames: Frames, tmp_path: Path, require: Any
) -> None:
    require(find_spec({"cpu": "onnxruntime"}.get(provider, provider)), f"{provider} is not installed")
    (tmp_path / "model.onnx").write_bytes(graph.read_bytes())
    files = (describe_file(tmp_path, "model.onnx", format="onnx", precision="fp32"),)
    describe(adapted, "adapted", files, batch).save(tmp_path)
    manifest = Manifest.load(tmp_path)
    assert manifest.adapt == {"strength": 10.0, "class_weight": 0.4, "sure": 0.4, "min_tokens": 1.0}
    assert describe(make_segmenter(), "fixed", files).adapt == {}
    engine = open_engine(tmp_path, provider, say=lambda line: None)
    for _, frame in frames[:2]:
        labels, scores = adapted.predict(torch.from_numpy(frame)[None])
        found = engine.backend(frame[None])
        np.testing.assert_allclose(found[1], scores.numpy(), atol=1e-3)
        assert (found[0] == labels.numpy()).mean() > 0.999
