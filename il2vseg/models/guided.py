"""Edge-aware upsampling: the guided filter (He, Sun & Tang 2010, with a colour guide) and its fast form.

Within every window the scores are replaced by their best linear function of the colour. Linear functions of
the colour have edges where the image has them, so those of the scores move there.

`guided_quads` fits the linear functions on a coarse grid and applies them to every pixel (He & Sun 2015):
bilinear upsampling knows 14-pixel tokens, this knows the pixels. Like the rest of the low-level branch it is
float32 with static shapes, and is traced into the exported graph.

A pixel's function is interpolated between those of the four cells around it. The pixels between the same four
form a quad, and the scores of a quad are one matrix product: C classes, four cells of four coefficients, its
pixels. Interpolating four planes per class to the size of the image gives the same in twice the time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from il2vseg.models.lowlevel import pool_colours, upsample


def _window_mean(x: Tensor) -> Tensor:
    """Mean over those of the 3x3 neighbours that lie inside the image: (B, P, h, w)."""
    # Products with two band matrices: in ONNX Runtime pooling takes five times as long.
    down, across = (torch.ones(n, n, device=x.device).triu(-1).tril(1) for n in x.shape[-2:])
    return (down / down.sum(1, keepdim=True)) @ x @ (across / across.sum(0, keepdim=True))


def linear_models(guide: Tensor, scores: Tensor, eps: float) -> Tensor:
    """Fit scores ≈ slopes · colour + offset in every window of 3x3 cells, and average the windows over every
    cell.

    Args:
        guide: (B, 3, h, w) RGB in [0, 1]. scores: (B, C, h, w).
        eps: variance of colour below which a window counts as flat.
    Returns:
        (B, 4, C, h, w): slopes of red, green and blue, and the offset.
    """
    b, c, h, w = scores.shape
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    squares = torch.cat([guide[:, i : i + 1] * guide[:, j : j + 1] for i, j in pairs], 1)
    products = (guide[:, :, None] * scores[:, None]).flatten(1, 2)
    means = _window_mean(torch.cat([guide, scores, squares, products], 1))
    mean_i, mean_p, squares, products = means.split([3, c, 6, 3 * c], 1)
    rr, rg, rb, gg, gb, bb = (
        squares[:, n : n + 1] - mean_i[:, i : i + 1] * mean_i[:, j : j + 1] for n, (i, j) in enumerate(pairs)
    )
    rr, gg, bb = rr + eps, gg + eps, bb + eps
    # The adjugate of the symmetric 3x3 matrix, and its determinant, at least eps³.
    a_rr, a_rg, a_rb = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    a_gg, a_gb, a_bb = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    determinant = rr * a_rr + rg * a_rg + rb * a_rb
    inverse = ((a_rr, a_rg, a_rb), (a_rg, a_gg, a_gb), (a_rb, a_gb, a_bb))
    cross = [p - mean_i[:, i : i + 1] * mean_p for i, p in enumerate(products.split(c, 1))]
    slopes = [sum((k * x for k, x in zip(row, cross, strict=True)), 0.0) / determinant for row in inverse]
    offset = mean_p - sum((s * mean_i[:, i : i + 1] for i, s in enumerate(slopes)), 0.0)
    return _window_mean(torch.cat([*slopes, offset], 1)).reshape(b, 4, c, h, w)


def _corner_weights(pixels: int, device: torch.device) -> Tensor:
    """Along one side of a quad: weights (2, pixels) of its first and its second cell at every pixel."""
    # The first quad begins before the image, in whole pixels: half a cell, rounded up.
    second = (torch.arange(pixels, device=device) + 0.5 - (pixels + 1) // 2) / pixels + 0.5
    return torch.stack([1.0 - second, second])


def guided_quads(scores: Tensor, images: Tensor, cells: int, eps: float) -> Tensor:
    """Scores of every pixel, with their edges on those of the image, quad by quad.

    Args:
        scores: (B, C, h, w), a distribution over C. images: (B, 3, H, W) RGB in [0, 1].
        cells: of the linear models along one side of a cell of the scores; their windows are 3x3 cells.
            h·cells divides H, w·cells divides W.
        eps: see `linear_models`.
    Returns:
        (B, h·cells + 1, w·cells + 1, C, H/(h·cells), W/(w·cells)), for `stitch`. Sums to 1 over C; single
        values may leave [0, 1].
    """
    (b, c), (height, width) = scores.shape[:2], images.shape[-2:]
    grid = (scores.shape[-2] * cells, scores.shape[-1] * cells)
    rows, columns = grid[0] + 1, grid[1] + 1
    dy, dx = height // grid[0], width // grid[1]
    scores = upsample(scores, grid)
    models = linear_models(pool_colours(images, grid), scores, eps).flatten(1, 2)
    models = F.pad(models, (1, 1, 1, 1), mode="replicate").permute(0, 2, 3, 1)
    corners = [models[:, y : y + rows, x : x + columns] for y in (0, 1) for x in (0, 1)]
    coefficients = torch.cat(corners, 3).reshape(b, rows, columns, 16, c)
    # The fourth channel is 1, for the offset. What is added around the image belongs to no pixel.
    guide = F.pad(images, ((dx + 1) // 2, dx // 2, (dy + 1) // 2, dy // 2, 0, 1), value=1.0)
    guide = guide.reshape(b, 4, rows, dy, columns, dx).permute(0, 2, 4, 1, 3, 5)
    down, across = (_corner_weights(n, images.device) for n in (dy, dx))
    weights = (down[:, None, :, None] * across[None, :, None, :]).reshape(4, 1, dy * dx)
    inputs = weights * guide.reshape(b, rows, columns, 1, 4, dy * dx)
    quads = coefficients.mT @ inputs.flatten(3, 4)
    return quads.reshape(b, rows, columns, c, dy, dx)


def stitch(quads: Tensor, size: tuple[int, int]) -> Tensor:
    """Put what `guided_quads` returns, or what was made of it, together: (B, C, H, W)."""
    b, rows, columns, c, dy, dx = quads.shape
    whole = quads.permute(0, 3, 1, 4, 2, 5).reshape(b, c, rows * dy, columns * dx)
    top, left = (dy + 1) // 2, (dx + 1) // 2
    return whole[:, :, top : top + size[0], left : left + size[1]]
