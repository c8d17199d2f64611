"""Grids of trainings, with the random `tiny` backbone on synthetic scenes."""

import csv
import json
from pathlib import Path

import pytest

from il2vseg import experiment

FAST = ["--backbone", "tiny", "--size", "48", "64", "--limit", "6", "--steps", "4", "--seeds", "1"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))


def test_a_grid_makes_one_table_and_is_not_computed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grid"
    assert experiment.main([*FAST, "--grid", "methods", "--out", str(out)]) == 0
    table = (out / "results.md").read_text()
    assert table in capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        v.name for v in experiment.GRIDS["methods"]
    ]
    rows = list(csv.DictReader((out / "results.csv").open()))
    scores = json.loads((out / "method-stego_seed0" / "scores.json").read_text())
    row = next(r for r in rows if r["variant"] == "stego")
    assert float(row["miou"]) == scores["miou"]
    assert (out / "results.png").stat().st_size > 1000

    def fail(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(experiment, "train", fail)
    assert experiment.main([*FAST, "--grid", "methods", "--out", str(out)]) == 0
    assert (out / "results.md").read_text() == table


def test_variants_that_differ_at_prediction_share_a_training(tmp_path: Path) -> None:
    out = tmp_path / "alpha"
    assert experiment.main([*FAST, "--grid", "alpha", "--out", str(out)]) == 0
    assert [p.name for p in out.iterdir() if p.is_dir()] == ["default_seed0"]
    assert len(list((out / "default_seed0").glob("scores-alpha*.json"))) == len(experiment.GRIDS["alpha"])


def test_mean_and_spread_are_shown() -> None:
    assert experiment.shown([70.0, 72.0]) == "71.0 ± 1.4"
    assert experiment.shown([70.0]) == "70.0"
    assert experiment.shown([None]) == ""
