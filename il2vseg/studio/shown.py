"""What the page shows, as plain values."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from il2vseg.base.palette import class_colors
from il2vseg.studio.project import Project
from il2vseg.studio.session import Session, default_name

if TYPE_CHECKING:
    from il2vseg.studio.desk import Desk

SUGGESTED = (
    "water",
    "sky",
    "obstacle",
    "land",
    "vegetation",
    "road",
    "building",
    "person",
    "car",
    "own boat",
)

SENSIBLE = 95.0
"""A student that agrees with its teacher on less, in %, has learned too little."""


def clusters(desk: "Desk", revision: int, like: str | None) -> dict[str, Any]:
    """The clusters and their classes.

    Args:
        revision: of the state that they are of. like: a named model whose proposals are asked for.
    """
    cards = desk.clusters(like)
    names = [default_name(c["id"]) if c["name"] is None else c["name"] for c in cards]
    colours = dict(zip(names, class_colors(names), strict=True))
    shares: dict[str, float] = {}
    for card in cards:
        card["color"] = list(class_colors([default_name(card["id"])])[0])
        if card["name"] is not None:
            shares[card["name"]] = shares.get(card["name"], 0.0) + card["share"]
    ordered = sorted(shares, key=lambda n: -shares[n])
    return {
        "revision": revision,
        "clusters": cards,
        "classes": [{"name": n, "color": list(colours[n]), "share": round(shares[n], 5)} for n in ordered],
        "suggested": list(SUGGESTED),
        "size": list(desk.size),
    }


def named(session: Session | None) -> dict[str, int]:
    """How many clusters have names, and how many steps can be undone and redone."""
    if session is None:
        return {"clusters": 0, "named": 0, "undo": 0, "redo": 0}
    names = session.naming.names
    return {
        "clusters": len(names),
        "named": sum(name != default_name(k) for k, name in enumerate(names)),
        "undo": len(session.steps),
        "redo": len(session.undone),
    }


def _read(folders: Sequence[Path], name: str) -> dict[str, Any] | None:
    for folder in folders:
        with suppress(OSError, ValueError):
            values: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
            return values
    return None


def parity(project: Project) -> dict[str, Any] | None:
    """The parity report of the export, or of one that was refused."""
    return _read((project.export / "rejected", project.export), "parity.json")


def agreement(project: Project) -> dict[str, Any] | None:
    """How far the student agrees with its teacher; low: so little that it should learn longer."""
    values: Mapping[str, Any] | None = _read((project.student,), "agreement.json")
    return None if values is None else {**values, "low": values["agreement"] < SENSIBLE}
