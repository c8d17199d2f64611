"""An exported model on this machine: every provider that is here is compared, the others are named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from il2vseg.base.images import Frame
from il2vseg.export.cli import main
from il2vseg.export.variants import to_int8
from il2vseg.runtime.backends.providers import PROVIDERS, Provider, UnavailableError
from il2vseg.runtime.manifest import Manifest, ModelFile, describe_file

from .conftest import SIZE

Frames = list[tuple[str, Frame]]


@pytest.fixture
def with_int8(export_folder: Path, frames: Frames) -> Path:
    """An exported model with an INT8 file for CPUs."""
    proto = to_int8(onnx.load(export_folder / "model.onnx"), frames[:2], "cpu").model
    onnx.save(proto, export_folder / "model.int8-cpu.onnx")
    entry = describe_file(export_folder, "model.int8-cpu.onnx", format="onnx", precision="int8", target="cpu")
    manifest = Manifest.load(export_folder)
    Manifest(**{**vars(manifest), "files": (*manifest.files, entry)}).save(export_folder)
    return export_folder


def test_every_provider_that_is_here_is_compared(
    with_int8: Path, footage: Path, require: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    from importlib.util import find_spec

    require(find_spec("openvino"), "openvino is not installed (pip install 'il2vseg[openvino]')")
    assert main(["--model", str(with_int8), "--verify", str(footage)]) == 0
    report = json.loads((with_int8 / "device.json").read_text())
    assert set(report["providers"]) >= {"openvino int8", "openvino fp32", "cpu int8"}
    assert all(r["passed"] and r["frames"] == 6 for r in report["providers"].values())
    assert report["providers"]["cpu int8"]["max_score_difference"] > 0
    assert {*(name.split()[0] for name in report["providers"]), *report["absent"]} == set(PROVIDERS)
    assert cv2.imread(str(with_int8 / "device.png")).shape[1] == 4 * SIZE[1]
    said = capsys.readouterr().err
    assert "cpu int8" in said
    assert all(f"not available: {provider}: " in said for provider in report["absent"])


def test_a_provider_that_computes_something_else_fails_the_check(
    with_int8: Path,
    footage: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = PROVIDERS["cpu"]

    class Wrong:
        def __init__(self, backend: Any) -> None:
            self.backend = backend

        def __call__(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            labels, scores = self.backend(frames)
            return (labels + 1) % 3, scores

        def close(self) -> None:
            self.backend.close()

    def open_wrong(*arguments: Any) -> Any:
        return Wrong(real.open(*arguments))

    wrong = Provider(real.formats, real.target, real.precisions, open_wrong)
    monkeypatch.setattr("il2vseg.export.device.PROVIDERS", {"cpu": wrong})
    out = tmp_path / "report"
    assert main(["--model", str(with_int8), "--verify", str(footage), "--out", str(out)]) == 1
    assert "parity failed: cpu int8: labels agree on" in capsys.readouterr().err.splitlines()[-1]
    assert sorted(file.name for file in out.iterdir()) == ["device.json", "device.png"]


def test_every_reason_is_given_of_a_provider_that_runs_none_of_its_files(
    with_int8: Path, footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path, manifest: Manifest, entry: ModelFile, threads: int | None) -> Any:
        raise UnavailableError(f"no {entry.precision} here")

    absent = Provider(("onnx",), "cpu", ("int8", "fp32"), refuse)
    monkeypatch.setattr("il2vseg.export.device.PROVIDERS", {"openvino": absent, "cpu": PROVIDERS["cpu"]})
    assert main(["--model", str(with_int8), "--verify", str(footage), "--out", str(tmp_path / "report")]) == 0
    report = json.loads((tmp_path / "report/device.json").read_text())
    assert report["absent"] == {"openvino": "no int8 here; no fp32 here"}


def test_nothing_to_compare_is_one_line(
    export_folder: Path, footage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("il2vseg.export.device.PROVIDERS", {"cpu": PROVIDERS["cpu"]})
    assert main(["--model", str(export_folder), "--verify", str(footage)]) == 2
    assert "there is no provider to compare with" in capsys.readouterr().err.splitlines()[-1]
