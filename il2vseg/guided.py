"""Edge-aware upsampling: the guided filter (He, Sun & Tang 2010, with a colour guide) and its fast form.

Within every window the scores are replaced by their best linear function of the colour. Linear functions of
the colour have edges where the image has them, so those of the scores move there.

`guided_upsample` fits the linear functions on a coarse grid and applies them to every pixel (He & Sun 2015):
bilinear upsampling knows 14-pixel tokens, this knows the pixels. Like the rest of the low-level branch it is
float32 with static shapes, and is traced into the exported graph.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from il2vseg.lowlevel import pool_colours


def _window_mean(x: Tensor) -> Tensor:
    """Mean over those of the 3x3 neighbours that lie inside the image."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def linear_models(guide: Tensor, scores: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Fit scores ≈ slopes · colour + offset in every window of 3x3 cells, and average the windows over every
    cell.

    Args:
        guide: (B, 3, h, w) RGB in [0, 1]. scores: (B, C, h, w).
        eps: variance of colour below which a window counts as flat.
    Returns:
        slopes (B, 3, C, h, w) and offset (B, C, h, w).
    """
    mean_i, mean_p = _window_mean(guide), _window_mean(scores)
    covariance = [
        [_window_mean(guide[:, i : i + 1] * guide[:, j : j + 1]) for j in range(i, 3)] for i in range(3)
    ]
    (rr, rg, rb), (gg, gb), (bb,) = (
        [c - mean_i[:, i : i + 1] * mean_i[:, j : j + 1] for j, c in enumerate(row, start=i)]
        for i, row in enumerate(covariance)
    )
    rr, gg, bb = rr + eps, gg + eps, bb + eps
    # The adjugate of the symmetric 3x3 matrix, and its determinant, at least eps³.
    a_rr, a_rg, a_rb = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    a_gg, a_gb, a_bb = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    determinant = rr * a_rr + rg * a_rg + rb * a_rb
    inverse = ((a_rr, a_rg, a_rb), (a_rg, a_gg, a_gb), (a_rb, a_gb, a_bb))
    cross = [_window_mean(guide[:, i : i + 1] * scores) - mean_i[:, i : i + 1] * mean_p for i in range(3)]
    slopes = [sum((k * c for k, c in zip(row, cross, strict=True)), 0.0) / determinant for row in inverse]
    offset = mean_p - sum((s * mean_i[:, i : i + 1] for i, s in enumerate(slopes)), 0.0)
    return (
        torch.stack([_window_mean(torch.as_tensor(s)) for s in slopes], 1),
        _window_mean(offset),
    )


def guided_upsample(scores: Tensor, images: Tensor, cells: int = 2, eps: float = 1e-3) -> Tensor:
    """Upsample scores to the pixels, with their edges on those of the image.

    Args:
        scores: (B, C, h, w), a distribution over C. images: (B, 3, H, W) RGB in [0, 1].
        cells: of the linear models along one side of a cell of the scores; their windows are 3x3 cells.
            h·cells divides H, w·cells divides W.
        eps: see `linear_models`.
    Returns:
        (B, C, H, W), summing to 1 over C; single values may leave [0, 1].
    """
    grid, size = (scores.shape[-2] * cells, scores.shape[-1] * cells), images.shape[-2:]
    scores = F.interpolate(scores, size=grid, mode="bilinear", align_corners=False)
    slopes, offset = linear_models(pool_colours(images, grid), scores, eps)
    out = F.interpolate(offset, size=size, mode="bilinear", align_corners=False)
    for i in range(3):
        slope = F.interpolate(slopes[:, i], size=size, mode="bilinear", align_corners=False)
        out = out + slope * images[:, i : i + 1]
    return out
