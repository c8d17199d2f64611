"""L_hp: contrast with hidden positives (HP, Seong et al. 2023, section 3: global and local hidden positives).

An anchor's positives are the tokens of the batch that are more like it than any token of a reference pool
Q: P_i = {j ≠ i : cos(x_i, x_j) > c_i or > c_j} with c_i = max_{q ∈ Q} cos(x_i, q). Task-agnostic positives
come from the backbone's tokens, task-specific ones from the embeddings; the weight λ of the latter grows from
0 to 1 over the training. The loss is the supervised contrastive one, of the embeddings and of their mixture
with similar neighbours (local hidden positives), which passes the gradient on to those.

Departures: the pools are drawn anew at every step, so that the state of a training is its parameters
alone; task-specific positives come from the head itself, where HP keeps a momentum copy; the contrast is in
the embeddings, where HP adds a linear projection; the mixture is weighted by the similarity of backbone
tokens in the 3x3 neighbourhood, where HP takes the last attention map; features are whitened.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.6
CONSISTENCY_WEIGHT = 0.05
NEGATIVES = 0.02
"""Share of the other tokens of the batch that serve as negatives of an anchor, beside its positives."""


def hidden_positives(x: Tensor, pool: Tensor) -> Tensor:
    """Mark the pairs that are more alike than an end of the pair and any token of the pool.

    Args:
        x: (M, k), of any length. pool: Q (R, k).
    Returns:
        (M, M) bool, symmetric, the diagonal False; no gradient.
    """
    x, pool = F.normalize(x.detach(), dim=1), F.normalize(pool.detach(), dim=1)
    threshold = (x @ pool.T).amax(1, keepdim=True)
    positive = x @ x.T > threshold
    positive = positive | positive.T
    positive.fill_diagonal_(False)
    return positive


def weighted_contrast(embeddings: Tensor, weights: Tensor, negatives: Tensor) -> Tensor:
    """−Σ_ij w_ij log p_ij / Σ_ij w_ij with p_ij = exp(c_i·c_j/τ) / Σ_n exp(c_i·c_n/τ), n over positives and
    negatives of i. HP's weight of an anchor by its number of positives makes it this mean over all pairs.

    Args:
        embeddings: (M, d), of any length. weights: w (M, M), non-negative, 0 on the diagonal.
        negatives: (M, M) bool; the diagonal does not count.
    Returns:
        scalar; 0 where nothing has a positive.
    """
    embeddings = F.normalize(embeddings, dim=1)
    logits = embeddings @ embeddings.T / TEMPERATURE
    others = ~torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    counted = (negatives | (weights > 0)) & others
    # An anchor that contrasts with nothing has no denominator; it has no weight either.
    counted = counted | (others & ~counted.any(1, keepdim=True))
    log_p = logits - logits.masked_fill(~counted, -torch.inf).logsumexp(1, keepdim=True)
    return -(weights * log_p).sum() / weights.sum().clamp_min(1e-6)


def local_mixture(embeddings: Tensor, features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mix every embedding with those of its 3x3 neighbours that are at least as similar as their mean.

    Args:
        embeddings: (B, N, d) and features: (B, N, k) of all tokens of the grid (h, w), N = h·w.
    Returns:
        (B, N, d), the mean over the neighbourhood weighted by max(cos(f_i, f_j), 0).
    """

    def neighbourhoods(x: Tensor) -> Tensor:
        """(B, N, c) -> (B, N, 9, c), zeros beyond the border."""
        channels = x.shape[2]
        on_grid = x.transpose(1, 2).unflatten(2, grid)
        unfolded: Tensor = F.unfold(on_grid, 3, padding=1).unflatten(1, (channels, 9))
        return unfolded.permute(0, 3, 2, 1)

    f = F.normalize(features.detach(), dim=2)
    similarity = (neighbourhoods(f) @ f.unsqueeze(3)).squeeze(3)
    inside = neighbourhoods(torch.ones_like(f[:, :, :1])).squeeze(3)
    mean = similarity.sum(2, keepdim=True) / inside.sum(2, keepdim=True)
    weights = similarity.clamp_min(0.0) * (similarity >= mean) * inside
    mixed = (weights.unsqueeze(2) @ neighbourhoods(embeddings)).squeeze(2)
    return mixed / weights.sum(2, keepdim=True)


def hidden_positive_losses(
    embeddings: Tensor, mixed: Tensor, agnostic: Tensor, specific: Tensor, progress: float, negatives: Tensor
) -> Tensor:
    """½ (contrast of the embeddings + contrast of the mixed embeddings) with w = P_agnostic + λ · P_specific.

    Args:
        embeddings, mixed: (M, d). agnostic, specific: positives (M, M) bool. progress: λ in [0, 1].
        negatives: (M, M) bool.
    Returns:
        scalar.
    """
    anchors = agnostic.any(1, keepdim=True)
    weights = (agnostic.float() + progress * specific.float()) * anchors
    return 0.5 * (
        weighted_contrast(embeddings, weights, negatives) + weighted_contrast(mixed, weights, negatives)
    )


def consistency_loss(embeddings: Tensor, embeddings_view: Tensor) -> Tensor:
    """Mean distance of the directions of embeddings (M, d) and those of the jittered view (M, d): scalar."""
    return F.pairwise_distance(F.normalize(embeddings, dim=1), F.normalize(embeddings_view, dim=1)).mean()
