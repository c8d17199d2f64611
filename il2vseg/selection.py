"""Choosing the whitening without labels: the number of dimensions, and whether images are centred.

*Dimensions* follow from the number of classes asked for: one direction for every class and every pair of
classes, k = C(C + 1)/2, at most 64. *Centring* is decided by cross-scene stability in the C + 1 leading
dimensions: prototypes found in one part of the footage must label all of it as prototypes found in the
other part do. Clusters that follow scenes rather than things fail that, and they are the failure that
matters: between restarts on the same frames they are perfectly stable.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from il2vseg.clustering import over_clustered_prototypes
from il2vseg.training import TokenBank, step_generator
from il2vseg.whitening import TokenStatistics, Whitening

MAX_COMPONENTS = 64
TOKENS_PER_IMAGE = 96
SAMPLED_IMAGES = 600


@dataclass(frozen=True)
class Candidate:
    """A whitening and its cross-scene stability: mean adjusted Rand index, at most 1."""

    components: int
    centre: bool
    stability: float


@dataclass(frozen=True)
class Selection:
    """The whitening chosen, and how."""

    components: int
    centre: bool
    criterion: str
    candidates: tuple[Candidate, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {
            "components": self.components,
            "centre": self.centre,
            "criterion": self.criterion,
            "candidates": [vars(c) for c in self.candidates],
        }

    def summary(self) -> str:
        """One line for people."""
        centred = "tokens centred per image" if self.centre else "tokens not centred"
        return f"whitening: {self.components} dimensions, {centred} ({self.criterion})"


def adjusted_rand_index(a: Tensor, b: Tensor) -> float:
    """Agreement of two labelings (N,) up to renaming: 1 identical, 0 chance (Hubert & Arabie 1985)."""
    table = torch.zeros(int(a.max()) + 1, int(b.max()) + 1, dtype=torch.float64)
    table.index_put_((a, b), torch.ones(len(a), dtype=torch.float64), accumulate=True)

    def pairs(counts: Tensor) -> Tensor:
        return (counts * (counts - 1) / 2).sum()

    together, rows, columns = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    expected = rows * columns / pairs(table.sum())
    best = (rows + columns) / 2
    return 1.0 if bool(best == expected) else float((together - expected) / (best - expected))


def components_for(num_classes: int, dim: int) -> int:
    """Whitened dimensions for C classes on tokens of `dim` channels."""
    return min(num_classes * (num_classes + 1) // 2, MAX_COMPONENTS, dim)


def cross_scene_stability(z: Tensor, num_classes: int, restarts: int = 3) -> float:
    """Agreement of clusters found in different parts of the footage.

    Two splits in the footage's order: its halves, and its alternate quarters.

    Args:
        z: whitened tokens (n, S, k) of n >= 2 images in order.
    Returns:
        mean adjusted Rand index over all tokens, splits and restarts.
    """
    n = len(z)
    tokens = F.normalize(z, dim=2)
    quarter = torch.arange(n) * 4 // n
    scores = []
    for part in (quarter < 2, quarter % 2 == 0):
        if not part.any() or part.all():
            part = torch.arange(n) % 2 == 0
        for restart in range(restarts):
            labels = []
            for half in (part, ~part):
                generator = step_generator(restart, "select", 0)
                prototypes = over_clustered_prototypes(tokens[half].flatten(0, 1), num_classes, generator)
                labels.append((tokens @ prototypes.T).argmax(2).flatten())
            scores.append(adjusted_rand_index(*labels))
    return sum(scores) / len(scores)


@torch.no_grad()
def choose_whitening(
    bank: TokenBank,
    statistics: TokenStatistics,
    num_classes: int,
    components: int | None = None,
    centre: bool | None = None,
    progress: Callable[[Iterable[Whitening]], Iterable[Whitening]] = lambda items: items,
) -> Selection:
    """Choose the whitening; the same footage and number of classes give the same choice for any seed.

    Args:
        components, centre: fixed by the user; None for the choice.
        progress: wraps the iteration over candidates.
    """
    dim = len(statistics.total)
    components = components or components_for(num_classes, dim)
    if centre is not None:
        return Selection(components, centre, "centring set by the user")
    if len(bank) < 2:
        return Selection(components, False, "one image: no scenes to compare")
    every = torch.linspace(0, len(bank) - 1, min(len(bank), SAMPLED_IMAGES)).long()
    generator = step_generator(0, "choose", 0)
    positions = torch.rand(len(every), bank.grid[0] * bank.grid[1], generator=generator).argsort(1)
    parts = list(zip(every.split(32), positions[:, :TOKENS_PER_IMAGE].split(32), strict=True))
    leading = min(num_classes + 1, dim)
    candidates = []
    for whitening in progress([statistics.whitening(leading, c) for c in (False, True)]):
        z = torch.cat([whitening(bank.tokens(images), index) for images, index in parts])
        stability = cross_scene_stability(z, num_classes)
        candidates.append(Candidate(leading, whitening.centre, round(stability, 4)))
    best = max(candidates, key=lambda c: c.stability)
    criterion = "stability across scenes " + ", ".join(
        f"{c.stability:.2f} {'centred' if c.centre else 'not centred'}" for c in candidates
    )
    return Selection(components, best.centre, criterion, tuple(candidates))


def token_statistics(bank: TokenBank) -> TokenStatistics:
    """Accumulate the token statistics of all images of a bank."""
    statistics: TokenStatistics | None = None
    for images in torch.arange(len(bank)).split(32):
        for tokens in bank.tokens(images):
            statistics = statistics or TokenStatistics(tokens.shape[1])
            statistics.update(tokens)
    assert statistics is not None
    return statistics
