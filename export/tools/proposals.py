"""Names for clusters, proposed by a model that has names already, from what both say of the same frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.classes import is_unsure
from il2vseg.base.images import Frame, Labels, resize_labels

if TYPE_CHECKING:
    from il2vseg.data import Dataset


@dataclass(frozen=True)
class Proposal:
    """What a named model says where a cluster is.

    Attributes:
        name: what it says most. agreement: share of the cluster where it says so. shares: of all its names.
    """

    name: str
    agreement: float
    shares: dict[str, float]


def proposals(counts: NDArray[Any], names: Sequence[str]) -> list[Proposal | None]:
    """Propose a name per cluster, None for one that does not occur.

    Args:
        counts: (K, C), pixels of every cluster that the named model gives every class. names: of the C.
    """
    known = [c for c, name in enumerate(names) if not is_unsure(name)]
    found: list[Proposal | None] = []
    for row in np.asarray(counts, np.float64):
        total = row.sum()
        if not total or not known:
            found.append(None)
            continue
        order = sorted(known, key=lambda c: -row[c])
        shares = {names[c]: float(row[c] / total) for c in order if row[c]}
        best = order[0]
        found.append(Proposal(names[best], float(row[best] / total), shares) if row[best] else None)
    return found


def open_named(what: str | Path) -> tuple[tuple[str, ...], Callable[[Frame], Labels]]:
    """A model with names: its names, and BGR frame (H, W, 3) -> class ids (H, W).

    Args:
        what: a bundled model's name or an export, as for `il2vseg run --model`.
    Raises:
        UserError: there is no such model.
    """
    from il2vseg.runtime.backends.providers import open_engine

    engine = open_engine(what, "auto", say=lambda line: None)
    return engine.manifest.class_names, lambda frame: engine(frame).labels


def joint_counts(
    dataset: "Dataset",
    predict: Callable[[Frame], Labels],
    clusters: int,
    like: Callable[[Frame], Labels],
    classes: int,
) -> NDArray[np.int64]:
    """Count how often a cluster and a class are at one place: (K, C).

    Args:
        predict: BGR frame (H, W, 3) -> cluster ids (h, w). like: the same frame -> class ids (H, W).
    """
    counts = np.zeros((clusters, classes), np.int64)
    for sample in dataset:
        own = predict(sample.frame)
        counts += crossed(own, resize_labels(like(sample.frame), own.shape), clusters, classes)
    return counts


def crossed(own: Labels, other: Labels, clusters: int, classes: int) -> NDArray[np.int64]:
    """How often `own` and `other`, ids of one shape, meet: (clusters, classes); higher ids are left out."""
    both = (own < clusters) & (other < classes)
    pairs = own[both].astype(np.int64) * classes + other[both]
    return np.bincount(pairs, minlength=clusters * classes).reshape(clusters, classes)
