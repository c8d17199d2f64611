"""Crops of the token grid, against a slow reference in float64."""

import pytest
import torch

from il2vseg.learning.crops import crop, draw_crops, overlap
from tests.slow_crops import slow_crop


def test_crops_lie_in_the_grid_and_half_are_mirrored() -> None:
    boxes = draw_crops(400, torch.Generator().manual_seed(0), 0.6)
    assert bool((boxes[:, :2].abs() + boxes[:, 2:].abs() <= 1 + 1e-6).all())
    assert bool((boxes[:, 1] >= 0.6).all())
    assert float((boxes[:, 0] < 0).float().mean()) == pytest.approx(0.5, abs=0.1)
    assert float(boxes[:, 2].min()) < -0.2
    assert float(boxes[:, 3].max()) > 0.2


def test_a_crop_resamples_the_grid() -> None:
    x = torch.randn(6, 12, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    boxes = draw_crops(6, torch.Generator().manual_seed(1), 0.4).double()
    assert bool((boxes[:, 0] < 0).any() and (boxes[:, 0] > 0).any())
    torch.testing.assert_close(crop(x, boxes, (3, 4)), slow_crop(x, boxes, (3, 4)))
    whole = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).double()
    torch.testing.assert_close(crop(x[:1], whole, (3, 4)), x[:1])


def test_two_crops_show_the_same_piece_where_they_meet() -> None:
    centres = (2 * torch.arange(40) + 1) / 40 - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    place = torch.stack([x, y], 2).flatten(0, 1).double().expand(8, -1, -1)
    generator = torch.Generator().manual_seed(0)
    a, b = (0.85 * draw_crops(8, generator, 0.6).double() for _ in "ab")
    grid = (40, 40)
    pieces = [
        crop(crop(place, box, grid), inner, grid) for box, inner in zip((a, b), overlap(a, b), strict=True)
    ]
    inner_cells = (place.abs() < 0.8).all(2, keepdim=True)
    assert float(((pieces[0] - pieces[1]).abs() * inner_cells).max()) < 0.01
    assert float(pieces[0][:, 0, 0].max()) < float(pieces[0][:, -1, 0].min())  # not mirrored
    expected = torch.minimum(a[:, 2] + a[:, 0].abs(), b[:, 2] + b[:, 0].abs())
    torch.testing.assert_close(pieces[0][:, 1599, 0], expected, atol=0.05, rtol=0)
