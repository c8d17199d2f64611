"""What a person decided while naming, as a list of steps: undo drops the last one, the rest is a fold.

Pure values: no file, no model. Prototypes are rows of float32, in JSON as base64.
"""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.evaluation.clicks import Click

Step = Mapping[str, Any]
"""One decision, of plain values; its "do" says which: name, divide, carry, click, unclick."""

MAX_NAME = 40
"""Letters of a name."""


def default_name(cluster: int) -> str:
    """What a cluster is called before anyone named it."""
    return f"class {cluster}"


def is_default(name: str) -> bool:
    """Whether a name is one that training gives."""
    return name.startswith("class ") and name[6:].isdigit()


def clean_name(text: object) -> str:
    """A name as it is kept: one line, single spaces.

    Raises:
        UserError: it is empty, too long or no text.
    """
    name = " ".join(text.split()) if isinstance(text, str) else ""
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise UserError(f"a name has between 1 and {MAX_NAME} letters")
    return name


def encode(rows: NDArray[np.float32]) -> list[str]:
    """Rows (n, d) as text."""
    return [base64.b64encode(np.ascontiguousarray(row, "<f4").tobytes()).decode() for row in rows]


def decode(rows: Sequence[str]) -> NDArray[np.float32]:
    """What `encode` made."""
    return np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in rows]).astype(np.float32)


@dataclass(frozen=True)
class Naming:
    """Clusters, their names, and clicks.

    Attributes:
        names: one per cluster. prototypes: (K, d). parents: the cluster that one was divided from, or None.
        clicks: points that a person named. problems: why a cluster took no name over, by its number.
    """

    names: tuple[str, ...]
    prototypes: NDArray[np.float32]
    parents: tuple[int | None, ...]
    clicks: tuple[Click, ...] = ()
    problems: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def after(self, step: Step) -> "Naming":
        """The state after one more step.

        Raises:
            UserError: it does not fit, or is none.
        """
        do = _STEPS.get(str(step.get("do")))
        if do is None:
            raise UserError(f"no such step: {step.get('do')}")
        return do(self, step)

    def cluster(self, value: object) -> int:
        """A cluster's number.

        Raises:
            UserError: there is no such cluster.
        """
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(self.names):
            raise UserError(f"there is no cluster {value}; they are 0 to {len(self.names) - 1}")
        return value

    def renamed(self, names: Sequence[str]) -> "Naming":
        """Other names."""
        return dataclasses.replace(self, names=tuple(names))


def _name(naming: Naming, step: Step) -> Naming:
    """{"clusters": [3, 5], "name": "water"}; a name of None takes the names away."""
    names = list(naming.names)
    given = None if step.get("name") is None else clean_name(step["name"])
    chosen = step.get("clusters")
    if not isinstance(chosen, list) or not chosen:
        raise UserError("choose a cluster to name")
    for value in chosen:
        cluster = naming.cluster(value)
        names[cluster] = default_name(cluster) if given is None else given
    return naming.renamed(names)


def _accept(naming: Naming, step: Step) -> Naming:
    """{"names": {"3": "water"}}: a name per cluster, at once."""
    given = step.get("names")
    if not isinstance(given, dict) or not given:
        raise UserError("there is no proposal to accept")
    names = list(naming.names)
    for cluster, name in given.items():
        names[naming.cluster(int(cluster) if str(cluster).isdigit() else cluster)] = clean_name(name)
    return naming.renamed(names)


def _divide(naming: Naming, step: Step) -> Naming:
    """{"cluster": 3, "prototypes": [...]}: the first takes its place, the others come at the end."""
    cluster, parts = naming.cluster(step.get("cluster")), decode(step["prototypes"])
    prototypes = naming.prototypes.copy()
    prototypes[cluster] = parts[0]
    old, count = naming.names[cluster], len(naming.names)
    added = range(count, count + len(parts) - 1)
    return dataclasses.replace(
        naming,
        prototypes=np.concatenate([prototypes, parts[1:]]),
        names=(*naming.names, *(default_name(k) if is_default(old) else old for k in added)),
        parents=(*naming.parents, *(cluster for _ in added)),
    )


def _carry(naming: Naming, step: Step) -> Naming:
    """{"names": [...], "problems": {"3": "is like no named cluster"}}: names of an earlier model."""
    problems = {int(k): str(text) for k, text in step["problems"].items()}
    return dataclasses.replace(naming.renamed([clean_name(n) for n in step["names"]]), problems=problems)


def _click(naming: Naming, step: Step) -> Naming:
    """{"frame": ..., "x": ..., "y": ..., "name": ..., "asked": ...}"""
    try:
        values = {k: v for k, v in step.items() if k != "do"}
        click = Click.of(values | {"name": clean_name(values.get("name"))})
    except ValueError as error:
        raise UserError(str(error)) from None
    return dataclasses.replace(naming, clicks=(*naming.clicks, click))


def _unclick(naming: Naming, step: Step) -> Naming:
    """{"index": 3}"""
    index = step.get("index")
    if not isinstance(index, int) or not 0 <= index < len(naming.clicks):
        raise UserError("there is no such point")
    return dataclasses.replace(naming, clicks=naming.clicks[:index] + naming.clicks[index + 1 :])


_STEPS = {
    "name": _name,
    "accept": _accept,
    "divide": _divide,
    "carry": _carry,
    "click": _click,
    "unclick": _unclick,
}


@dataclass(frozen=True)
class Session:
    """A beginning, the steps since then, and those that were undone (the last one first to come back)."""

    start: Naming
    steps: tuple[Step, ...] = ()
    undone: tuple[Step, ...] = ()

    @property
    def naming(self) -> Naming:
        """The state after all steps."""
        naming = self.start
        for step in self.steps:
            naming = naming.after(step)
        return naming

    def doing(self, step: Step) -> "Session":
        """One more step; what was undone cannot come back then.

        Raises:
            UserError: it does not fit.
        """
        self.naming.after(step)
        return Session(self.start, (*self.steps, step))

    def undo(self) -> "Session":
        """Without the last step.

        Raises:
            UserError: there is none.
        """
        if not self.steps:
            raise UserError("there is nothing to undo")
        return Session(self.start, self.steps[:-1], (*self.undone, self.steps[-1]))

    def redo(self) -> "Session":
        """With the step that was undone last.

        Raises:
            UserError: there is none.
        """
        if not self.undone:
            raise UserError("there is nothing to redo")
        return Session(self.start, (*self.steps, self.undone[-1]), self.undone[:-1])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        start = self.start
        return {
            "names": list(start.names),
            "prototypes": encode(start.prototypes),
            "parents": list(start.parents),
            "clicks": [dataclasses.asdict(c) for c in start.clicks],
            "steps": [dict(s) for s in self.steps],
            "undone": [dict(s) for s in self.undone],
        }

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Session":
        """What `to_dict` made."""
        start = Naming(
            tuple(values["names"]),
            decode(values["prototypes"]),
            tuple(values["parents"]),
            tuple(Click.of(c) for c in values["clicks"]),
        )
        return cls(start, tuple(values["steps"]), tuple(values["undone"]))
