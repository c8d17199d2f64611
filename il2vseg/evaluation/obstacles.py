"""Obstacles as a score: pieces in the water or on the road, found or missed, and pieces that are not there.

Mean IoU hides what a boat needs: a swan is a few hundred pixels. Here every piece counts as one, whatever
its size. A piece is a connected set of obstacle pixels that stands on the ground, water or road: below most
of its lower edge is ground. What enters from the sides of the frame or spans half of it is taken for land.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Frame, Labels, resize_frame, write_image
from il2vseg.evaluation.metrics import IGNORE

if TYPE_CHECKING:
    from rich.table import Table

REFERENCE = 640 * 360
"""Pixels of the frame that sizes are given for; those of another frame are scaled."""

MIN_AREA = 18
"""Pixels of REFERENCE; smaller pieces are neither obstacles nor false alarms."""

LARGE_AREA = 300
"""Pixels of REFERENCE from which a piece is large."""

MAX_SHARE = 0.1
"""Share of the frame; what is larger is land or fills the view, and nobody overlooks it."""

MAX_WIDTH = 0.5
"""Share of the frame's width; what is wider is land."""

FOUND = 0.5
"""Share of a piece's pixels that must be called obstacle."""

TRUE = 0.25
"""Share of a predicted piece's pixels that must be obstacle, or it is a false alarm."""

STANDING = 0.5
"""Share of the columns of a piece's lower edge that must have ground below."""

REACH = 0.012
"""Rows below the lower edge, as a share of the height, in which the ground may begin: masks leave a band of
ignored pixels at the edges."""


@dataclass(frozen=True)
class Piece:
    """A piece that stands on the ground.

    Attributes:
        box: left, top, width, height in pixels. area: pixels, as in a frame of REFERENCE.
        share: of its pixels, in [0, 1], that the other image calls obstacle.
    """

    box: tuple[int, int, int, int]
    area: float
    share: float

    @property
    def large(self) -> bool:
        """Whether it counts among the large ones."""
        return self.area >= LARGE_AREA

    def scaled(self, factor: float) -> "Piece":
        """The same piece in a frame resized by a factor."""
        left, top, width, height = (round(v * factor) for v in self.box)
        return replace(self, box=(left, top, width, height))


def standing_pieces(
    labels: Labels,
    other: NDArray[np.bool_],
    obstacle: int,
    ground: int,
    counted: NDArray[np.bool_] | None = None,
) -> list[Piece]:
    """Find the pieces of the obstacle class that stand on the ground.

    Args:
        labels: class ids (H, W), 255 = ignore. other: pixels (H, W) that another image calls obstacle.
        counted: pixels (H, W) that count for `share`; None for all of them.
    """
    height, width = labels.shape
    scale = REFERENCE / labels.size
    solid = (labels == obstacle).astype(np.uint8)
    count, pieces, statistics, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    reach = max(1, round(REACH * height))
    found = []
    for i in range(1, count):
        left, top, w, h, area = (int(v) for v in statistics[i])
        if area * scale < MIN_AREA or area > MAX_SHARE * labels.size or w > MAX_WIDTH * width:
            continue
        if left == 0 or left + w == width:
            continue
        inside = pieces[top : top + h, left : left + w] == i
        if _standing(labels, inside, (left, top, w, h), ground, reach) < STANDING:
            continue
        where = (slice(top, top + h), slice(left, left + w))
        weight = inside if counted is None else inside & counted[where]
        total = int(weight.sum())
        if total == 0:
            continue
        share = float((weight & other[where]).sum() / total)
        found.append(Piece((left, top, w, h), area * scale, share))
    return found


