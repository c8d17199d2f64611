"""The transfer table: sites by name, one assignment per model, every pair of sites, and resuming."""

import json
from pathlib import Path

import numpy as np
import pytest

from il2vseg import experiment
from il2vseg.base.errors import UserError
from il2vseg.base.images import write_image
from il2vseg.data import open_dataset
from il2vseg.evaluation.scoring import Judgement
from il2vseg.evaluation.sites import Place, by_prefix, pair_scores, parse_sites, places_of, score_places


def test_sites_are_told_apart_by_prefix() -> None:
    found = by_prefix(["harbour_1", "river_2", "harbour_3", "0016E5_07961"])
    assert found == {"0016E5": "0016E5_", "harbour": "harbour_", "river": "river_"}
    assert parse_sites(["day=0016E5|0006R0", "dusk=0001TP"]) == {"day": "0016E5|0006R0", "dusk": "0001TP"}
    for wrong in ("day", "=x", "day="):
        with pytest.raises(UserError, match="NAME=REGEX"):
            parse_sites([wrong])


def test_a_site_of_several_splits_is_several_places() -> None:
    assert places_of({"val": ["a", "b"], "val_water": ["b"]}) == [
        Place("a", "val", "a"),
        Place("b", "val", "b, val"),
        Place("b", "val_water", "b, val_water"),
    ]


def judgement(names: tuple[str, ...], counts: list[list[int]]) -> Judgement:
    class Names:
        class_names = names

    return Judgement(Names(), np.array(counts, np.int64), (), ())  # type: ignore[arg-type]


def test_one_assignment_holds_everywhere_and_is_carried_over_by_name() -> None:
    marine, water = ("obstacle", "water", "sky"), ("not water", "water")
    scores = score_places(
        {
            "day": judgement(marine, [[90, 0, 0], [0, 90, 0], [0, 0, 90]]),
            "dusk": judgement(marine, [[0, 10, 0], [10, 0, 0], [0, 0, 10]]),
            "lake": judgement(water, [[20, 0], [0, 50], [30, 0]]),
        }
    )
    assert scores["day"] == {"miou": 100, "many_to_one": 100}
    assert scores["dusk"] == {"miou": pytest.approx(100 / 3), "many_to_one": pytest.approx(100 / 3)}
    assert scores["lake"] == {"miou": 100, "many_to_one": 100}


