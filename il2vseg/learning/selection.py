"""Choose the whitening without labels: its dimensions, and whether images are centred; on request also the
number of classes.

*Dimensions* follow from the number of classes asked for: one direction for every class and every pair of
classes, k = C(C + 1)/2; where clusters are kept to be named, half as many again as clusters, if that is more;
at most 64. With fewer, unlike things fall into one cluster. *Centring* is decided by cross-scene stability in
the C + 1 leading dimensions: prototypes found in one part of the footage must label all of it as prototypes
found in the other part do. Clusters that follow scenes rather than things fail that, and they are the failure
that matters: between restarts on the same frames they are perfectly stable.

*Number of classes* (`propose_classes`): the largest whose stability is within a standard deviation of the
best one's, over its own splits and restarts.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from il2vseg.base.errors import UserError
from il2vseg.learning.clustering import adjusted_rand_index, over_clustered_prototypes
from il2vseg.learning.draws import step_generator
from il2vseg.learning.store import FeatureStore
from il2vseg.models.whitening import TokenStatistics, Whitening

MAX_COMPONENTS = 64
TOKENS_PER_IMAGE = 96
SAMPLED_IMAGES = 600
AUTO_CLUSTERS = 32
"""What `--clusters auto` keeps: enough that few clusters hold several things, few enough to look at."""

MAX_CLASSES = 16
"""The largest number of classes that is proposed."""


@dataclass(frozen=True)
class Candidate:
    """A whitening and its cross-scene stability: mean adjusted Rand index, at most 1."""

    components: int
    centre: bool
    stability: float


@dataclass(frozen=True)
class ClassCount:
    """A number of classes and the stability of its clusters: mean and standard deviation."""

    num_classes: int
    stability: float
    spread: float


@dataclass(frozen=True)
class Proposal:
    """The number of classes proposed, and the curve that it was read from."""

    num_classes: int
    curve: tuple[ClassCount, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for num_classes.json."""
        return {"num_classes": self.num_classes, "curve": [vars(c) for c in self.curve]}

    def summary(self) -> str:
        """One line for people."""
        shown = ", ".join(f"{c.num_classes}: {c.stability:.2f}" for c in self.curve)
        return f"number of classes: {self.num_classes} (stability across scenes {shown})"


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


def components_for(num_classes: int, dim: int, clusters: int | None = None) -> int:
    """Whitened dimensions for C classes, and for clusters to be named, on tokens of `dim` channels."""
    wanted = max(num_classes * (num_classes + 1) // 2, 3 * (clusters or 0) // 2)
    return min(wanted, MAX_COMPONENTS, dim)


def cross_scene_stability(z: Tensor, num_classes: int, restarts: int = 3) -> list[float]:
    """Agreement of clusters found in different parts of the footage.

    Two splits in the footage's order: its halves, and its alternate quarters.

    Args:
        z: whitened tokens (n, S, k) of n >= 2 images in order.
    Returns:
        adjusted Rand index over all tokens, one per split and restart.
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
    return scores


def _sample(store: FeatureStore) -> Callable[[Whitening], Tensor]:
    """Whitened tokens (n, S, k) of images and positions spread evenly, by whatever whitening is asked for."""
    every = torch.linspace(0, len(store) - 1, min(len(store), SAMPLED_IMAGES)).long()
    generator = step_generator(0, "choose", 0)
    positions = torch.rand(len(every), store.grid[0] * store.grid[1], generator=generator).argsort(1)
    parts = list(zip(every.split(32), positions[:, :TOKENS_PER_IMAGE].split(32), strict=True))
    return lambda whitening: torch.cat([whitening(store.tokens(images), index) for images, index in parts])


@torch.no_grad()
def propose_classes(
    store: FeatureStore,
    statistics: TokenStatistics,
    centre: bool | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = lambda items: items,
) -> Proposal:
    """Propose a number of classes from 2 to MAX_CLASSES, whatever the seed of the training.

    Args:
        centre: whether images are centred; None takes what is more stable, for every number.
        progress: wraps the iteration over numbers.
    Raises:
        UserError: a single image has no scenes to compare.
    """
    if len(store) < 2:
        raise UserError(
            "--num-classes auto compares scenes and needs more than one image; pass a number of classes"
        )
    sample = _sample(store)
    most = min(MAX_CLASSES, len(statistics.total) - 1)
    centrings = (False, True) if centre is None else (centre,)
    tokens = [sample(statistics.whitening(most + 1, c)) for c in centrings]
    curve = []
    for k in progress(range(2, most + 1)):
        scores = max((cross_scene_stability(z[..., : k + 1], k, 2) for z in tokens), key=fmean)
        curve.append(ClassCount(k, round(fmean(scores), 4), round(pstdev(scores), 4)))
    return Proposal(chosen_count(curve), tuple(curve))


def chosen_count(curve: Sequence[ClassCount]) -> int:
    """The largest number of classes within a standard deviation of the most stable one."""
    best = max(curve, key=lambda c: c.stability)
    return max(c.num_classes for c in curve if c.stability >= best.stability - best.spread)


@torch.no_grad()
def choose_whitening(
    store: FeatureStore,
    statistics: TokenStatistics,
    num_classes: int,
    components: int | None = None,
    centre: bool | None = None,
    progress: Callable[[Iterable[Whitening]], Iterable[Whitening]] = lambda items: items,
    clusters: int | None = None,
) -> Selection:
    """Choose the whitening; the same footage and number of classes give the same choice for any seed.

    Args:
        components, centre: fixed by the user; None for the choice.
        progress: wraps the iteration over candidates.
        clusters: kept to be named, where they are more than the classes.
    """
    dim = len(statistics.total)
    components = components or components_for(num_classes, dim, clusters)
    if centre is not None:
        return Selection(components, centre, "centring set by the user or the method")
    if len(store) < 2:
        return Selection(components, False, "one image: no scenes to compare")
    sample = _sample(store)
    leading = min(num_classes + 1, dim)
    candidates = []
    for whitening in progress([statistics.whitening(leading, c) for c in (False, True)]):
        stability = fmean(cross_scene_stability(sample(whitening), num_classes))
        candidates.append(Candidate(leading, whitening.centre, round(stability, 4)))
    best = max(candidates, key=lambda c: c.stability)
    criterion = "stability across scenes " + ", ".join(
        f"{c.stability:.2f} {'centred' if c.centre else 'not centred'}" for c in candidates
    )
    return Selection(components, best.centre, criterion, tuple(candidates))


def token_statistics(store: FeatureStore) -> TokenStatistics:
    """Accumulate the token statistics of all images of a store."""
    statistics: TokenStatistics | None = None
    for images in torch.arange(len(store)).split(32):
        for tokens in store.tokens(images):
            statistics = statistics or TokenStatistics(tokens.shape[1])
            statistics.update(tokens)
    assert statistics is not None
    return statistics
