"""Names of clusters: clusters with the same name are one class; some names mean `unsure`."""

from collections.abc import Sequence

UNSURE = "unsure"
"""The customary name of a cluster that holds several things."""

_UNSURE_NAMES = frozenset({UNSURE, "ignore"})


def is_unsure(name: str) -> bool:
    """Whether clusters with this name belong to no class: they teach a student nothing, and where masks score
    a model, they are wrong."""
    return name.lower() in _UNSURE_NAMES


def merge(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Classes in the order in which they first appear, and for every cluster the index of its class.

    >>> merge(["water", "sky", "water"])
    (('water', 'sky'), (0, 1, 0))
    """
    classes = tuple(dict.fromkeys(names))
    return classes, tuple(classes.index(name) for name in names)
