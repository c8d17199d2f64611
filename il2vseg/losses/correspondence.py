"""L_corr: feature correspondence distillation (STEGO, Hamilton et al. 2022, eq. 3-4).

Departure: shifts in units of the data (`standardized_similarity`) instead of the constants b_self,
b_knn, b_rand; the positive pair is a colour-jittered view instead of a nearest neighbour.
"""

import torch.nn.functional as F
from torch import Tensor

from il2vseg.losses.similarity import standardized_similarity

SELF_WEIGHT, VIEW_WEIGHT, NEGATIVE_WEIGHT = 0.67, 0.25, 0.63


def correspondence(
    embeddings_a: Tensor, embeddings_b: Tensor, features_a: Tensor, features_b: Tensor
) -> Tensor:
    """−mean[max(cos(c_a, c_b), 0) · w(f_a, f_b)] over the position pairs of image pairs.

    Args:
        embeddings_a, embeddings_b: (B, S, d) from the head. features_a, features_b: whitened tokens (B, S,
        k).
    Returns:
        scalar.
    """
    similarity = F.normalize(embeddings_a, dim=2) @ F.normalize(embeddings_b, dim=2).transpose(1, 2)
    return -(similarity.clamp_min(0.0) * standardized_similarity(features_a, features_b)).mean()


def correspondence_loss(
    embeddings: Tensor,
    embeddings_view: Tensor,
    features: Tensor,
    features_view: Tensor,
    negatives: list[Tensor],
) -> Tensor:
    """L_corr over an image with itself, with its jittered view and with other images of the batch.

    Args:
        embeddings, embeddings_view: (B, S, d). features, features_view: (B, S, k).
        negatives: permutations (B,) of the batch without fixed points, one a negative.
    Returns:
        scalar.
    """
    loss = SELF_WEIGHT * correspondence(embeddings, embeddings, features, features)
    loss = loss + VIEW_WEIGHT * correspondence(embeddings, embeddings_view, features, features_view)
    for other in negatives:
        pair = correspondence(embeddings, embeddings_view[other], features, features_view[other])
        loss = loss + NEGATIVE_WEIGHT / len(negatives) * pair
    return loss
