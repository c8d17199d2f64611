import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame, resize_frame, resize_labels
from il2vseg.runtime.backends import providers
from il2vseg.runtime.backends.providers import UnavailableError, choose_file, open_engine
from il2vseg.runtime.engine import Engine
from il2vseg.runtime.manifest import Manifest, ModelFile

from .conftest import SIZE, build_graph, reference, write_model


@pytest.fixture(scope="module")
def engine(model: Path) -> Engine:
    return open_engine(model, "cpu", say=lambda line: None)


def test_labels_are_classes_at_the_frames_own_size(engine: Engine, frames: list[Frame]) -> None:
    for frame in frames[:3]:
        result = engine(frame)
        expected = resize_labels(reference(resize_frame(frame, SIZE)), frame.shape[:2])
        assert result.labels.shape == frame.shape[:2]
        assert result.labels.dtype == np.uint8
        assert (result.labels == expected).mean() > 0.99


def test_infer_is_the_bare_graph(engine: Engine, frames: list[Frame]) -> None:
    labels, scores = engine.backend(resize_frame(frames[0], SIZE)[None])
    assert labels.shape == (1, *SIZE)
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)


def test_a_stabiliser_decides_the_labels(model: Path, frames: list[Frame]) -> None:
    def only_sky(frame: Frame, scores: np.ndarray) -> np.ndarray:
        assert (frame.shape, frame.dtype, len(scores)) == ((*SIZE, 3), np.uint8, 4)
        return np.eye(len(scores), dtype=np.float32)[2][:, None, None] * np.ones_like(scores)

    steady = open_engine(model, stabiliser=only_sky, say=lambda line: None)
    assert (steady(frames[0]).labels == 2).all()


def test_auto_says_which_provider_runs_and_only_when_asked_why(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "PROVIDERS", {n: providers.PROVIDERS[n] for n in ("cuda", "cpu")})
    lines: list[str] = []
    assert open_engine(model, say=lines.append).provider == "cpu"
    assert open_engine(model, verbose=True, say=lines.append).provider == "cpu"
    short = "model threshold: model.onnx (fp32) on provider cpu"
    assert lines == [short, f"{short} (cuda: this onnxruntime has no CUDAExecutionProvider)"]


def test_an_absent_provider_is_refused_with_what_to_do(model: Path) -> None:
    with pytest.raises(UserError, match=r"provider cuda: .*--provider auto"):
        open_engine(model, "cuda")


def test_a_provider_that_silently_falls_back_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as ort

    monkeypatch.setattr(
        ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(providers, "_has_library", lambda package, name: True)
    with pytest.raises(UserError, match="did not start"):
        open_engine(model, "cuda")


@pytest.mark.parametrize("library", ["libonnxruntime_providers_cuda.so", "onnxruntime_providers_cuda.dll"])
def test_a_providers_library_is_found_without_loading_it(tmp_path: Path, library: str) -> None:
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / library).touch()
    assert providers._has_library(tmp_path, "CUDAExecutionProvider")
    assert not providers._has_library(tmp_path, "TensorrtExecutionProvider")
    assert providers._has_library(tmp_path, "CPUExecutionProvider")


def test_a_truncated_graph_is_refused_by_its_hash(make_model: Callable[[str], Path]) -> None:
    folder = make_model("m")
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="the manifest says"):
        open_engine(folder)


def test_a_graph_that_is_no_onnx_is_refused(make_model: Callable[[str], Path]) -> None:
    folder = make_model("m")
    graph = build_graph()
    graph.graph.node[4].op_type = "NoSuchOperator"
    write_model(folder, graph)
    with pytest.raises(UserError, match="ONNX Runtime cannot load it"):
        open_engine(folder, "cpu")


def test_a_graph_of_another_shape_than_the_manifests_is_refused(tmp_path: Path) -> None:
    graph = build_graph()
    graph.graph.output[1].name = "other"
    graph.graph.node.append(helper.make_node("Identity", ["scores"], ["other"]))
    onnx.checker.check_model(graph)
    with pytest.raises(UserError, match="promises scores"):
        open_engine(write_model(tmp_path / "m", graph), "cpu")


def _manifest(model: Path, *files: tuple[str, str, str]) -> Manifest:
    from dataclasses import replace

    entries = tuple(ModelFile(f"{i}.bin", f, p, t, "0" * 64) for i, (f, p, t) in enumerate(files))  # type: ignore[arg-type]
    return replace(Manifest.load(model), files=entries)


@pytest.mark.parametrize(
    ("provider", "expected"),
    [("cpu", "2.bin"), ("openvino", "2.bin"), ("tensorrt", "1.bin"), ("cuda", "1.bin")],
)
def test_each_provider_takes_the_file_made_for_it(model: Path, provider: str, expected: str) -> None:
    manifest = _manifest(
        model,
        ("onnx", "fp32", "any"),
        ("onnx", "fp16", "any"),
        ("onnx", "int8", "cpu"),
        ("onnx", "int8", "tensorrt"),
    )
    assert choose_file(manifest, provider).path == expected


def test_a_precision_can_be_asked_for(model: Path) -> None:
    manifest = _manifest(model, ("onnx", "int8", "cpu"), ("onnx", "fp32", "any"))
    assert choose_file(manifest, "cpu", "fp32").precision == "fp32"
    with pytest.raises(UnavailableError, match="no file of precision int8"):
        choose_file(manifest, "cuda", "int8")


def test_an_engine_file_is_nothing_for_onnx_runtime(model: Path) -> None:
    with pytest.raises(UnavailableError, match="it has tensorrt fp16 for tensorrt"):
        choose_file(_manifest(model, ("tensorrt", "fp16", "tensorrt")), "cpu")


def test_the_newest_export_is_the_default(tmp_path: Path, make_model: Callable[[str], Path]) -> None:
    import os

    from il2vseg.runtime.catalog import find_model, list_models

    runs = tmp_path / "runs"
    for i, name in enumerate(("runs/a/export", "runs/b")):
        folder = make_model(name)
        os.utime(folder / "manifest.json", (1000 + i, 1000 + i))
    assert find_model(None, runs) == runs / "b"
    assert [f.folder for f in list_models(runs)][:2] == [runs / "b", runs / "a/export"]
    assert find_model(runs / "a/export/manifest.json", runs) == runs / "a/export"
    shutil.rmtree(runs / "b")
    assert find_model(None, runs) == runs / "a/export"
    with pytest.raises(UserError, match="no such model"):
        find_model(tmp_path / "nowhere", runs)