def _standing(
    labels: Labels, inside: NDArray[np.bool_], box: tuple[int, int, int, int], ground: int, reach: int
) -> float:
    """Share of a piece's columns with ground below its lowest pixel; those at the frame's end do not count.

    The ground may begin `reach` rows below, behind ignored pixels alone.
    """
    left, top, w, h = box
    lowest = top + h - 1 - inside[::-1].argmax(0)
    columns = left + np.arange(w)
    within = lowest < len(labels) - 1
    if not within.any():
        return 0.0
    lowest, columns = lowest[within], columns[within]
    stands = np.zeros(len(lowest), bool)
    open_ = np.ones(len(lowest), bool)
    for step in range(1, reach + 1):
        rows = lowest + step
        below = labels[rows.clip(max=len(labels) - 1), columns]
        inside_frame = rows < len(labels)
        stands |= open_ & inside_frame & (below == ground)
        open_ &= inside_frame & (below == IGNORE)
    return float(stands.mean())


@dataclass
class ObstacleCounts:
    """Found and missed pieces over all frames, small and large apart.

    Attributes:
        pieces, found: true pieces and those found, [small, large].
        alarms, false: predicted pieces and those that are nothing. frames: images scored.
        followed: those of the latter that have a number. timed: frames of clips, in which these were counted.
    """

    pieces: list[int] = field(default_factory=lambda: [0, 0])
    found: list[int] = field(default_factory=lambda: [0, 0])
    alarms: list[int] = field(default_factory=lambda: [0, 0])
    false: list[int] = field(default_factory=lambda: [0, 0])
    frames: int = 0
    followed: list[int] = field(default_factory=lambda: [0, 0])
    timed: int = 0

    def to_json(self) -> dict[str, Any]:
        """The counts and what they amount to: percentages are 0-100, None where there is nothing to count."""

        def rates(chosen: slice) -> dict[str, Any]:
            pieces, found = sum(self.pieces[chosen]), sum(self.found[chosen])
            alarms, false = sum(self.alarms[chosen]), sum(self.false[chosen])
            return {
                "pieces": pieces,
                "found": found,
                "recall": 100 * found / pieces if pieces else None,
                "predicted": alarms,
                "false_alarms": false,
                "precision": 100 * (alarms - false) / alarms if alarms else None,
                "false_alarms_per_frame": false / self.frames if self.frames else None,
                "followed_false_alarms_per_frame": sum(self.followed[chosen]) / self.timed
                if self.timed
                else None,
            }

        return {
            "frames": self.frames,
            "all": rates(slice(0, 2)),
            "small": rates(slice(0, 1)),
            "large": rates(slice(1, 2)),
        }


@dataclass(frozen=True)
class Mistake:
    """A frame with pieces that were missed or are not there, kept for the sheet."""

    name: str
    frame: Frame
    missed: tuple[Piece, ...]
    false: tuple[Piece, ...]


SHEET_WIDTH = 640
"""Pixels that a picture of the sheet is wide."""

MISTAKES = 24
"""Frames with mistakes that are kept, the worst first."""


Follow = Callable[[Sequence[Piece], tuple[int, int], float], list[int | None]]
"""Numbers of the pieces in a frame of a size at a time, None for the unconfirmed: `Follower`."""


