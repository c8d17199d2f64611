"""Crops of the token grid, written out in float64."""

import math

import torch
from torch import Tensor

from tests.steps import (
    BATCH,
    Reference,
)


def slow_crop(x: Tensor, boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bilinear resampling, cell by cell; beyond the outermost centres their values go on."""
    (h, w), out = grid, torch.zeros_like(x)
    for image, (width, height, cx, cy) in enumerate(boxes.tolist()):
        for i in range(h):
            for j in range(w):
                x_at = width * ((2 * j + 1) / w - 1) + cx
                y_at = height * ((2 * i + 1) / h - 1) + cy
                column = min(max(((x_at + 1) * w - 1) / 2, 0.0), w - 1.0)
                row = min(max(((y_at + 1) * h - 1) / 2, 0.0), h - 1.0)
                for r in (math.floor(row), math.floor(row) + 1):
                    for c in (math.floor(column), math.floor(column) + 1):
                        weight = (1 - abs(row - r)) * (1 - abs(column - c))
                        if weight > 0:
                            out[image, i * w + j] = out[image, i * w + j] + weight * x[image, r * w + c]
    return out


def slow_boxes(r: Reference, smallest: float) -> Tensor:
    boxes = []
    for u in torch.rand(BATCH, 4, generator=r.generator).tolist():
        half = smallest + (1 - smallest) * u[0]
        cx, cy = ((1 - half) * (2 * v - 1) for v in u[1:3])
        boxes.append([-half if u[3] < 0.5 else half, half, cx, cy])
    return torch.tensor(boxes, dtype=torch.float64)
