"""Class attention maps as pseudo labels, and the losses that refine them: TransFGU (Yin et al. 2022).

*Categories* T (K, k): k-means clusters of the [CLS] tokens of windows that slide over the images.
*Class attention maps* M_k(p): the positive part of the gradient of cos([CLS], T_k) with respect to the
attention that [CLS] pays to position p.
*Pseudo labels* y = argmax_k M̂_k, with M̂ scaled to 0 … 1 in every image; once there is a teacher,
y = argmax_k ½ M̂_k + ½ p_k(teacher). The segmentation F and its class embeddings e learn by

    L_cat = CE(F, y) − α CE(F, y⁻),   y⁻ the labels with their classes renamed at random, α from 0.03 to 0.1
    L_unc = mean 1 − (p₁ − p₂),       the two largest probabilities of a position
    L_emb = mean_{i<j} 1 + cos(e_i, e_j)

with weights 1, 0.3 and 1, those of the authors' program.

Departures: [CLS] is the mean of a window's tokens. The gradient of [CLS]·T_k with respect to a token's share
in the mean is z_p·T_k, hence M_k(p) = max(cos(z_p, T_k), 0), the class activation map of average pooling; the
attention map, the same for all classes, is not added.
"""

import torch.nn.functional as F
from torch import Tensor

UNCERTAINTY_WEIGHT = 0.3
FIRST_ALPHA, LAST_ALPHA = 0.03, 0.1
"""α in the first step of a teacher, and towards its last."""
WINDOWS = 4
"""Windows, half of which overlap, side by side on the grid."""


def window_tokens(z: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean tokens of the windows: (B, N, k) on the grid (h, w) -> (B, windows, k)."""
    sides = [max(1, side // WINDOWS) for side in grid]
    strides = [max(1, side // 2) for side in sides]
    on_grid = z.transpose(1, 2).unflatten(2, grid)
    return F.avg_pool2d(on_grid, tuple(sides), tuple(strides)).flatten(2).transpose(1, 2)


def class_maps(z: Tensor, categories: Tensor) -> Tensor:
    """M̂ (B, N, K) of tokens (B, N, k) and categories (K, k), from 0 to 1 in every image."""
    maps = (F.normalize(z, dim=2) @ F.normalize(categories, dim=1).T).clamp_min(0.0)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-6)


def category_loss(logits: Tensor, labels: Tensor, wrong: Tensor | None, alpha: float) -> Tensor:
    """L_cat.

    Args:
        logits: F (B, N, K). labels: y (B, N). wrong: y⁻ (B, N), None without that term.
    Returns:
        scalar.
    """
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    if wrong is None:
        return loss
    return loss - alpha * F.cross_entropy(logits.flatten(0, 1), wrong.flatten())


def uncertainty_loss(logits: Tensor) -> Tensor:
    """L_unc of logits (B, N, K), K at least 2: scalar in [0, 1]."""
    best = logits.softmax(2).topk(2, dim=2).values
    return (1.0 - (best[..., 0] - best[..., 1])).mean()


def embedding_loss(classes: Tensor) -> Tensor:
    """L_emb of class embeddings (K, d), K at least 2: scalar in [0, 2]."""
    unit = F.normalize(classes, dim=1)
    k = len(unit)
    return 1.0 + (unit @ unit.T).triu(1).sum() / (k * (k - 1) / 2)
