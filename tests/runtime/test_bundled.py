"""The models that ship with the package: whole, small, with a card, and the default where nothing else is."""

from pathlib import Path

import numpy as np
import pytest

from il2vseg.data import open_dataset
from il2vseg.data.synthetic import render
from il2vseg.runtime.backends.providers import open_engine
from il2vseg.runtime.catalog import bundled, find_model
from il2vseg.runtime.manifest import Manifest, verify_file

MAX_BYTES = 4_000_000
MODELS = bundled()


def test_there_is_a_default(tmp_path: Path) -> None:
    assert find_model(None, tmp_path).name == "marine-lite"


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_a_bundled_model_is_whole_small_and_described(folder: Path) -> None:
    manifest = Manifest.load(folder)
    assert manifest.name == folder.name
    for entry in manifest.files:
        assert verify_file(folder, entry).stat().st_size < MAX_BYTES
        assert entry.parity is not None
    card = (folder / "MODEL_CARD.md").read_text()
    assert card.startswith(f"# {folder.name}\n")
    for heading in ("## How it was made", "## Scores", "## Speed", "## Limits"):
        assert heading in card


@pytest.mark.parametrize("name", ["marine", "marine-lite"])
def test_a_marine_model_knows_water_from_sky(name: str) -> None:
    frame, truth = render(3, 0, (360, 640))
    engine = open_engine(find_model(name), "cpu", say=lambda line: None)
    names = engine.manifest.class_names
    labels = engine(frame).labels
    for kind, truth_id in (("water", 1), ("sky", 2)):
        assert (labels[truth == truth_id] == names.index(kind)).mean() > 0.6
    assert np.unique(labels).max() < len(names)


def test_street_lite_sees_the_road_of_a_real_street(real_data: Path) -> None:
    engine = open_engine(find_model(Path("street-lite")), "cpu", say=lambda line: None)
    names = engine.manifest.class_names
    assert set(names) == {"sky", "building", "tree", "road", "pavement", "car", "obstacle"}
    dataset = open_dataset("camvid7", real_data / "camvid", "val", labelled=True, limit=4)
    hits = {"road": [0, 0], "sky": [0, 0], "building": [0, 0]}
    for sample in dataset:
        result = engine(sample.frame)
        labels = result.labels
        assert result.unlike is not None
        assert result.unlike < 0.5
        for name, counts in hits.items():
            there = sample.labels == dataset.class_names.index(name)
            counts[0] += int((labels[there] == names.index(name)).sum())
            counts[1] += int(there.sum())
    assert all(right / of > 0.7 for right, of in hits.values()), hits


def test_the_sea_is_no_street() -> None:
    engine = open_engine(find_model(Path("street-lite")), "cpu", say=lambda line: None)
    unlike = engine(render(3, 0, (360, 640))[0]).unlike
    assert unlike is not None
    assert unlike > 0.5
