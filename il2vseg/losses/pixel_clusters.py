"""Clusters of pixels as labels: the losses of MDC and PiCIE (Cho et al. 2021, sections 3.1 to 3.4).

    L_clust(Z, y, μ) = mean_p −ln( exp(−d(z_p, μ_{y_p})) / Σ_l exp(−d(z_p, μ_l)) ),  d = 1 − cos

*MDC*, DeepCluster for pixels: L_clust with the clusters of the features themselves.
*PiCIE*: features Z⁽¹⁾, Z⁽²⁾ of two views, each with clusters and labels of its own, and

    L_within = L_clust(Z⁽¹⁾, y⁽¹⁾, μ⁽¹⁾) + L_clust(Z⁽²⁾, y⁽²⁾, μ⁽²⁾)
    L_cross  = L_clust(Z⁽¹⁾, y⁽²⁾, μ⁽²⁾) + L_clust(Z⁽²⁾, y⁽¹⁾, μ⁽¹⁾)

*PiCIE+H*: λ_K1 L_K1 + λ_K2 L_K2, of K₁ clusters and of more, K₂; λ_K1 = ln K₂ / (ln K₁ + ln K₂),
λ_K2 = 1 − λ_K1.

Departures: labels of classes weigh alike, as printed, where the authors' program weighs them by their size;
MDC has no trained classifier, but the centroids, as PiCIE.
"""

import math

import torch.nn.functional as F
from torch import Tensor


def cluster_logits(z: Tensor, centroids: Tensor) -> Tensor:
    """−d(z, μ) + 1, the cosines: (..., d), (K, d) -> (..., K). The constant leaves L_clust as it is."""
    return F.normalize(z, dim=-1) @ F.normalize(centroids, dim=-1).T


def cluster_labels(z: Tensor, centroids: Tensor) -> Tensor:
    """y, the nearest centroids: (..., d), (K, d) -> (...)."""
    return cluster_logits(z, centroids).argmax(-1)


def cluster_loss(z: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """L_clust: z (B, N, d), labels (B, N), centroids (K, d) -> scalar."""
    return F.cross_entropy(cluster_logits(z, centroids).flatten(0, 1), labels.flatten())


def consistency_losses(
    z: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor], centroids: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """L_within and L_cross.

    Args:
        z: of the two views (B, N, d) each. labels: (B, N) each. centroids: (K, d) each.
    Returns:
        two scalars.
    """
    within = sum(cluster_loss(*view) for view in zip(z, labels, centroids, strict=True))
    cross = sum(cluster_loss(*view) for view in zip(z, labels[::-1], centroids[::-1], strict=True))
    assert isinstance(within, Tensor)
    assert isinstance(cross, Tensor)
    return within, cross


def balance(clusters: int, auxiliary: int) -> tuple[float, float]:
    """λ_K1 and λ_K2."""
    k1, k2 = math.log(clusters), math.log(auxiliary)
    return k2 / (k1 + k2), k1 / (k1 + k2)