class ObstacleScore:
    """Counts obstacles frame by frame.

    score = ObstacleScore(obstacle=0, ground=1)
    score.update("river_001", frame, predicted, truth)
    score.counts.to_json()
    """

    def __init__(self, obstacle: int, ground: int, follow: Follow | None = None) -> None:
        """Prepare for class ids. `follow` counts what remains of the false alarms of a clip over time."""
        self._obstacle, self.ground = obstacle, ground
        self._follow = follow
        self.counts = ObstacleCounts()
        self.mistakes: list[Mistake] = []

    def update(
        self,
        name: str,
        frame: Frame,
        predicted: Labels,
        truth: Labels | None,
        seconds: float | None = None,
    ) -> None:
        """Add a frame.

        Args:
            predicted: class ids (H, W). truth: the same, 255 = ignore; None for footage known to hold no
                obstacle on the ground: whatever stands there is a false alarm.
            seconds: its time, where it is of a clip.
        """
        if truth is None:
            truth = np.full(predicted.shape, self.ground, np.uint8)
        obstacle = (predicted == self._obstacle, truth == self._obstacle)
        known = truth != IGNORE
        true = standing_pieces(truth, obstacle[0], self._obstacle, self.ground)
        claimed = standing_pieces(predicted, obstacle[1], self._obstacle, self.ground, known)
        missed = tuple(p for p in true if p.share < FOUND)
        false = tuple(p for p in claimed if p.share < TRUE)
        counts = self.counts
        counts.frames += 1
        for pieces, into in ((true, counts.pieces), (claimed, counts.alarms), (false, counts.false)):
            for piece in pieces:
                into[piece.large] += 1
        for piece in true:
            counts.found[piece.large] += piece.share >= FOUND
        if self._follow is not None and seconds is not None:
            counts.timed += 1
            numbers = self._follow(claimed, (predicted.shape[0], predicted.shape[1]), seconds)
            for piece, number in zip(claimed, numbers, strict=True):
                counts.followed[piece.large] += piece.share < TRUE and number is not None
        if missed or false:
            self._remember(Mistake(name, frame, missed, false))

    def _remember(self, mistake: Mistake) -> None:
        height, width = mistake.frame.shape[:2]
        scale = SHEET_WIDTH / width
        small = resize_frame(mistake.frame, (round(scale * height), SHEET_WIDTH))
        missed, false = (tuple(p.scaled(scale) for p in pieces) for pieces in (mistake.missed, mistake.false))
        self.mistakes.append(Mistake(mistake.name, small, missed, false))
        self.mistakes.sort(key=lambda m: -sum(p.area for p in (*m.missed, *m.false)))
        del self.mistakes[MISTAKES:]


def table(counts: ObstacleCounts, title: str) -> "Table":
    """The numbers for people."""
    from rich.table import Table

    values = counts.to_json()
    out = Table(title=title, title_justify="left")
    headings = ["obstacles", "pieces", "found", "recall, %", "precision, %", "false alarms per frame"]
    headings += ["followed over time"] if counts.timed else []
    for heading in headings:
        out.add_column(heading, justify="left" if heading == "obstacles" else "right")
    for name in ("small", "large", "all"):
        v = values[name]

        def shown(key: str, digits: int, v: dict[str, Any] = v) -> str:
            return "–" if v[key] is None else f"{v[key]:.{digits}f}"

        label = {"small": f"under {LARGE_AREA} px", "large": f"{LARGE_AREA} px and more", "all": "all"}[name]
        out.add_row(
            label,
            str(v["pieces"]),
            str(v["found"]),
            shown("recall", 1),
            shown("precision", 1),
            shown("false_alarms_per_frame", 3),
            *([shown("followed_false_alarms_per_frame", 3)] if counts.timed else []),
        )
    return out


_MISSED, _FALSE = (60, 60, 235), (0, 200, 250)


def write_mistakes(path: Path, mistakes: Sequence[Mistake], columns: int = 3) -> None:
    """Write a contact sheet: what was missed in red boxes, what is not there in yellow ones."""
    pictures = []
    for mistake in mistakes:
        picture = mistake.frame.copy()
        for pieces, color in ((mistake.missed, _MISSED), (mistake.false, _FALSE)):
            for piece in pieces:
                left, top, w, h = piece.box
                cv2.rectangle(picture, (left - 3, top - 3), (left + w + 2, top + h + 2), color, 2)
        for offset, color in ((1, (0, 0, 0)), (0, (255, 255, 255))):
            at = (6 + offset, 16 + offset)
            cv2.putText(picture, mistake.name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, 1, cv2.LINE_AA)
        pictures.append(resize_frame(picture, (360, 640)))
    if not pictures:
        return
    pictures += [np.full_like(pictures[0], 255)] * (-len(pictures) % columns)
    rows = [np.hstack(pictures[i : i + columns]) for i in range(0, len(pictures), columns)]
    write_image(path, np.asarray(np.vstack(rows), dtype=np.uint8))