def test_the_mean_is_over_pairs_of_different_sites() -> None:
    places = [Place("a", "val", "a"), Place("b", "val", "b"), Place("c", "val", "c")]

    def row(*values: float) -> dict[str, dict[str, float]]:
        return {p.label: {"miou": v} for p, v in zip(places, values, strict=True)}

    found = pair_scores({"a": row(99, 10, 20), "b": row(30, 99, 40)}, places, "miou")
    assert found == {"a → b": 10, "a → c": 20, "b → a": 30, "b → c": 40, "mean": 25}


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Scenes of two sites: train, val (one site) and val_water (the other one, water alone)."""
    root = tmp_path / "set"
    samples = list(open_dataset("synthetic", None, "val", labelled=True, limit=6))
    for split, sites in (("train", "ab"), ("val", "a"), ("val_water", "b")):
        for site in sites:
            for i, sample in enumerate(samples[:3] if site == "a" else samples[3:]):
                for folder in ("images", *(["masks"] if split != "train" else [])):
                    (root / split / folder).mkdir(parents=True, exist_ok=True)
                write_image(root / split / "images" / f"{site}_{i}.png", sample.frame[::4, ::4])
                if split != "train":
                    assert sample.labels is not None
                    mask = sample.labels[::4, ::4]
                    mask = (mask == 1).astype(np.uint8) if split == "val_water" else mask
                    write_image(root / split / "masks" / f"{site}_{i}m.png", mask)
    return root


def test_the_grid_trains_on_each_site_scores_on_the_others_and_goes_on(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        experiment,
        "variants",
        lambda _: [experiment.Variant("clusters", {"method": "kmeans", "centre": True})],
    )
    out = tmp_path / "out"
    arguments = ["transfer", "--dataset", "intcatch", "--root", str(scenes), "--backbone", "tiny"]
    arguments += ["--size", "48", "64", "--seeds", "2", "--transfer-split", "val_water", "--out", str(out)]
    assert experiment.main(arguments) == 0
    header, _, row = capsys.readouterr().out.strip().splitlines()
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    assert columns == [
        "mIoU, one assignment per model",
        "a → b",
        "b → a",
        "mean",
        "mean, many to one",
        "seeds",
    ]
    assert row.startswith("| clusters | ")
    cells = sorted(p.parent.relative_to(out / "runs").as_posix() for p in out.glob("runs/**/places.json"))
    run = "method-kmeans_centre-True_seed"
    assert cells == [f"transfer/{site}/{run}{seed}" for site in "ab" for seed in (0, 1)]
    kept = out / "runs" / cells[0] / "places.json"
    assert set(json.loads(kept.read_text())) == {"a", "b"}
    config = (kept.parent / "config.yaml").read_text()
    assert "match: a_" in config
    lines = (out / "transfer.csv").read_text().splitlines()
    assert lines[0] == "variant,seed,metric,pair,score"
    assert len(lines) == 1 + 2 * 2 * 3
    kept.write_text(json.dumps({p: {"miou": 12.0, "many_to_one": 12.0} for p in "ab"}))
    assert experiment.main(arguments) == 0
    assert "clusters,0,miou,a → b,12.0" in (out / "transfer.csv").read_text()


def test_one_site_is_not_enough(scenes: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["transfer", "--dataset", "intcatch", "--root", str(scenes), "--out", str(tmp_path / "out")]
    assert experiment.main([*arguments, "--sites", "all=."]) == 2
    assert "needs two sites" in capsys.readouterr().err


def test_frames_are_matched_from_the_start_of_their_names(scenes: Path) -> None:
    assert open_dataset("intcatch", scenes, "train", match="b_[01]").names == ["b_0", "b_1"]
    with pytest.raises(UserError, match="matches none of 6"):
        open_dataset("intcatch", scenes, "train", match="_")
    with pytest.raises(UserError, match="not a regular expression"):
        open_dataset("intcatch", scenes, "train", match="(")


def test_rows_are_run_alone_and_the_table_keeps_the_others(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [experiment.Variant(name, {"method": name}) for name in ("kmeans", "stego", "never")]
    monkeypatch.setattr(experiment, "variants", lambda _: rows)
    out = tmp_path / "out"
    for name, seeds, score in (("kmeans", 2, 10.0), ("stego", 1, 20.0), ("never", 0, 0.0)):
        for site in "ab":
            for seed in range(seeds + (site == "a")):  # of the last seed one site is not done
                kept = out / "runs" / "transfer" / site / f"method-{name}_seed{seed}" / "places.json"
                kept.parent.mkdir(parents=True)
                kept.write_text(json.dumps({p: {"miou": score + seed, "many_to_one": 50.0} for p in "ab"}))
    arguments = ["transfer", "--dataset", "intcatch", "--root", str(scenes), "--transfer-split", "val_water"]
    arguments += ["--out", str(out), "--seeds", "1", "--rows"]
    assert experiment.main([*arguments, "stego"]) == 0
    assert capsys.readouterr().out.splitlines()[2:4] == [
        "| kmeans | 10.5 ± 0.7 | 10.5 ± 0.7 | 10.5 ± 0.7 | 50.0 ± 0.0 | 2 |",
        "| stego | 20.0 | 20.0 | 20.0 | 50.0 | 1 |",
    ]
    assert experiment.main([*arguments, "stegosaurus"]) == 2
    assert "no row stegosaurus; known: kmeans, stego, never" in capsys.readouterr().err
