"""Obstacles as a score: pieces in the water or on the road, found or missed, and pieces that are not there.

Mean IoU hides what a boat needs: a swan is a few hundred pixels. Here every piece counts as one, whatever
its size. A piece is a connected set of obstacle pixels that stands on the ground, water or road: below most
of its lower edge is ground. What enters from the sides of the frame or spans half of it is taken for land.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Frame, Labels, resize_frame, write_image
from il2vseg.data.dataset import RangeAt
from il2vseg.evaluation.metrics import IGNORE

if TYPE_CHECKING:
    from rich.table import Table

    from il2vseg.evaluation.danger import DangerZone

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

    @property
    def foot(self) -> tuple[float, float]:
        """Column and row where it meets the ground: the middle of the box's lower edge."""
        left, top, width, height = self.box
        return left + width / 2, float(top + height)

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
class Group:
    """Found and missed pieces of one kind over all frames.

    Attributes:
        pieces, found: true pieces and those found. alarms, false: predicted pieces and those that are
            nothing. frames: images scored.
        followed: those of the latter that have a number. timed: frames of clips, in which these were counted.
    """

    pieces: int = 0
    found: int = 0
    alarms: int = 0
    false: int = 0
    frames: int = 0
    followed: int = 0
    timed: int = 0

    def add(self, true: Sequence[Piece], claimed: Sequence[Piece], followed: Sequence[Piece] | None) -> None:
        """Add a frame: its true and predicted pieces, and of a clip those of the latter with a number."""
        self.frames += 1
        self.pieces += len(true)
        self.found += sum(piece.share >= FOUND for piece in true)
        self.alarms += len(claimed)
        self.false += sum(piece.share < TRUE for piece in claimed)
        if followed is not None:
            self.timed += 1
            self.followed += sum(piece.share < TRUE for piece in followed)

    def to_json(self) -> dict[str, Any]:
        """The counts and what they amount to: percentages are 0-100, None where there is nothing to count."""
        return {
            "pieces": self.pieces,
            "found": self.found,
            "recall": 100 * self.found / self.pieces if self.pieces else None,
            "predicted": self.alarms,
            "false_alarms": self.false,
            "precision": 100 * (self.alarms - self.false) / self.alarms if self.alarms else None,
            "false_alarms_per_frame": self.false / self.frames if self.frames else None,
            "followed_false_alarms_per_frame": self.followed / self.timed if self.timed else None,
        }


@dataclass
class Near(Group):
    """The pieces no farther than `within_m` metres, in the frames where ranges are known."""

    within_m: float = float("inf")

    def holds(self, metres: float | None) -> bool:
        """Whether a piece at a range, None if it has none, is one of them."""
        return metres is not None and metres <= self.within_m

    def to_json(self) -> dict[str, Any]:
        """The radius, the frames, and what `Group.to_json` has."""
        return {"within_m": self.within_m, "frames": self.frames, **super().to_json()}


@dataclass
class ObstacleCounts:
    """All pieces, small and large apart, and, if there is a danger zone, those in it."""

    all: Group = field(default_factory=Group)
    small: Group = field(default_factory=Group)
    large: Group = field(default_factory=Group)
    near: Near | None = None

    @property
    def frames(self) -> int:
        """Images scored."""
        return self.all.frames

    def to_json(self) -> dict[str, Any]:
        """The numbers of each group; see `Group.to_json`."""
        groups = {"all": self.all, "small": self.small, "large": self.large, "near": self.near}
        numbers = {name: group.to_json() for name, group in groups.items() if group is not None}
        return {"frames": self.frames, **numbers}


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

    def __init__(
        self, obstacle: int, ground: int, follow: Follow | None = None, zone: "DangerZone | None" = None
    ) -> None:
        """Prepare for class ids.

        Args:
            follow: counts what remains of the false alarms of a clip over time.
            zone: what stands in it also counts apart.
        """
        self._obstacle, self.ground = obstacle, ground
        self._follow, self.zone = follow, zone
        self.counts = ObstacleCounts(near=None if zone is None else Near(within_m=zone.metres))
        self.mistakes: list[Mistake] = []

    def update(
        self,
        name: str,
        frame: Frame,
        predicted: Labels,
        truth: Labels | None,
        seconds: float | None = None,
        range_at: RangeAt | None = None,
    ) -> None:
        """Add a frame.

        Args:
            predicted: class ids (H, W). truth: the same, 255 = ignore; None for footage known to hold no
                obstacle on the ground: whatever stands there is a false alarm.
            seconds: its time, where it is of a clip. range_at: ranges in it, where they are known.
        """
        if truth is None:
            truth = np.full(predicted.shape, self.ground, np.uint8)
        obstacle = (predicted == self._obstacle, truth == self._obstacle)
        known = truth != IGNORE
        true = standing_pieces(truth, obstacle[0], self._obstacle, self.ground)
        claimed = standing_pieces(predicted, obstacle[1], self._obstacle, self.ground, known)
        followed = None
        if self._follow is not None and seconds is not None:
            numbers = self._follow(claimed, (predicted.shape[0], predicted.shape[1]), seconds)
            followed = [p for p, number in zip(claimed, numbers, strict=True) if number is not None]
        for group, chosen in self._groups(range_at):
            group.add(
                list(filter(chosen, true)),
                list(filter(chosen, claimed)),
                None if followed is None else list(filter(chosen, followed)),
            )
        missed = tuple(p for p in true if p.share < FOUND)
        false = tuple(p for p in claimed if p.share < TRUE)
        if missed or false:
            self._remember(Mistake(name, frame, missed, false))

    def _groups(self, range_at: RangeAt | None) -> Iterator[tuple[Group, Callable[[Piece], bool]]]:
        """Yield the groups that a frame counts in, and which of its pieces belong to each."""
        yield self.counts.all, lambda piece: True
        yield self.counts.small, lambda piece: not piece.large
        yield self.counts.large, lambda piece: piece.large
        near = self.counts.near
        if near is not None and range_at is not None:
            yield near, lambda piece: near.holds(range_at(*piece.foot))

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

    groups = {
        f"under {LARGE_AREA} px": counts.small,
        f"{LARGE_AREA} px and more": counts.large,
        "all": counts.all,
    }
    caption = None
    if counts.near is not None:
        groups[f"within {counts.near.within_m:g} m"] = counts.near
        caption = f"ranges are known in {counts.near.frames} of {counts.frames} frames"
    out = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    headings = ["obstacles", "pieces", "found", "recall, %", "precision, %", "false alarms per frame"]
    headings += ["followed over time"] if counts.all.timed else []
    for heading in headings:
        out.add_column(heading, justify="left" if heading == "obstacles" else "right")
    for label, group in groups.items():
        v = group.to_json()

        def shown(key: str, digits: int, v: dict[str, Any] = v) -> str:
            return "–" if v[key] is None else f"{v[key]:.{digits}f}"

        out.add_row(
            label,
            str(v["pieces"]),
            str(v["found"]),
            shown("recall", 1),
            shown("precision", 1),
            shown("false_alarms_per_frame", 3),
            *([shown("followed_false_alarms_per_frame", 3)] if counts.all.timed else []),
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
