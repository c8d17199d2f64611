"""The moving set: vessels keep to the water and to their course, and the score knows who is who."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SIZE = (90, 160)
TIMES = np.arange(20) / 10


@pytest.fixture
def moving(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script bench/moving.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    return __import__("moving")


def lake() -> np.ndarray:
    water = np.zeros((len(TIMES), *SIZE), bool)
    water[:, 40:] = True
    water[:, 70:, 60:75] = False  # a rock
    return water


def chosen(moving: ModuleType, seed: int = 2) -> list[Any]:
    return list(moving.courses(moving.MovingConfig(vessels=4, seed=seed), 0, lake(), TIMES))


def test_courses_are_smooth_stay_on_the_water_and_depend_on_the_seed_alone(moving: ModuleType) -> None:
    ways = chosen(moving)
    assert len(ways) >= 3
    for way in ways:
        y, x = way.feet.round().astype(int).T
        assert lake()[0, y, x].all()
        assert (np.abs(np.diff(way.feet, axis=0)) < 4).all()
        assert (np.diff(way.lengths) >= 0).all()
    assert any(way.lengths[-1] > 1.2 * way.lengths[0] for way in ways)
    again, other = chosen(moving), chosen(moving, 1)
    assert all((a.feet == b.feet).all() and a.vessel == b.vessel for a, b in zip(ways, again, strict=True))
    assert not np.array_equal(ways[0].feet, other[0].feet)
    assert ways[0].lengths.mean() < 6 < ways[1].lengths.mean()  # small and large by turns


def test_a_vessel_is_drawn_where_its_mask_says_and_looks_the_same_twice(moving: ModuleType) -> None:
    (way, *_), water = chosen(moving)[1:], lake()[0].astype(np.float32)
    first, second = (np.full((*SIZE, 3), 90, np.uint8) for _ in range(2))
    solid = way.draw(first, water, 1.0, 3)
    way.draw(second, water, 1.0, 3)
    assert np.array_equal(first, second)
    rows, columns = np.nonzero(solid > 127)
    assert rows.max() == pytest.approx(way.feet[3, 0], abs=1)
    assert columns.mean() == pytest.approx(way.feet[3, 1], abs=4)
    assert (first[solid > 200] != 90).any(1).mean() > 0.9


def scene(*boxes: tuple[int, int]) -> np.ndarray:
    labels = np.full(SIZE, 1, np.uint8)
    for left, size in boxes:
        labels[60 : 60 + size, left : left + size] = 0
    return labels


def test_the_score_tells_vessels_from_what_is_not_there(moving: ModuleType) -> None:
    score, ids = moving.Score(), np.zeros(SIZE, np.uint8)
    ids[60:64, 20:24], ids[60:72, 80:92] = 1, 2
    part = moving.Pass(score, 2)
    for i in range(20):  # one all the time, one and what is nothing from a second on, and some flicker
        later, flicker = ([(20, 4), (130, 6)] if i >= 10 else []), ([(50, 6)] if i % 3 == 0 else [])
        part.update(scene((80, 12), *later, *flicker), ids, i / 10)
    part.close()
    values = score.to_json()
    assert (values["small_vessels"], values["large_vessels"]) == (1, 1)
    assert (values["small_seen_in_frames"], values["large_seen_in_frames"]) == (50.0, 100.0)
    assert (values["small_followed"], values["large_followed"]) == (100.0, 100.0)
    assert values["large_median_s"] == 0.5
    assert values["small_median_s"] == pytest.approx(1.5, abs=0.11)
    assert values["false_tracks"] == 1
    assert values["false_per_frame"] == (10 + 7) / 20
    assert values["followed_false_per_frame"] == 5 / 20
