"""What follows from where the camera is: rules on the scores of a student whose classes have known names.

They have no weights and belong to the graph.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from il2vseg.base.classes import OBSTACLE, SKY, WATER, ground_of

CELL = 8
"""Pixels along a side of a cell on which water is looked for."""

CAUTION = 0.7
"""Added to the logarithm of an obstacle's odds. Nearly all pixels of water and road are free, in training as
well, so a network that is right about most pixels overlooks what is small (Menon et al., "Long-tail learning
via logit adjustment", ICLR 2021)."""

REACH = 9
"""Cells along a side of the surroundings of a cell, which tell whether it lies in open water."""

SHORE, OPEN = 0.4, 0.8
"""Shares of water in the surroundings up to which there is no caution, and from which on it is whole."""


def rules(names: Sequence[str], size: tuple[int, int], stride: int) -> nn.Sequential:
    """The rules that hold for these classes, one after the other: scores (B, C, h, w) to scores.

    Args:
        names: of the C classes. size: (H, W) of the images. stride: pixels along a cell of the scores.
    """
    chosen: list[nn.Module] = []
    if ground_of(names) is not None:
        if {WATER, SKY} <= set(names):
            chosen.append(NoSkyInWater(names, size, stride))
        chosen.append(Caution(names, stride))
    return nn.Sequential(*chosen)


class NoSkyInWater(nn.Module):
    """Sky below the water's edge is impossible: what is called so stands in the water."""

    above: Tensor
    change: Tensor

    def __init__(self, names: Sequence[str], size: tuple[int, int], stride: int) -> None:
        super().__init__()
        self.water, self.sky = (names.index(n) for n in (WATER, SKY))
        self.pool = CELL // stride
        rows = size[0] // CELL
        self.register_buffer("above", torch.ones(rows, rows).tril(-1), persistent=False)
        change = torch.zeros(len(names), 1, 1)
        change[self.sky], change[names.index(OBSTACLE)] = -1.0, 1.0
        self.register_buffer("change", change, persistent=False)

    def forward(self, scores: Tensor) -> Tensor:
        """Move the score of sky to obstacle where there is clearly water above, in the same column."""
        water, sky = (scores[:, i : i + 1] for i in (self.water, self.sky))
        wet = F.avg_pool2d((water - 0.5).relu(), self.pool)
        # Rows of water above a cell: from one to two of them the sky disappears.
        gate = (2.0 * self.above @ wet - 1.0).clamp(0.0, 1.0)
        return scores + self.change * (sky * F.interpolate(gate, scale_factor=float(self.pool)))


class Caution(nn.Module):
    """An obstacle is believed sooner; on water in the open alone, for at the shore that would only move the
    water's edge."""

    more: Tensor

    def __init__(self, names: Sequence[str], stride: int) -> None:
        super().__init__()
        self.water = names.index(WATER) if WATER in names else None
        self.pool = CELL // stride
        more = torch.zeros(len(names), 1, 1)
        more[names.index(OBSTACLE)] = math.expm1(CAUTION)
        self.register_buffer("more", more, persistent=False)

    def forward(self, scores: Tensor) -> Tensor:
        """Multiply the obstacle's odds by e^CAUTION."""
        more = scores * self.more
        if self.water is not None:
            gate = self._open(scores[:, self.water : self.water + 1])
            more = more * F.interpolate(gate, scale_factor=float(self.pool))
        return (scores + more) / (1.0 + more.sum(1, keepdim=True))

    def _open(self, water: Tensor) -> Tensor:
        """How open the water around is, by its score (B, 1, h, w): (B, 1, H/CELL, W/CELL) in [0, 1]."""
        around = F.avg_pool2d(F.avg_pool2d(water, self.pool), REACH, 1, REACH // 2, count_include_pad=False)
        return ((around - SHORE) / (OPEN - SHORE)).clamp(0.0, 1.0)
