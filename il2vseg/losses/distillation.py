"""Losses of a student against its teacher."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

KNOWN = 0.1
"""Share of a cell that the teacher must know for the cell to have edges."""


def class_weights(scores: NDArray[np.uint8], balance: float) -> Tensor:
    """How much a cell of each class counts: (C,), from all targets (n, C, h, w); see `DistillRecipe`."""
    share = np.array([scores[:, c].mean(dtype=np.float64) for c in range(scores.shape[1])])
    share = (share / share.sum()).clip(1e-3, None)
    return torch.from_numpy((1.0 / (len(share) * share)) ** balance).float()


def distillation_loss(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor,
    edge_weight: float = 1.0,
    cell_weight: Tensor | None = None,
) -> Tensor:
    """Weighted KL(target ‖ student), a scalar.

    A cell counts as the teacher is sure: nothing at even odds, linearly more above; and by the share of it
    that the teacher knows at all.

    Args:
        logits: (B, C, h, w).
        target: (B, C, h, w), a distribution over C times the share of the cell that is known.
        class_weight: (C,), see `class_weights`. edge_weight: see `DistillRecipe`.
        cell_weight: (B, h, w), how much more a cell counts; None for all alike.
    """
    known = target.sum(1, keepdim=True)
    target = target / known.clamp_min(1e-6)
    kl = F.kl_div(logits.log_softmax(1), target, reduction="none").sum(1)
    chance = 1.0 / max(2, target.shape[1])
    sure = ((target.amax(1) - chance) / (1.0 - chance)).clamp(0.0, 1.0) * known[:, 0].clamp_max(1.0)
    # The border of what is known is no edge.
    most = F.max_pool2d(target, 5, 1, 2)
    least = -F.max_pool2d(torch.where(known > KNOWN, -target, -1.0), 5, 1, 2)
    weight = sure * (1.0 + edge_weight * (most - least).amax(1))
    weight = weight * torch.einsum("c,bchw->bhw", class_weight, target)
    if cell_weight is not None:
        weight = weight * cell_weight
    return (weight * kl).sum() / weight.sum().clamp_min(1.0)


def feature_loss(projected: Tensor, tokens: Tensor, kept: Tensor | None = None) -> Tensor:
    """1 − cosine of the student's projected features and the teacher's tokens, both (B, K, h, w).

    Args:
        kept: (B, h, w), how much a cell counts; None for all alike.
    """
    distance = 1.0 - F.cosine_similarity(projected, tokens, dim=1)
    if kept is None:
        return distance.mean()
    return (kept * distance).sum() / kept.sum().clamp_min(1.0)
