"""A few clicks as truth: points in frames that a person named. They never train a model.

They say how far the names of a model are right, with an interval, and which clusters hold several things.
Only points that were drawn at random measure a share of the footage; points where a person saw a mistake
are counted apart.
"""

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from il2vseg.base.errors import UserError
from il2vseg.base.files import write_json

if TYPE_CHECKING:
    from il2vseg.base.images import Frame, Labels
    from il2vseg.data import Dataset

FILE_NAME = "clicks.json"
_Z = 1.959964
"""Of a 95 % interval."""


@dataclass(frozen=True)
class Click:
    """What a person says is at a point.

    Attributes:
        frame: name of the frame in its data set. x, y: between 0 and 1, from the top left.
        asked: the point was drawn at random; False where a person chose it.
    """

    frame: str
    x: float
    y: float
    name: str
    asked: bool = False

    @classmethod
    def of(cls, values: Any) -> "Click":
        """Read plain values.

        Raises:
            ValueError: they are something else.
        """
        if not isinstance(values, dict) or set(values) - {f.name for f in dataclasses.fields(cls)}:
            raise ValueError("a click has frame, x, y, name and asked")
        x, y = values.get("x"), values.get("y")
        frame, name, asked = values.get("frame"), values.get("name"), values.get("asked", False)
        inside = all(isinstance(v, int | float) and 0 <= v <= 1 for v in (x, y))
        if not inside or not isinstance(frame, str) or not isinstance(asked, bool):
            raise ValueError("a click lies in a frame, at x and y between 0 and 1")
        if not isinstance(name, str) or not name.strip():
            raise ValueError("a click says what is there")
        assert x is not None
        assert y is not None
        return cls(frame, float(x), float(y), name.strip(), asked)

    def pixel(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Its row and column in a picture (H, W, ...)."""
        return min(shape[0] - 1, int(self.y * shape[0])), min(shape[1] - 1, int(self.x * shape[1]))


def load_clicks(path: Path) -> tuple[Click, ...]:
    """Read a file of clicks.

    Raises:
        UserError: there is none, or it is something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, list):
            raise ValueError("a list of clicks is expected")
        return tuple(Click.of(value) for value in values)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    except ValueError as error:
        raise UserError(f"{path}: not a {FILE_NAME} of il2vseg studio ({error})") from None


def save_clicks(path: Path, clicks: Iterable[Click]) -> None:
    """Write clicks."""
    write_json(path, [dataclasses.asdict(click) for click in clicks])


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, `right` of `count` (Wilson 1927); (0, 1) of nothing.

    >>> [round(end, 3) for end in wilson(9, 10)]
    [0.596, 0.982]
    """
    if not count:
        return 0.0, 1.0
    share, z2 = right / count, _Z**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Agreement:
    """How many of some clicks a model agrees with, and the 95 % interval of the share."""

    right: int
    count: int

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end."""
        return wilson(self.right, self.count)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.right} of {self.count} ({100 * low:.0f} to {100 * high:.0f} %)"


def agreement(clicks: Sequence[Click], said: Sequence[str | None], *, asked: bool) -> Agreement:
    """Count the clicks of one kind whose name the model says there; None is a frame that is missing."""
    pairs = [(c.name, s) for c, s in zip(clicks, said, strict=True) if c.asked == asked and s is not None]
    return Agreement(sum(name == there for name, there in pairs), len(pairs))


@dataclass(frozen=True)
class Doubt:
    """A cluster that clicks contradict.

    Attributes:
        names: what was clicked in it, and how often, the most frequent first.
        mixed: clicks that no single name could satisfy. wrong: clicks that its present name contradicts.
    """

    cluster: int
    names: dict[str, int]
    mixed: int
    wrong: int

    @property
    def advice(self) -> str:
        """What to do about it."""
        if self.mixed:
            return "divide it: " + ", ".join(f"{count} {name}" for name, count in self.names.items())
        return f"name it {next(iter(self.names))}"


def doubts(clicks: Sequence[Click], clusters: Sequence[int | None], names: Sequence[str]) -> list[Doubt]:
    """The clusters that clicks contradict, those to divide first, then those with a wrong name.

    Args:
        clusters: the one at every click; None where it is not known. names: one per cluster.
    """
    found: dict[int, Counter[str]] = {}
    for click, cluster in zip(clicks, clusters, strict=True):
        if cluster is not None:
            found.setdefault(cluster, Counter())[click.name] += 1
    listed = [
        Doubt(k, dict(c.most_common()), c.total() - c.most_common(1)[0][1], c.total() - c[names[k]])
        for k, c in found.items()
    ]
    return sorted((d for d in listed if d.wrong), key=lambda d: (-d.mixed, -d.wrong, d.cluster))


def clusters_at(
    clicks: Sequence[Click], dataset: "Dataset", predict: "Callable[[Frame], Labels]"
) -> list[int | None]:
    """The cluster at every click, None where the data set has no such frame.

    Args:
        predict: BGR frame (H, W, 3) -> cluster ids (h, w).
    """
    wanted = {click.frame for click in clicks}
    found: list[int | None] = [None] * len(clicks)
    for sample in dataset:
        if sample.name not in wanted:
            continue
        labels = predict(sample.frame)
        for i, click in enumerate(clicks):
            if click.frame == sample.name:
                found[i] = int(labels[click.pixel(labels.shape)])
    return found


def frames_of(clicks: Sequence[Click]) -> str:
    """A regular expression for `open_dataset(match=...)`: the images and clips that the clicks lie in."""
    names = {name for click in clicks for name in (click.frame, click.frame.rpartition("/")[0]) if name}
    return "(?:" + "|".join(sorted(map(re.escape, names))) + ")$"
