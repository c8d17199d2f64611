"""Choose without labels whether all images are evened in exposure, or only those that are dark.

Both forms are tried on the footage, and compared by *agreement times contrast*: how well several clusterings
agree (mean adjusted Rand index), times how much more the colours of neighbouring tokens differ across the
borders of their classes than inside them. Agreement alone prefers what is steady, also where it is steadily
wrong; contrast alone prefers what cuts an image up by colour. Both are means over all clusterings: of one of
them, and of fewer frames, the draw decides (docs/experiments.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor

from il2vseg.learning.clustering import agreeing_clusterings
from il2vseg.learning.draws import step_generator
from il2vseg.learning.selection import token_statistics
from il2vseg.learning.store import FeatureStore
from il2vseg.models.whitening import Whitening

FRAMES = 512
"""Frames of the footage that are looked at, at most."""

MARGIN = 0.02
"""By how much the criterion must be better to even all images."""

RESTARTS = 16
SEEN_TOKENS = 20_000
"""Tokens that a clustering sees."""


@dataclass(frozen=True)
class Lighting:
    """What was chosen, and the agreement times contrast of both forms."""

    dark_only: bool
    everything: float
    dark: float

    def summary(self) -> str:
        """One line for people."""
        what = "dark images alone" if self.dark_only else "all images"
        return (
            f"exposure: {what} evened (agreement times contrast {self.everything:.2f} all, "
            f"{self.dark:.2f} dark alone)"
        )


def border_contrast(labels: Tensor, colours: Tensor) -> float:
    """Mean colour distance of neighbours of different labels over that of neighbours of the same label.

    Args:
        labels: (n, h, w). colours: (n, 3, h, w).
    Returns:
        0 where all labels are the same.
    """
    across, inside = [], []
    for axis in (1, 2):
        last = labels.shape[axis] - 1
        differ = labels.narrow(axis, 0, last) != labels.narrow(axis, 1, last)
        step = colours.narrow(axis + 1, 0, last) - colours.narrow(axis + 1, 1, last)
        distance = step.norm(dim=1)
        across.append(distance[differ])
        inside.append(distance[~differ])
    between, within = torch.cat(across), torch.cat(inside)
    if not len(between) or not len(within):
        return 0.0
    return float(between.mean() / within.mean().clamp_min(1e-6))


@torch.no_grad()
def agreement_times_contrast(store: FeatureStore, clusters: int, components: int, centre: bool) -> float:
    """The criterion, for clusters of the whitened tokens; the same for any seed of the training."""
    whitening = token_statistics(store).whitening(components, centre)
    tokens = torch.cat([_unit(whitening, store, images) for images in torch.arange(len(store)).split(16)])
    generator = step_generator(0, "lighting", 0)
    found, agreement = agreeing_clusterings(tokens.flatten(0, 1), clusters, generator, RESTARTS, SEEN_TOKENS)
    colours = store.colours(torch.arange(len(store)), 1)
    contrast = [
        border_contrast((tokens @ prototypes.T).argmax(2).unflatten(1, store.grid), colours)
        for prototypes in found
    ]
    return mean(agreement) * mean(contrast)


def _unit(whitening: Whitening, store: FeatureStore, images: Tensor) -> Tensor:
    return F.normalize(whitening(store.tokens(images)), dim=2)


def choose_lighting(
    store: Callable[[bool], FeatureStore], clusters: int, components: int, centre: bool
) -> Lighting:
    """Compare the two forms.

    Args:
        store: the sample's tokens, of images evened only where dark (True) or all of them (False).
        clusters: to be found, in whitened dimensions `components`. centre: whether images are centred.
    """
    everything, dark = (
        agreement_times_contrast(store(dark_only), clusters, components, centre)
        for dark_only in (False, True)
    )
    return Lighting(everything <= (1.0 + MARGIN) * dark, round(everything, 4), round(dark, 4))
