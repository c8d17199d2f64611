"""L_smo: the smoothness prior and its data term (SmooSeg, Lan et al. 2023, eq. 3-8).

Departure: shifts in units of the data (`standardized_similarity`) instead of the constants b₁, b₂.
"""

import torch.nn.functional as F
from torch import Tensor

from il2vseg.losses.similarity import standardized_similarity


def label_disagreement(p_a: Tensor, p_b: Tensor) -> Tensor:
    """D = 1 − cos of class-probability vectors: (B, S, C), (B, S', C) -> (B, S, S'), in [0, 1]."""
    return 1.0 - F.normalize(p_a, dim=2) @ F.normalize(p_b, dim=2).transpose(1, 2)


def smoothness_loss(probabilities: Tensor, features: Tensor, other: Tensor) -> Tensor:
    """mean[Ŵ_intra · D_intra] + mean[Ŵ_inter · D_inter]: alike features, alike labels.

    Args:
        probabilities: class distributions (B, S, C). features: whitened tokens (B, S, k).
        other: permutation (B,) that pairs every image with another one.
    Returns:
        scalar.
    """
    intra = standardized_similarity(features, features) * label_disagreement(probabilities, probabilities)
    w_inter = standardized_similarity(features, features[other])
    inter = w_inter * label_disagreement(probabilities, probabilities[other])
    return intra.mean() + inter.mean()


def data_loss(local_logits: Tensor, global_logits: Tensor) -> Tensor:
    """Cross-entropy of the local prototypes' logits against the global prototypes' labels.

    Args:
        local_logits: (B, S, C), from detached embeddings. global_logits: (B, S, C).
    Returns:
        scalar.
    """
    return F.cross_entropy(local_logits.flatten(0, 1), global_logits.argmax(2).flatten())
