"""A graph whose batch axis is free: the same numbers, one profile for TensorRT, batching in Triton."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from il2vseg.base.images import Frame
from il2vseg.export.engine import BuildError, build_engine
from il2vseg.export.graph import export_onnx
from il2vseg.export.runners import onnx_runner
from il2vseg.export.triton import write_repository
from il2vseg.models.segmenter import Segmenter
from il2vseg.runtime.backends import cuda as cuda_module
from il2vseg.runtime.backends.providers import open_engine

from .conftest import SIZE, write_export
from .fakes import FakeCuda, fake_tensorrt
from .test_engine import Frames, add_engine, for_ada, rtx

BATCH = 4


@pytest.fixture(scope="module")
def batched(segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph for up to four frames. Not to be changed."""
    path = tmp_path_factory.mktemp("batched") / "model.onnx"
    export_onnx(segmenter, path, BATCH)
    return path


def stacked(frames: list[tuple[str, Frame]], count: int) -> np.ndarray:
    return np.stack([frame for _, frame in frames[:count]])


def test_every_frame_of_a_batch_is_segmented_as_alone(batched: Path, model: Path, frames: Frames) -> None:
    labels, scores = onnx_runner(batched, 1)(stacked(frames, 3))
    alone = [onnx_runner(model, 1)(frame[None]) for _, frame in frames[:3]]
    np.testing.assert_allclose(scores, np.concatenate([s for _, s in alone]), atol=1e-5)
    assert (labels == np.concatenate([found for found, _ in alone])).mean() > 0.9999


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_the_runtime_takes_frames_one_by_one_all_the_same(
    provider: str, batched: Path, model: Path, frames: Frames, tmp_path: Path, require: Any
) -> None:
    needed = {"cpu": "onnxruntime", "openvino": "openvino"}[provider]
    from importlib.util import find_spec

    require(find_spec(needed), f"{needed} is not installed (pip install 'il2vseg[{provider}]')")
    folder = write_export(tmp_path / "export", batched, BATCH)
    labels, scores = open_engine(folder, provider, say=lambda line: None).backend(stacked(frames, 1))
    expected = onnx_runner(model, 1)(stacked(frames, 1))
    np.testing.assert_allclose(scores, expected[1], atol=1e-4)
    assert (labels == expected[0]).mean() > 0.999


def test_an_engine_has_a_profile_from_one_frame_to_all(
    batched: Path, model: Path, frames: Frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda, run = FakeCuda(), onnx_runner(batched, 1)
    trt = fake_tensorrt("10.9.0", cuda, lambda given: run(given.reshape(-1, *SIZE, 3)))
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(cuda_module, "load_bindings", lambda: cuda)
    folder = write_export(tmp_path / "export", batched, BATCH)
    add_engine(folder, frames)
    (profile,) = trt.builder.last[1].profiles
    assert profile.shapes == {"frame": ((1, *SIZE, 3), (BATCH, *SIZE, 3), (BATCH, *SIZE, 3))}
    engine = open_engine(folder, "tensorrt", say=lambda line: None)
    for count in (1, 3, 1):
        np.testing.assert_array_equal(
            engine.backend(stacked(frames, count))[0], run(stacked(frames, count))[0]
        )


def test_tensorrt_for_rtx_builds_it_with_the_profile_only(batched: Path, require: Any) -> None:
    trt = rtx(require)
    assert len(build_engine(batched, "fp32", trt, batch=BATCH, configure=for_ada(trt))) > 10_000
    with pytest.raises(BuildError):
        build_engine(batched, "fp32", trt, configure=for_ada(trt))


def test_triton_serves_one_frame_or_batches(batched: Path, export_folder: Path, tmp_path: Path) -> None:
    def config(folder: Path) -> str:
        repository = write_repository(folder)
        assert (repository / "tiny/1/model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
        return (repository / "tiny/config.pbtxt").read_text()

    fixed = config(export_folder)
    assert "max_batch_size: 0\n" in fixed
    assert "dims: [1, 96, 128, 3]" in fixed
    assert "dims: [1, 3, 6, 8]" in fixed
    free = config(write_export(tmp_path / "batched", batched, BATCH))
    assert f"max_batch_size: {BATCH}\n" in free
    assert "dynamic_batching { }" in free
    assert "dims: [96, 128, 3]" in free
    assert "dims: [3, 6, 8]" in free
