"""Judging outlines without masks."""

import numpy as np
import pytest
import torch
from torch import Tensor

from il2vseg.evaluation.consistency import outline_consistency


class Halves:
    """Two clusters, left and right of a column given as a share of the width."""

    def __init__(self, size: tuple[int, int], at: float) -> None:
        self.size, self.at, self.grid, self.alpha = size, at, (1, 1), 0.0
        self.class_names = ["left", "right"]

    def predict(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        h, w = self.size
        labels = (torch.arange(w) >= round(self.at * w)).to(torch.uint8).expand(len(frames), h, w)
        return labels, torch.zeros(len(frames), 2, 1, 1)

    def label(self, scores: Tensor, frames: Tensor) -> Tensor:
        raise NotImplementedError


FRAMES = [np.zeros((30, 50, 3), np.uint8)] * 2


@pytest.mark.parametrize(("at", "expected"), [(0.5, 100.0), (0.53125, 100.0), (0.6, 0.0)])
def test_outlines_count_within_two_pixels_of_the_coarse_input(at: float, expected: float) -> None:
    coarse, fine = Halves((32, 64), at), Halves((64, 128), 0.5)
    assert outline_consistency(coarse, fine, FRAMES) == pytest.approx(expected)


def test_without_any_outline_there_is_nothing_to_say() -> None:
    assert outline_consistency(Halves((32, 64), 0.0), Halves((64, 128), 0.0), FRAMES) is None
