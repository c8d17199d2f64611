"""Prototypes adapted to the image: one step of soft k-means on its own tokens, seeded by F_seg.

The idea of the low-level branch (cluster *this* image, starting from what the model sees in it), in the
space of tokens: colours cluster the image at the pixel, tokens cluster it at the patch. Everything here is a
pure function on float32 tensors with static shapes and a fixed single step, so that the same code predicts
and is traced into the exported graph. N tokens, K clusters, C named classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from il2vseg.base.classes import is_unsure, merge
from il2vseg.models.spec import AdaptSpec

SOFT = 0.1
"""Width of the ramp around `AdaptSpec.sure`. A step would let the rounding of an export flip a token."""


def class_membership(names: Sequence[str]) -> Tensor | None:
    """Which cluster belongs to which class: (C, K), 1 or 0; a cluster named unsure belongs to none.

    None if no class has several clusters: classes then add nothing to clusters.
    """
    classes, of_cluster = merge(names)
    known = [c for c, name in enumerate(classes) if not is_unsure(name)]
    member = torch.tensor([[float(c == own) for own in of_cluster] for c in known])
    return member if known and bool((member.sum(1) > 1).any()) else None


def adapted_prototypes(x: Tensor, p: Tensor, prototypes: Tensor, strength: float) -> Tensor:
    """v_k = normalise(Σ_i p_ik x_i + λ μ_k): a cluster's prototype as it looks in this image.

    Args:
        x: embeddings (B, N, d) of unit length. p: (B, N, K), a distribution over K.
        prototypes: μ, (K, d) of unit length. strength: λ, in tokens.
    Returns:
        (B, K, d) of unit length; μ_k for a cluster that is absent.
    """
    return F.normalize(p.mT @ x + strength * prototypes, dim=-1)


def class_directions(y: Tensor, q: Tensor, sure: float, min_tokens: float) -> Tensor:
    """u_c = normalise(Σ_i w_ic y_i): a class as it looks in this image.

    w_ic is q_ic for a token whose largest q exceeds `sure`, else 0. A class of up to `min_tokens` tokens of
    weight is left out, and counts in full from twice as many; both limits are ramps.

    Args:
        y: centred tokens (B, N, D) of unit length. q: (B, N, C), probabilities of the classes.
    Returns:
        (B, C, D) of unit length, or shorter for a small class and 0 for an absent one.
    """
    certain = ((q.amax(-1, keepdim=True) - sure) / SOFT + 0.5).clamp(0.0, 1.0)
    w = (q * certain).mT
    present = (w.sum(-1, keepdim=True) / min_tokens - 1.0).clamp(0.0, 1.0)
    return F.normalize(w @ y, dim=-1) * present


def adapted_logits(
    tokens: Tensor,
    embeddings: Tensor,
    prototypes: Tensor,
    temperature: float,
    spec: AdaptSpec,
    classes: Tensor | None = None,
) -> Tensor:
    """Logits after one step of adaptation: (x_i·v_k + β y_i·u_c(k)) / τ.

    Args:
        tokens: of the backbone (B, N, D). embeddings: F_c (B, N, d). prototypes: (K, d).
        classes: `class_membership` of the clusters' names; None leaves the term of the classes out.
    Returns:
        (B, N, K).
    """
    x, mu = F.normalize(embeddings, dim=-1), F.normalize(prototypes, dim=-1)
    p = (x @ mu.T / temperature).softmax(-1)
    cosines = x @ adapted_prototypes(x, p, mu, spec.strength).mT
    if classes is not None and spec.class_weight > 0.0:
        y = F.normalize(tokens - tokens.mean(1, keepdim=True), dim=-1)
        u = class_directions(y, p @ classes.T, spec.sure, spec.min_tokens)
        cosines = cosines + spec.class_weight * ((y @ u.mT) @ classes)
    return cosines / temperature
