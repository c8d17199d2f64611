"""Names of clusters: clusters with the same name are one class; some names mean `unsure`."""

from collections.abc import Sequence

UNSURE = "unsure"
"""The customary name of a cluster that holds several things."""

_UNSURE_NAMES = frozenset({UNSURE, "ignore"})


OBSTACLE = "obstacle"
SKY = "sky"
GROUNDS = ("water", "road")
"""Names of classes that obstacles stand on, the first of them that a model has."""
WATER, ROAD = GROUNDS


def is_unsure(name: str) -> bool:
    """Whether clusters with this name belong to no class: they teach a student nothing, and where masks score
    a model, they are wrong."""
    return name.lower() in _UNSURE_NAMES


def ground_of(names: Sequence[str]) -> str | None:
    """The class that obstacles stand on; None without one, or without the class obstacle.

    >>> ground_of(["sky", "road", "obstacle"])
    'road'
    """
    return next((name for name in GROUNDS if name in names), None) if OBSTACLE in names else None


def merge(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Classes in the order in which they first appear, and for every cluster the index of its class.

    >>> merge(["water", "sky", "water"])
    (('water', 'sky'), (0, 1, 0))
    """
    classes = tuple(dict.fromkeys(names))
    return classes, tuple(classes.index(name) for name in names)
