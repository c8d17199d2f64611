"""How like its training an image is, as a whole and cell by cell, in the student's own features.

A network is as sure on a road as on a river. Its features are not: whitened over the training footage, those
of other footage lie far from all that it saw there. The distance of a cell to the nearest of some centres
becomes a confidence by its rank on footage that the centres have not seen: of familiar cells a share p has a
confidence below p. What cells cannot tell, their mean and spread over the image do: an image far from every
known scene has no confidence anywhere. No labels are needed, and it costs one small convolution.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CENTRES = 128
SCENES = 192
"""Images of the footage that a new one is compared with as a whole."""

USUAL, STRANGE = 0.95, 1.15
"""Up to the distance of this share of unseen familiar images an image is as good as any; at so many times
that distance there is no confidence left."""

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
    scene_whiten: Tensor
    scene_shift: Tensor
    scenes: Tensor
    limits: Tensor

    def __init__(self, width: int, scenes: int) -> None:
        """Make an empty one for features of `width` channels and so many scenes; `fit_novelty` fills it."""
        super().__init__()
        self.register_buffer("scene_whiten", torch.zeros(2 * width, 2 * width))
        self.register_buffer("scene_shift", torch.zeros(2 * width))
        self.register_buffer("scenes", torch.zeros(scenes, 2 * width))
        # Distances up to which an image is familiar, and from which on it is strange.
        self.register_buffer("limits", torch.tensor([1.0, 2.0]))
        self.register_buffer("whiten", torch.zeros(width, width))
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("centres", torch.zeros(CENTRES, width))
        # Rising distances at which the confidence is one of KNOTS.
        self.register_buffer("knots", torch.arange(float(len(KNOTS))))

    def distance(self, features: Tensor) -> Tensor:
        """Root mean square whitened distance to the nearest centre: (B, D, h, w) -> (B, 1, h, w)."""
        return self._distance(features).reshape(features.shape[0], 1, *features.shape[2:])

    def _distance(self, features: Tensor) -> Tensor:
        """As `distance`, (B h w, 1): the best of many numbers is found faster where they lie together."""
        z = F.conv2d(features, self.whiten[..., None, None], self.shift).clamp(-REACH, REACH)
        return _to_nearest(z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]), self.centres)

    def strangeness(self, features: Tensor) -> Tensor:
        """Root mean square whitened distance of images to the nearest known scene: (B, D, h, w) -> (B, 1)."""
        z = F.linear(moments(features), self.scene_whiten, self.scene_shift)
        return _to_nearest(z, self.scenes)

    def forward(self, features: Tensor) -> Tensor:
        """Confidence (B, h, w) in [0, 1] of features (B, D, h, w)."""
        d = self._distance(features)
        values = torch.tensor(KNOTS, device=d.device)
        slopes = values.diff() / self.knots.diff().clamp_min(1e-6)
        change = torch.cat([slopes[:1], slopes.diff(), -slopes[-1:]])
        # Piecewise linear: a sum of ramps. As products, because a runtime adds a bias in passing.
        ramps = F.linear(d, torch.ones_like(self.knots)[:, None], -self.knots).relu()
        cells = F.linear(ramps, change[None], torch.ones(1, device=d.device)).clamp(0.0, 1.0)
        near, far = self.limits[0], self.limits[1]
        whole = ((far - self.strangeness(features)) / (far - near)).clamp(0.0, 1.0)
        return cells.reshape(features.shape[0], *features.shape[2:]) * whole[..., None]


def _to_nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Root mean square distance of points (n, D) to the nearest of centres (k, D): (n, 1)."""
    # |z - c|^2 = |z|^2 - (2 z.c - |c|^2): two products for all, with the mean over D inside their weights.
    width = centres.shape[1]
    cross = F.linear(points, (2.0 / width) * centres, -(centres * centres).mean(1))
    square = (points * points) @ torch.full_like(centres[0], 1.0 / width)[:, None]
    return (square - cross.amax(1, keepdim=True)).clamp_min(1e-6).sqrt()


def moments(features: Tensor) -> Tensor:
    """Mean and standard deviation of every channel over an image: (B, D, h, w) -> (B, 2 D)."""
    mean = features.mean((2, 3))
    variance = (features * features).mean((2, 3)) - mean * mean
    return torch.cat([mean, (variance.clamp_min(0.0) + 1e-6).sqrt()], 1)


def _k_means(x: Tensor, centres: int, generator: torch.Generator, rounds: int = 20) -> Tensor:
    """Centres (centres, D) of points (n, D), from a random start."""
    found = x[torch.randperm(len(x), generator=generator)[:centres]].clone()
    for _ in range(rounds):
        nearest = torch.cdist(x, found).argmin(1)
        sums = torch.zeros_like(found).index_add_(0, nearest, x)
        counts = torch.bincount(nearest, minlength=len(found)).clamp_min(1)
        found = sums / counts[:, None]
    return found


def _whitening(x: Tensor, floor: float = FLOOR) -> tuple[Tensor, Tensor]:
    """Basis (D, D) and shift (D,) that give points (n, D) unit variance in every direction but noise."""
    x = x.double()
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((x - mean).T))
    basis = (vectors * values.clamp_min(floor * float(values.max())).rsqrt()).T
    return basis.float(), -(basis @ mean).float()


@torch.no_grad()
def fit_novelty(features: Sequence[Tensor], seed: int = 0) -> Novelty:
    """Fit whitening, centres and known scenes to every other image of the footage, and the confidence to the
    rest.

    Args:
        features: of every training image in its order (D, h, w).
    """
    first, second = features[::2], features[1::2] or features
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat([f.float().flatten(1).T for f in first])
    x = x[torch.randperm(len(x), generator=generator)[:60_000]]
    scenes = torch.cat([moments(f[None].float()) for f in first])
    scenes = scenes[torch.linspace(0, len(scenes) - 1, min(SCENES, len(scenes))).long()]
    module = Novelty(x.shape[1], len(scenes))
    for basis, shift, points in (
        (module.whiten, module.shift, x),
        (module.scene_whiten, module.scene_shift, scenes),
    ):
        found = _whitening(points)
        basis.copy_(found[0])
        shift.copy_(found[1])
    z = x @ module.whiten.T + module.shift
    centres = min(CENTRES, len(z))
    module.centres.copy_(_k_means(z, centres, generator)[torch.arange(CENTRES) % centres])
    module.scenes.copy_(scenes @ module.scene_whiten.T + module.scene_shift)
    distances = torch.cat([module.distance(f[None].float()).flatten() for f in second])
    quantiles = torch.quantile(distances[:: max(1, len(distances) // 500_000)], 1.0 - torch.tensor(KNOTS))
    # Rising by more than half precision may lose; beyond the farthest familiar cell the confidence is 0.
    module.knots.copy_(quantiles * (1.0 + 0.002 * torch.arange(float(len(KNOTS)))))
    usual = torch.quantile(torch.cat([module.strangeness(f[None].float()) for f in second]), USUAL)
    module.limits.copy_(torch.stack([usual, STRANGE * usual]))
    for buffer in module.buffers():
        buffer.copy_(buffer.half())
    return module


LIMITS = {"cell": 0.02, "frame": 0.5}
"""Cells of less confidence are unlike the training footage; an image with a larger share of them is, too."""
