"""How like its training an image is, cell by cell: distance in the student's own features.

A network is as sure on a road as on a river. Its features are not: whitened over the training footage, those
of other footage lie far from all that it saw there. The distance to the nearest of some centres becomes
a confidence by its rank on footage that the centres have not seen: of familiar cells a share p has a
confidence below p. No labels are needed, and it costs one small convolution.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CENTRES = 48
KNOTS = (1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003, 0.0)
"""Confidences between which it is linear in the distance."""

FLOOR = 1e-3
"""Least variance of a whitened direction, relative to the largest: below is noise."""

REACH = 30.0
"""Whitened features are clipped here, so that their squares fit half precision."""


class Novelty(nn.Module):
    """Confidence of features at stride 16; see the module."""

    whiten: Tensor
    shift: Tensor
    centres: Tensor
    knots: Tensor

    def __init__(self, width: int) -> None:
        """Make an empty one for features of `width` channels; `fit_novelty` fills it."""
        super().__init__()
        self.register_buffer("whiten", torch.zeros(width, width))
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("centres", torch.zeros(CENTRES, width))
        # Rising distances at which the confidence is one of KNOTS.
        self.register_buffer("knots", torch.arange(float(len(KNOTS))))

    def distance(self, features: Tensor) -> Tensor:
        """Root mean square whitened distance to the nearest centre: (B, D, h, w) -> (B, 1, h, w)."""
        z = F.conv2d(features, self.whiten[..., None, None], self.shift).clamp(-REACH, REACH)
        # |z − c|² = |z|² − (2 z·c − |c|²): one convolution for all centres.
        cross = F.conv2d(z, 2.0 * self.centres[..., None, None], -(self.centres**2).sum(1))
        nearest = (z * z).sum(1, keepdim=True) - cross.amax(1, keepdim=True)
        return (nearest / z.shape[1]).clamp_min(1e-6).sqrt()

    def forward(self, features: Tensor) -> Tensor:
        """Confidence (B, 1, h, w) in [0, 1] of features (B, D, h, w)."""
        d = self.distance(features)
        values = torch.tensor(KNOTS, device=d.device)
        slopes = values.diff() / self.knots.diff().clamp_min(1e-6)
        change = torch.cat([slopes[:1], slopes.diff(), -slopes[-1:]])
        # Piecewise linear: a sum of ramps, one convolution and a ReLU.
        ones = torch.ones(len(KNOTS), 1, 1, 1, device=d.device)
        ramps = F.conv2d(d, ones, -self.knots).relu()
        return (1.0 + F.conv2d(ramps, change.reshape(1, -1, 1, 1))).clamp(0.0, 1.0)


def _k_means(x: Tensor, centres: int, generator: torch.Generator, rounds: int = 20) -> Tensor:
    """Centres (centres, D) of points (n, D), from a random start."""
    found = x[torch.randperm(len(x), generator=generator)[:centres]].clone()
    for _ in range(rounds):
        nearest = torch.cdist(x, found).argmin(1)
        sums = torch.zeros_like(found).index_add_(0, nearest, x)
        counts = torch.bincount(nearest, minlength=len(found)).clamp_min(1)
        found = sums / counts[:, None]
    return found


@torch.no_grad()
def fit_novelty(features: Sequence[Tensor], seed: int = 0, blocks: int = 8) -> tuple[Novelty, list[float]]:
    """Fit whitening and centres to half of the footage, and the confidence to the other half.

    Args:
        features: of every training image in its order (D, h, w); whole blocks of consecutive images go to
            either half, since neighbours are nearly the same image.
    Returns:
        the module, and the share of cells with a confidence under LOW for every image of the second half.
    """
    index = torch.arange(len(features)) * blocks // max(1, len(features))
    first = [f for f, i in zip(features, index.tolist(), strict=True) if i % 2 == 0]
    second = [f for f, i in zip(features, index.tolist(), strict=True) if i % 2 == 1] or first
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat([f.float().flatten(1).T for f in first]).double()
    x = x[torch.randperm(len(x), generator=generator)[:60_000]]
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((x - mean).T))
    scale = values.clamp_min(FLOOR * float(values.max())).rsqrt()
    basis = (vectors * scale).T
    module = Novelty(x.shape[1])
    module.whiten.copy_(basis)
    module.shift.copy_(-(basis @ mean))
    z = ((x - mean) @ basis.T).float()
    centres = min(CENTRES, len(z))
    module.centres.copy_(_k_means(z, centres, generator)[torch.arange(CENTRES) % centres])
    distances = torch.cat([module.distance(f[None].float()).flatten() for f in second])
    quantiles = torch.quantile(distances[:: max(1, len(distances) // 500_000)], 1.0 - torch.tensor(KNOTS))
    # Rising by more than half precision may lose; beyond the farthest familiar cell the confidence is 0.
    module.knots.copy_(quantiles * (1.0 + 0.002 * torch.arange(float(len(KNOTS)))))
    for buffer in module.buffers():
        buffer.copy_(buffer.half())
    shares = [float((module(f[None].float()) < LOW).float().mean()) for f in second]
    return module, shares


LOW = 0.02
"""Cells of less confidence are unlike the training footage."""


def frame_limit(shares: Sequence[float]) -> float:
    """Share of unlike cells above which an image is unlike the footage: clear of all familiar ones."""
    return min(0.9, max(0.1, 1.5 * max(shares, default=0.0)))
