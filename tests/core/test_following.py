"""False alarms over time: what flickers is none that anybody hears of."""

from pathlib import Path

import numpy as np
import pytest
import torch

from il2vseg.data import open_dataset
from il2vseg.evaluation.following import Follower
from il2vseg.evaluation.obstacles import ObstacleScore, Piece
from il2vseg.evaluation.scoring import false_alarms
from tests.footage import write_clip

OBSTACLE, WATER = 0, 1
SIZE = (90, 160)


def piece(x: int) -> Piece:
    return Piece((x, 40, 8, 8), 400.0, 0.0)


def test_pieces_are_numbered_as_the_runtime_numbers_obstacles() -> None:
    follow = Follower()
    stays, numbers = piece(20), []
    for i in range(9):
        flicker = [piece(100)] if i % 3 == 0 else []
        numbers.append(follow([*flicker, stays], SIZE, i / 10)[::-1])
    assert [n[0] for n in numbers] == 5 * [None] + 4 * [1]
    assert all(n[1:] in ([None], []) for n in numbers)


def test_the_next_clip_begins_anew() -> None:
    follow = Follower()
    for i in range(9):
        assert follow([piece(20)], SIZE, i / 10) == [1 if i >= 5 else None]
    assert follow([piece(20)], SIZE, 0.0) == [None]


def water(*columns: int) -> np.ndarray:
    labels = np.full(SIZE, WATER, np.uint8)
    for x in columns:
        labels[40:48, x : x + 8] = OBSTACLE
    return labels


def test_only_what_is_false_and_has_a_number_counts_as_followed() -> None:
    score, frame = ObstacleScore(OBSTACLE, WATER, Follower()), np.zeros((*SIZE, 3), np.uint8)
    for i in range(8):
        score.update("a", frame, water(20, 60), water(20), i / 8)  # one is true, the other is not
    counts = score.counts.to_json()["all"]
    assert counts["false_alarms_per_frame"] == 1.0
    assert counts["followed_false_alarms_per_frame"] == 4 / 8  # from half a second on
    assert score.counts.to_json()["small"]["followed_false_alarms_per_frame"] == 0.0
    untimed = ObstacleScore(OBSTACLE, WATER, Follower())
    untimed.update("a", frame, water(20), None)
    assert untimed.counts.to_json()["all"]["followed_false_alarms_per_frame"] is None


class Seer:
    """A model that sees something in every frame, and something else in every fourth."""

    size, grid, alpha = SIZE, (9, 16), 0.0
    class_names = ("obstacle", "water")

    def __init__(self) -> None:
        self.frames = 0

    def predict(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = water(20, 100) if self.frames % 4 == 0 else water(20)
        self.frames += 1
        return torch.from_numpy(found[None]), torch.zeros((1, 2, 9, 16))


@pytest.mark.parametrize("whole", [True, False])
def test_the_frames_of_a_clip_have_times(tmp_path: Path, whole: bool) -> None:
    write_clip(tmp_path / "river.mp4", 20, size=SIZE)
    data = open_dataset("folder", tmp_path, "train", limit=None if whole else 4)
    times = [sample.seconds for sample in data]
    assert times == pytest.approx([i / 10 for i in range(20)] if whole else [0.2, 0.7, 1.2, 1.7])
    if whole:
        counts = false_alarms(Seer(), data).counts.to_json()["all"]  # type: ignore[arg-type]
        assert counts["false_alarms_per_frame"] == 25 / 20
        assert counts["followed_false_alarms_per_frame"] == 15 / 20
