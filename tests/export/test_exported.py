"""`python -m il2vseg.evaluate --model`: an export is scored through the code that runs it on a device."""

import json
from pathlib import Path

import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.data import open_dataset
from il2vseg.evaluate import evaluate, main
from il2vseg.evaluation.exported import ExportedModel
from il2vseg.models.segmenter import Segmenter
from il2vseg.runtime.backends.providers import open_engine


def test_an_export_scores_as_its_model_does(
    segmenter: Segmenter, export_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = open_dataset("synthetic", None, "val", labelled=True, limit=3)
    expected = evaluate(segmenter, scenes)
    found = evaluate(ExportedModel(open_engine(export_folder, "cpu")), scenes)
    assert np.abs(found.confusion - expected.confusion).sum() <= 1e-3 * expected.confusion.sum()
    assert found.one_to_one.miou == pytest.approx(expected.one_to_one.miou, abs=0.1)
    assert "model.onnx (fp32) on provider cpu" in capsys.readouterr().err


def test_the_command_scores_one_file_of_an_export(export_folder: Path, tmp_path: Path) -> None:
    numbers = tmp_path / "scores.json"
    file = export_folder / "model.onnx"
    assert main(["--model", str(file), "--limit", "2", "--json", str(numbers)]) == 0
    result = json.loads(numbers.read_text())
    assert result["images"] == 2
    assert (result["model"], result["checkpoint"], result["alpha"]) == (str(file), None, pytest.approx(0.4))


def test_a_file_that_the_manifest_does_not_list_is_refused(export_folder: Path) -> None:
    (export_folder / "other.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="does not list it"):
        open_engine(export_folder / "other.onnx")


def test_a_damaged_file_is_refused(export_folder: Path) -> None:
    file = export_folder / "model.onnx"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="the manifest says"):
        open_engine(file)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "pass --checkpoint DIR or --model"),
        (["--checkpoint", "x", "--model", "y"], "pass --checkpoint DIR or --model"),
        (["--model", "x", "--alpha", "0.5"], "--alpha cannot be changed in an export"),
        (["--model", "nowhere"], "no such model"),
    ],
)
def test_wrong_settings_are_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
