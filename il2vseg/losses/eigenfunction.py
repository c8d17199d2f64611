"""L_fs and L_reg: neural eigenfunctions of a feature-and-pixel affinity (Deng & Luo 2023, eq. 6-9)."""

import torch
import torch.nn.functional as F
from torch import Tensor

PIXEL_WEIGHT = 0.3
FEATURE_NEIGHBOURS = 256
PIXEL_NEIGHBOURS = ((2.0, 10), (0.1, 5))
"""(weight of xy, neighbours) of the two pixel graphs."""


def nearest_neighbour_graph(similarity: Tensor, k: int) -> Tensor:
    """Keep the k largest entries of each row, symmetrise and normalise: D^{-1/2} A D^{-1/2}.

    Args:
        similarity: (..., N, N), the diagonal included.
    Returns:
        (..., N, N), symmetric, negative similarities dropped.
    """
    k = min(k, similarity.shape[-1])
    threshold = similarity.topk(k, dim=-1).values[..., -1:]
    a = torch.where(similarity >= threshold, similarity.clamp_min(0.0), 0.0)
    a = 0.5 * (a + a.transpose(-1, -2))
    scale = a.sum(-1).clamp_min(1e-6).rsqrt()
    return a * scale[..., :, None] * scale[..., None, :]


def gram_matrix(features: Tensor, colours: Tensor, positions: Tensor) -> Tensor:
    """K = normalised kNN feature affinity over the batch + 0.3 · normalised pixel affinity in each image.

    Args:
        features: whitened tokens (B, S, k). colours: RGB (B, S, 3) in [0, 1].
        positions: xy (B, S, 2) in [0, 1].
    Returns:
        (B·S, B·S), symmetric; no gradient.
    """
    b, s, _ = features.shape
    flat = F.normalize(features.detach().flatten(0, 1), dim=1)
    gram = nearest_neighbour_graph(flat @ flat.T, FEATURE_NEIGHBOURS)
    graphs = []
    for weight, neighbours in PIXEL_NEIGHBOURS:
        z = torch.cat([colours, weight * positions], 2)
        graphs.append(nearest_neighbour_graph(torch.exp(-torch.cdist(z, z).square()), neighbours))
    pixel = sum(graphs) / len(graphs)
    blocks = gram.view(b, s, b, s)
    index = torch.arange(b)
    blocks[index, :, index, :] += PIXEL_WEIGHT * pixel
    return gram


def eigenfunction_losses(probabilities: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """L_fs = −tr(R)/C and L_reg = Σ_{i<j} R̂_ij²/C with R = Ψᵀ K Ψ (paper eq. 14-15).

    Ψ are the class probabilities with unit columns over the batch; R̂ is R with its left factor detached,
    so that a later function yields to an earlier one and not the reverse.

    Args:
        probabilities: F_f (B, S, C). gram: K (B·S, B·S).
    Returns:
        two scalars.
    """
    psi = F.normalize(probabilities.flatten(0, 1), dim=0)
    k_psi = gram @ psi
    classes = psi.shape[1]
    l_fs = -(psi * k_psi).sum() / classes
    r_hat = psi.detach().T @ k_psi
    l_reg = torch.triu(r_hat, diagonal=1).square().sum() / classes
    return l_fs, l_reg
