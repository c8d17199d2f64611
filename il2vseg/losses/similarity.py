"""Feature similarities in units of the data, the shared weight of the pairwise losses."""

import torch.nn.functional as F
from torch import Tensor


def standardized_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarities with the mean of every row removed, in units of their standard deviation.

    The papers subtract constants (b₁, b₂ of SmooSeg; b of STEGO) tuned to one backbone and data set; with
    whitened tokens of other footage they attract everything. In units of the data the zero is "as similar
    as usual for this position".

    Args:
        a: (B, S, k). b: (B, S', k).
    Returns:
        (B, S, S'), each row zero-mean, unit variance over the whole tensor; no gradient.
    """
    s = F.normalize(a.detach(), dim=2) @ F.normalize(b.detach(), dim=2).transpose(1, 2)
    s = s - s.mean(2, keepdim=True)
    return s / s.square().mean().sqrt().clamp_min(1e-6)
