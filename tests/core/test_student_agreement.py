"""How far a student says what its teacher says."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch

from il2vseg.learning.agreement import agreement, held_out, sentence
from il2vseg.learning.targets import Targets


class _Student:
    """Says "sky" in the upper half of its grid of 4 x 4, "water" below."""

    def predict(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = torch.zeros(len(frames), 3, 4, 4)
        scores[:, 0, :2] = scores[:, 1, 2:] = 1
        return scores.argmax(1).byte(), scores


def found(scores: np.ndarray[Any, Any]) -> dict[str, Any]:
    frame = cv2.imencode(".png", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    targets = Targets(scores, np.zeros((0, 0, 1, 1), np.float16), ("sky", "water", "boat"))
    return agreement(_Student(), [frame] * len(scores), targets)  # type: ignore[arg-type]


def test_cells_are_counted_where_the_teacher_is_sure() -> None:
    scores = np.zeros((2, 3, 4, 4), np.uint8)
    scores[:, 0, :2] = scores[:, 1, 2:] = 255
    assert found(scores) == {
        "frames": 2,
        "agreement": 100.0,
        "per_class_iou": {"sky": 100.0, "water": 100.0, "boat": None},
    }
    scores[:, :, 3] = 0
    scores[:, 2, 3] = 127  # nearly unsure: not compared
    assert found(scores)["agreement"] == 100.0
    scores[:, 2, 3] = 128
    worse = found(scores)
    assert worse["agreement"] == 75.0
    assert worse["per_class_iou"] == {"sky": 100.0, "water": 50.0, "boat": 0.0}
    assert "agrees with its teacher on 75.0 % (IoU: sky 100, water 50, boat 0)" in sentence(worse)


@pytest.mark.parametrize(("total", "wanted", "count"), [(281, 20, 20), (100, 20, 10), (5, 9, 1), (4, 9, 0)])
def test_a_tenth_of_the_frames_is_held_out_at_most(total: int, wanted: int, count: int) -> None:
    held = held_out(total, wanted)
    assert len(set(held)) == count
    assert all(0 <= i < total for i in held)
    assert held_out(total, 0) == []


def test_targets_of_some_frames() -> None:
    scores = np.arange(4, dtype=np.uint8).repeat(3).reshape(4, 3, 1, 1)
    some = Targets(scores, scores.astype(np.float16), ("a", "b", "c")).of([0, 3])
    assert some.scores[:, 0, 0, 0].tolist() == some.tokens[:, 0, 0, 0].tolist() == [0, 3]
    assert len(Targets(scores, np.zeros((0, 0, 1, 1), np.float16), ("a", "b", "c")).of([2]).tokens) == 0
