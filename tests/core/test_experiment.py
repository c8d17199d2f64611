"""Grids of trainings, with the random `tiny` backbone on synthetic scenes."""

import csv
import json
from pathlib import Path

import pytest

from il2vseg import experiment
from il2vseg.evaluation import tables

FAST = ["--backbone", "tiny", "--size", "48", "64", "--limit", "6", "--steps", "4", "--seeds", "1"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))


def keep(monkeypatch: pytest.MonkeyPatch, grid: str, *names: str) -> list[experiment.Variant]:
    """Leave only some rows of a grid, for speed."""
    rows = [v for v in experiment.variants(grid) if v.name in names]
    monkeypatch.setattr(experiment, "variants", lambda _: rows)
    return rows


def test_a_grid_makes_one_table_and_is_not_computed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grid"
    keep(monkeypatch, "methods", "stego", "hp")
    assert experiment.main(["methods", *FAST, "--out", str(out)]) == 0
    table = (out / "methods.md").read_text()
    assert table in capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        v.name for v in experiment.variants("methods")
    ]
    rows = list(csv.DictReader((out / "methods.csv").open()))
    scores = json.loads((out / "runs" / "method-stego_seed0" / "scores.json").read_text())
    row = next(r for r in rows if r["variant"] == "stego")
    assert float(row["miou"]) == scores["miou"]
    assert (out / "methods.png").stat().st_size > 1000

    def fail(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(experiment, "train", fail)
    assert experiment.main(["methods", *FAST, "--out", str(out)]) == 0
    assert (out / "methods.md").read_text() == table


def test_variants_that_differ_at_prediction_share_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "alpha"
    assert len({v.run_name for v in experiment.variants("alpha")}) == 6
    names = ("training α = 0.25", "prediction α = 0", "prediction α = 1", "both α = 0.25")
    keep(monkeypatch, "alpha", *names)
    assert experiment.main(["alpha", *FAST, "--out", str(out)]) == 0
    assert len(list((out / "runs").iterdir())) == 2
    assert len(list((out / "runs" / "method-joint_seed0").glob("scores-alpha*.json"))) == 2
    assert (out / "alpha.png").stat().st_size > 1000


def test_forms_of_the_branch_are_judged_with_and_without_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "forms"
    keep(monkeypatch, "low-level", "no branch", "F_l of the paper, α = 0.5", "guided")
    assert experiment.main(["low-level", *FAST, "--out", str(out)]) == 0
    assert len(list((out / "runs").iterdir())) == 1
    rows = list(csv.DictReader((out / "low-level.csv").open()))
    assert len({row["boundary_f2"] for row in rows}) == 3
    assert len({row["consistency"] for row in rows}) == 3
    assert all(0 < float(row["consistency"]) <= 100 for row in rows)


def test_every_grid_has_rows_of_distinct_names_and_known_settings() -> None:
    from il2vseg.learning.preparation import recipe_of
    from il2vseg.train import TrainConfig

    for grid in ("methods", "ablation", "alpha", "low-level", "seeds", "backbones", "transfer"):
        rows = experiment.variants(grid)
        assert len({v.name for v in rows}) == len(rows)
        for v in rows:
            recipe_of(TrainConfig(**v.train), v.recipe)


def test_scores_kept_of_other_settings_are_not_mixed_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path)]
    assert experiment.main(["seeds", *FAST, *out]) == 0
    assert experiment.main(["seeds", *FAST, *out, "--num-classes", "4"]) == 2
    assert "other settings (num_classes)" in capsys.readouterr().err


def test_backbones_without_weights_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from il2vseg.models import weights

    monkeypatch.setattr(weights, "_from_hub", _unavailable)
    rows = [experiment.Variant("tiny", {"backbone": "tiny"})]
    rows.append(experiment.Variant("dino_vits8", {"backbone": "dino_vits8"}))
    assert [v.name for v in experiment.with_weights(rows)] == ["tiny"]
    assert "no weights for backbone 'dino_vits8'" in capsys.readouterr().err


def _unavailable(*_: object) -> None:
    from il2vseg.models.weights import _UnavailableError

    raise _UnavailableError("not here")


def test_mean_and_spread_are_shown() -> None:
    assert tables.shown([70.0, 72.0]) == "71.0 ± 1.4"
    assert tables.shown([70.0]) == "70.0"
    assert tables.shown([None]) == ""
