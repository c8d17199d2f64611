"""The clusterbook by modularity and the concept-wise contrast of CAUSE (Kim et al. 2023, section 3).

*Clusterbook*: concepts M (K, k) that maximise the modularity of the images' affinity graphs, H = Tr(W Δ)/2m
with A_ij = max(cos(x_i, x_j), 0) without its diagonal, W = A − d dᵀ/2m, and Δ_ij = max_c tanh(C_ic C_jc / τ),
C = max(cos(x, M), 0): do i and j share a concept?

*Contrast*: a token stands for its nearest concept. Tokens whose concepts are alike, cos > φ⁺, are
positives, those whose are not, cos < φ⁻, negatives; −log exp(e_i·e_j/τ) / Σ_n exp(e_i·e_n/τ), n over both, is
averaged over the positive pairs, in the batch and with a bank of tokens from elsewhere.

Departures: the bank is drawn anew at every step and the teacher is the head without dropout, so that the
state of a training is its parameters alone; the contrast is in the embeddings, where CAUSE projects them to
2048 dimensions; 128 concepts that start from tokens, where it has 2048 random ones; features are whitened.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SHARING_TEMPERATURE = 0.1
CONTRAST_TEMPERATURE = 0.07
POSITIVE, NEGATIVE = 0.3, 0.1
"""φ⁺ and φ⁻: cosines of two concepts."""


def modularity(concepts: Tensor, features: Tensor) -> Tensor:
    """H = Tr(W Δ) / 2m, mean over the images; larger is better.

    Args:
        concepts: M (K, k), of any length. features: x (B, S, k), of any length.
    Returns:
        scalar.
    """
    x = F.normalize(features, dim=2)
    affinity = (x @ x.mT).clamp_min(0.0)
    affinity = affinity - affinity * torch.eye(x.shape[1], device=x.device)
    degree = affinity.sum(2, keepdim=True)
    edges = affinity.sum((1, 2), keepdim=True).clamp_min(1e-6)
    w = affinity - degree @ degree.mT / edges
    member = (x @ F.normalize(concepts, dim=1).T).clamp_min(0.0)
    # tanh rises, so the largest product of two memberships gives the largest of its values.
    shared = (member[:, :, None] * member[:, None]).amax(3)
    delta = torch.tanh(shared / SHARING_TEMPERATURE)
    return ((w / edges) * delta).sum((1, 2)).mean()


def nearest_concepts(features: Tensor, concepts: Tensor) -> Tensor:
    """The concept (..., k), of unit length, that each token (..., k) is most alike to."""
    unit = F.normalize(concepts, dim=1)
    return unit[(features @ unit.T).argmax(-1)]


def concept_contrast(
    embeddings: Tensor, others: Tensor, concepts: Tensor, other_concepts: Tensor, same: Tensor | None = None
) -> Tensor:
    """Contrast of tokens with others, whose concepts say which are positive.

    Args:
        embeddings: (M, d) and others: (R, d), of any length. concepts: of the tokens (M, k), unit vectors.
        other_concepts: (R, k). same: (M, R) bool, pairs of a token with itself, which do not count.
    Returns:
        scalar; 0 where nothing has a positive.
    """
    alike = concepts @ other_concepts.T
    positive = alike > POSITIVE
    if same is not None:
        positive = positive & ~same
    counted = positive | (alike < NEGATIVE)
    logits = F.normalize(embeddings, dim=1) @ F.normalize(others, dim=1).T / CONTRAST_TEMPERATURE
    # A token with nothing to contrast with has no denominator, and no positives either.
    counted = counted | ~counted.any(1, keepdim=True)
    log_p = logits - logits.masked_fill(~counted, -torch.inf).logsumexp(1, keepdim=True)
    return -(log_p * positive).sum() / positive.sum().clamp_min(1)
