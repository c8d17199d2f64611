"""Geometric views: crops of images, or of the grid of tokens that they have already, mirrored or not."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def draw_crops(count: int, generator: Generator, smallest: float) -> Tensor:
    """Draw a crop of every image: sides of `smallest` to 1 times the grid's, anywhere in it, half mirrored.

    Returns:
        boxes (count, 4): half width (negative where mirrored), half height, and centre x, y, in coordinates
        from −1 to 1 across the grid.
    """
    u = torch.rand(count, 4, generator=generator)
    half = smallest + (1.0 - smallest) * u[:, 0]
    centre = (1.0 - half)[:, None] * (2.0 * u[:, 1:3] - 1.0)
    mirrored = torch.where(u[:, 3] < 0.5, -half, half)
    return torch.cat([torch.stack([mirrored, half], 1), centre], 1)


def crop(x: Tensor, boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cut boxes (B, 4) out of what lies on the grid (B, N, c), and resample to the grid, bilinearly."""
    return crop_maps(x.transpose(1, 2).unflatten(2, grid), boxes).flatten(2).transpose(1, 2)


def crop_maps(x: Tensor, boxes: Tensor) -> Tensor:
    """Cut boxes (B, 4) out of maps or images (B, c, h, w), and resample to their size, bilinearly."""
    (width, height, cx, cy), zero = boxes.to(x).T, boxes.new_zeros(len(boxes)).to(x)
    maps = torch.stack([torch.stack([width, zero, cx], 1), torch.stack([zero, height, cy], 1)], 1)
    points = F.affine_grid(maps, list(x.shape), align_corners=False)
    return F.grid_sample(x, points, padding_mode="border", align_corners=False)


def overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Where two crops (B, 4) of each image meet, as boxes (B, 4) of the one and of the other.

    Cut out of the two crops, they are the same piece of the image, not mirrored.
    """

    def within(box: Tensor) -> Tensor:
        return torch.cat([half / box[:, :2], (centre - box[:, 2:]) / box[:, :2]], 1)

    low = torch.maximum(*(box[:, 2:] - box[:, :2].abs() for box in (a, b)))
    high = torch.minimum(*(box[:, 2:] + box[:, :2].abs() for box in (a, b)))
    half, centre = (high - low) / 2, (high + low) / 2
    return within(a), within(b)
