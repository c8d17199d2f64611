"""L_nce: object-centric contrast guided by eigen-clusters (EAGLE, Kim et al. 2024: EiCue, L_obj, L_sc).

EiCue: in every image, A = A_code + A_colour, L_sym = I − D^{-1/2} A D^{-1/2}; its eigenvectors of the
smallest eigenvalues but the first, clustered, say which tokens are one object. L_obj draws the embeddings to
the prototype Φ (medoid) of their object and away from those of the image's other objects; L_sc does the same
to the embeddings of the jittered view, with the objects of the original. Both directions are averaged.

Departures: sampled positions instead of the whole grid, which makes the eigen-decomposition cheap; spectral
clustering with k-means on every image (Ng et al. 2002) instead of learned centres shared by all images,
since eigenvectors have neither a sign nor an order in common; tokens of the last layer, where EAGLE
concatenates the keys of three; the embeddings themselves, where it adds a linear projection.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

EIGENVECTORS = 3
TEMPERATURE = 0.07
COLOUR_SIGMA = 0.1
OBJECT_WEIGHT, CORRESPONDENCE_WEIGHT = 0.7, 0.3
"""Of L_nce and of L_corr once the eigen-clusters guide the training."""


def adjacency(embeddings: Tensor, colours: Tensor) -> Tensor:
    """A = max(cos(c_i, c_j), 0) + exp(−‖rgb_i − rgb_j‖²/2σ²).

    Args:
        embeddings: (B, S, d). colours: RGB (B, S, 3) in [0, 1].
    Returns:
        (B, S, S), symmetric, in [0, 2]; no gradient.
    """
    c = F.normalize(embeddings.detach(), dim=2)
    colour = torch.exp(torch.cdist(colours, colours).square() * (-0.5 / COLOUR_SIGMA**2))
    return (c @ c.transpose(1, 2)).clamp_min(0.0) + colour


def leading_eigenvectors(adjacency: Tensor, count: int) -> Tensor:
    """Eigenvectors of the 2nd to (count + 1)-th smallest eigenvalues of L_sym = I − D^{-1/2} A D^{-1/2}.

    Args:
        adjacency: (B, S, S), symmetric, non-negative.
    Returns:
        (B, S, count).
    """
    scale = adjacency.sum(2).clamp_min(1e-6).rsqrt()
    normalized = adjacency * scale[:, :, None] * scale[:, None, :]
    # The smallest eigenvalues of L_sym are the largest of this, which are the last.
    vectors: Tensor = torch.linalg.eigh(normalized).eigenvectors.flip(2)
    return vectors[:, :, 1 : count + 1]


def cluster_rows(x: Tensor, k: int, iterations: int = 10) -> Tensor:
    """k-means of every image's rows: farthest-first seeds, then Lloyd steps. Deterministic.

    Args:
        x: (B, S, e).
    Returns:
        labels (B, S) in 0 … k−1; some may be unused.
    """
    b, s, _ = x.shape
    rows = torch.arange(b, device=x.device)
    centres = x[rows, (x - x.mean(1, keepdim=True)).square().sum(2).argmax(1)].unsqueeze(1)
    for _ in range(min(k, s) - 1):
        farthest = torch.cdist(x, centres).amin(2).argmax(1)
        centres = torch.cat([centres, x[rows, farthest].unsqueeze(1)], 1)
    labels = torch.cdist(x, centres).argmin(2)
    for _ in range(iterations):
        member = F.one_hot(labels, centres.shape[1]).to(x)
        size = member.sum(1).unsqueeze(2)
        centres = torch.where(size > 0, member.transpose(1, 2) @ x / size.clamp_min(1.0), centres)
        labels = torch.cdist(x, centres).argmin(2)
    return labels


def eigen_clusters(embeddings: Tensor, colours: Tensor, k: int) -> Tensor:
    """EiCue: objects of every image, arguments as `adjacency` -> labels (B, S) in 0 … k−1."""
    # k objects far apart are k − 1 eigenvectors; the next is noise inside one of them.
    vectors = leading_eigenvectors(adjacency(embeddings, colours), max(1, min(EIGENVECTORS, k - 1)))
    return cluster_rows(F.normalize(vectors, dim=2), k)


def medoids(embeddings: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The embedding in every object whose cosines to the object's embeddings have the largest sum.

    Args:
        embeddings: unit vectors (B, S, d). labels: (B, S) in 0 … k−1.
    Returns:
        Φ (B, k, d) and which objects exist (B, k) bool.
    """
    member = F.one_hot(labels, k).to(embeddings)
    central = (embeddings @ (member.transpose(1, 2) @ embeddings).transpose(1, 2)).masked_fill(
        member == 0, -torch.inf
    )
    chosen = central.argmax(1)
    return torch.take_along_dim(embeddings, chosen.unsqueeze(2), 1), member.any(1)


def object_contrast(embeddings: Tensor, prototypes: Tensor, present: Tensor, labels: Tensor) -> Tensor:
    """−mean_i log(exp(z_i·Φ_{M_i}/τ) / Σ_k exp(z_i·Φ_k/τ)) over the objects that the image has.

    Args:
        embeddings: unit vectors (B, S, d). prototypes: Φ (B, k, d), unit. present: (B, k). labels: M (B, S).
    Returns:
        scalar.
    """
    logits = embeddings @ prototypes.transpose(1, 2) / TEMPERATURE
    logits = logits.masked_fill(~present[:, None], -torch.inf)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def eigen_aggregation_loss(embeddings: Tensor, embeddings_view: Tensor, colours: Tensor, k: int) -> Tensor:
    """L_nce = ½ Σ over both directions of ½ (L_obj + L_sc).

    Args:
        embeddings, embeddings_view: (B, S, d) of the images and of their jittered views. colours: RGB (B, S,
        3). k: objects looked for in an image.
    Returns:
        scalar.
    """
    z, z_view = F.normalize(embeddings, dim=2), F.normalize(embeddings_view, dim=2)
    loss = embeddings.new_zeros(())
    for own, other in ((z, z_view), (z_view, z)):
        labels = eigen_clusters(own, colours, k)
        prototypes, present = medoids(own, labels, k)
        for seen in (own, other):
            loss = loss + 0.25 * object_contrast(seen, prototypes, present, labels)
    return loss
