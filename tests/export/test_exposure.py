"""Even exposure in the exported graph: the numbers of the model."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from il2vseg.base.images import Frame
from il2vseg.export.graph import export_onnx
from il2vseg.export.half import to_half
from il2vseg.export.parity import LIMITS, compare
from il2vseg.export.runners import onnx_runner
from il2vseg.export.tensorrt_support import obstacles
from il2vseg.models.backbones import build_backbone
from il2vseg.models.checkpoint import assemble, load_checkpoint, save_checkpoint
from il2vseg.models.eager import EagerBackend
from il2vseg.models.segmenter import Segmenter
from il2vseg.models.spec import AdaptSpec

from .conftest import SIZE, make_segmenter


@pytest.fixture(scope="module", params=[False, True], ids=["all", "dark only"])
def evening(request: pytest.FixtureRequest) -> Segmenter:
    """A model that evens the exposure of its images out. Not to be changed."""
    plain = make_segmenter(backbone=build_backbone("tiny", SIZE, None, True, request.param))
    spec = dataclasses.replace(
        plain.spec, even_exposure=True, dark_only=request.param, adapt=AdaptSpec(strength=10.0)
    )
    return assemble(plain.backbone, plain.classifier, spec)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_computes_the_model_in_the_dark_too(
    precision: str, evening: Segmenter, frames: list[tuple[str, Frame]], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(evening, path)
    if precision == "fp16":
        model = to_half(onnx.load(path))
        assert obstacles(model) == []
        onnx.save(model, path)
    dark = [(f"dark {name}", np.asarray(frame // 12)) for name, frame in frames[:2]]
    report = compare(EagerBackend(evening), onnx_runner(path, 1), [*frames[:2], *dark], LIMITS[precision])
    assert report.passed, report.failures


def test_a_checkpoint_keeps_it(evening: Segmenter, frames: list[tuple[str, Frame]], tmp_path: Path) -> None:
    save_checkpoint(tmp_path, evening.classifier, evening.spec)
    loaded = load_checkpoint(tmp_path)
    frame = torch.from_numpy(frames[0][1])[None]
    assert torch.equal(loaded.predict(frame)[1], evening.predict(frame)[1])
