"""What a skipper asks of the labels: where the water ends, where the horizon is, what stands in the water.

Plain geometry on class ids; `water_plane` turns pixels into bearings and ranges.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.ignore import IGNORED
from il2vseg.base.images import Labels, resize_labels
from il2vseg.runtime.marine.water_plane import Camera, Line, WaterPlane

WIDEST = 480
"""Columns; larger label images are shrunk first, which bounds the time."""

SMALLEST_WATER = 0.01
"""Share of the frame; smaller pieces of water are taken for mistakes of the labels."""

SMALLEST_OBSTACLE = 8e-5
"""Share of the frame: 18 pixels of 640x360."""

_FRINGE = 0.02  # of the height
_COLUMNS = 160
_WINDOW = 0.4  # of the width
_QUANTILE = 0.4
_MARGIN = 0.006  # of the height
_ROUGHNESS = 3.0
_ROUGHEST = 0.025  # of the height
_SEA_SHARE = 0.25  # of the columns: so much open horizon makes a line worth fitting
_FIT_ROUNDS = 20


@dataclass(frozen=True)
class Horizon:
    """The line between sea and sky; `residual` is the median distance in pixels of the water's edge to it."""

    line: Line
    residual: float


@dataclass(frozen=True)
class Obstacle:
    """Something that stands in the water.

    Attributes:
        box: left, top, width, height in pixels of the frame. foot: column and row where it meets the water.
        bearing_deg: to starboard of the camera's axis. range_m: None where it cannot be told.
        range_error_m: of the range for a pixel of error of the foot. danger: inside the danger zone.
        track: its number from frame to frame (`tracks`), None for what is not confirmed or not followed.
        closing_mps: metres per second that its range falls by.
        nearest_s, nearest_m: when and how near it will be nearest; None where it comes no nearer, or that
            cannot be told.
        speed_mps, course_deg: its motion as seen from the boat, to starboard of the camera's axis.
    """

    box: tuple[int, int, int, int]
    foot: tuple[float, float]
    bearing_deg: float | None = None
    range_m: float | None = None
    range_error_m: float | None = None
    danger: bool = False
    track: int | None = None
    closing_mps: float | None = None
    nearest_s: float | None = None
    nearest_m: float | None = None
    speed_mps: float | None = None
    course_deg: float | None = None


@dataclass(frozen=True)
class Scene:
    """What there is in a frame of `size` (height, width).

    Attributes:
        water_edge: row (float32) at which the water begins, for every column; NaN where there is none.
        obstacles: nearest first. alarm: something is in the danger zone, of a followed scene for certain.
        camera: its mounting, if known. followed: a tracker has numbered what is no mistake of the labels.
    """

    size: tuple[int, int]
    water_edge: NDArray[np.float32]
    horizon: Horizon | None
    obstacles: tuple[Obstacle, ...]
    alarm: bool = False
    camera: Camera | None = None
    followed: bool = False

    @property
    def confirmed(self) -> tuple[Obstacle, ...]:
        """The obstacles to count on, nearest first: those with a number, or all if nobody followed them."""
        return tuple(o for o in self.obstacles if o.track is not None or not self.followed)

    def to_dict(self, samples: int = 32) -> dict[str, Any]:
        """Return the scene as JSON values, the water edge at so many columns, null where there is none."""
        columns = np.linspace(0, self.size[1] - 1, samples).round().astype(int)
        return {
            "size": list(self.size),
            "water_edge": [
                [int(x), None if np.isnan(y := self.water_edge[x]) else float(y)] for x in columns
            ],
            "horizon": self.horizon
            and {
                "left": round(self.horizon.line.left, 2),
                "right": round(self.horizon.line.right, 2),
                "residual": round(self.horizon.residual, 2),
            },
            "obstacles": [
                {
                    "box": list(o.box),
                    "foot": [round(v, 1) for v in o.foot],
                    "bearing_deg": _rounded(o.bearing_deg, 2),
                    "range_m": _rounded(o.range_m, 2),
                    "range_error_m": _rounded(o.range_error_m, 2),
                    "danger": o.danger,
                    "track": o.track,
                    "closing_mps": _rounded(o.closing_mps, 2),
                    "nearest_s": _rounded(o.nearest_s, 1),
                    "nearest_m": _rounded(o.nearest_m, 1),
                    "speed_mps": _rounded(o.speed_mps, 2),
                    "course_deg": _rounded(o.course_deg, 1),
                }
                for o in self.obstacles
            ],
            "alarm": self.alarm,
        }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


@dataclass(frozen=True)
class Classes:
    """Ids of the classes that matter; `sky` is None where the model has none."""

    water: int
    obstacle: int
    sky: int | None = None

    @classmethod
    def of(cls, names: Sequence[str]) -> "Classes | None":
        """Find them by name; None unless there are water and obstacle."""
        ids = {name.strip().lower(): i for i, name in enumerate(names)}
        if "water" not in ids or "obstacle" not in ids:
            return None
        return cls(ids["water"], ids["obstacle"], ids.get("sky"))


def water_body(labels: Labels, water: int) -> NDArray[np.uint8]:
    """Return the water as a mask (H, W) of 0 and 1, without pieces too small to be true."""
    mask = (labels == water).astype(np.uint8)
    _, pieces, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    keep = statistics[:, cv2.CC_STAT_AREA] >= SMALLEST_WATER * mask.size
    keep[0] = False
    return np.asarray(keep[pieces], dtype=np.uint8)


def without_fringe(labels: Labels) -> Labels:
    """Leave a little more out than what belongs to the own vessel, IGNORED in labels (H, W).

    No mask is drawn to the pixel, and a rim of the own deck would be an obstacle at arm's length for ever.
    """
    own = (labels == IGNORED).view(np.uint8)
    if not own.any():
        return labels
    side = 1 + 2 * max(1, round(_FRINGE * len(labels)))
    grown = cv2.dilate(own, np.ones((side, side), np.uint8))
    return np.where(grown > 0, np.uint8(IGNORED), labels)


def water_edge(body: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the row of the topmost water in every column of a mask (H, W); H where there is none."""
    return np.where(body.any(0), body.argmax(0), len(body)).astype(np.int64)


def finer_edge(labels: Labels, edge: NDArray[np.int64], rows: int, water: int) -> NDArray[np.int64]:
    """Return the water's edge of labels (H, W), given `edge` (W,) of the same columns shrunk to `rows`.

    A shrunk row stands for the one at its centre, so the edge is among the rows up to the centre of the next.
    """
    height = len(labels)
    scale = height / rows
    known = ((edge + 0.5) * scale).astype(np.int64)
    candidates = (known + np.arange(1 - math.ceil(scale), 1)[:, None]).clip(0, height - 1)
    wet = labels[candidates, np.arange(len(edge))] == water
    found = np.take_along_axis(candidates, wet.argmax(0)[None], 0)[0]
    return np.where(edge < rows, found, height)


def far_edge(edge: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the water's edge as it runs behind what stands in the water: a low quantile over a wide window.

    Obstacles only ever push the edge down the picture, so a quantile below the median bears more of them. The
    overall slope is taken out first, or the quantile would follow the higher end of each window.

    Args:
        edge: rows (W,), as `water_edge` returns them.
    """
    width = len(edge)
    step = max(1, width // _COLUMNS)
    columns = np.arange(0, width, step)
    samples = edge[::step].astype(np.float64)
    slope = _quantile_slope(columns, samples)
    half = max(1, round(_WINDOW * len(samples) / 2))
    padded = np.pad(samples - slope * columns, half, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    rank = round(_QUANTILE * 2 * half)
    level = np.partition(windows, rank, axis=1)[:, rank]
    return np.interp(np.arange(width), columns, level) + slope * np.arange(width)


def roughness(edge: NDArray[np.int64], far: NDArray[np.float64]) -> float:
    """Return by how many rows a shore line leaves its far edge: the median of its rows above that.

    Those below say nothing: obstacles are there. Of an open horizon it is a fraction of a row.
    """
    above = (far - edge)[edge < far]
    return float(np.median(above)) if len(above) else 0.0


def _quantile_slope(x: NDArray[np.int64], y: NDArray[np.float64]) -> float:
    """Return the slope of the line below which a share _QUANTILE of the points lies (reweighted squares)."""
    weights = np.ones(len(x))
    slope = 0.0
    for _ in range(_FIT_ROUNDS):
        slope, start = _line(x, y, weights)
        residual = y - start - slope * x
        weights = np.where(residual > 0, _QUANTILE, 1 - _QUANTILE) / np.maximum(np.abs(residual), 0.5)
    return slope


def _line(x: NDArray[Any], y: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[float, float]:
    """Return slope and start of the line of least weighted squares."""
    share = weights / weights.sum()
    middle_x, middle_y = float(share @ x), float(share @ y)
    spread = float(share @ (x - middle_x) ** 2)
    slope = float(share @ ((x - middle_x) * (y - middle_y))) / spread if spread > 0 else 0.0
    return slope, middle_y - slope * middle_x


def fit_horizon(labels: Labels, edge: NDArray[np.int64], sky: int | None) -> Horizon | None:
    """Fit a line to the points where the water borders the sky.

    Least absolute deviations by reweighting, so that boats, flares and mistakes of the labels do not bend it;
    then once more over its inliers alone.

    Args:
        labels: class ids (H, W). edge: `water_edge` of the same image.
    Returns:
        None where too little open horizon shows: a shore line is lower than the horizon, and no substitute.
    """
    height, width = labels.shape
    columns = np.flatnonzero((edge > 0) & (edge < height))
    if sky is None or len(columns) == 0:
        return None
    columns = columns[labels[edge[columns] - 1, columns] == sky]
    if len(columns) < _SEA_SHARE * width:
        return None
    x, y = columns / max(1, width - 1), edge[columns] - 0.5
    weights = np.ones(len(x))
    for _ in range(_FIT_ROUNDS):
        slope, start = _line(x, y, weights)
        distance = np.abs(y - start - slope * x)
        weights = np.reciprocal(np.maximum(distance, 0.5))
    inliers = distance <= max(1.0, 3 * float(np.median(distance)))
    slope, start = _line(x[inliers], y[inliers], np.ones(inliers.sum()))
    residual = float(np.median(np.abs(y - start - slope * x)))
    return Horizon(Line(start, start + slope), residual)


def find_obstacles(
    labels: Labels, body: NDArray[np.uint8], edge: NDArray[np.int64], classes: Classes
) -> list[Obstacle]:
    """Find what stands in the water: pieces of the obstacle class that reach below the water's far edge.

    What belongs to the shore is not in the water; a boat in front of the shore is, as far as it reaches below
    the shore line, and farther than that line itself goes up and down.

    Args:
        labels: class ids (H, W). body, edge: `water_body` and `water_edge` of the same image.
    """
    height = len(labels)
    far = far_edge(edge)
    margin = max(1.0, _MARGIN * height) + min(_ROUGHEST * height, _ROUGHNESS * roughness(edge, far))
    rows = np.arange(height, dtype=np.float32)[:, None]
    solid = labels == classes.obstacle
    afloat = body.view(np.bool_) | (labels == IGNORED)  # what the own deck hides may be water
    below = solid & (rows > (far + margin).astype(np.float32))
    count, pieces, statistics, _ = cv2.connectedComponentsWithStats(below.view(np.uint8), connectivity=8)
    found = []
    for i in range(1, count):
        left, top, w, h, area = (int(v) for v in statistics[i])
        if area < SMALLEST_OBSTACLE * labels.size:
            continue
        columns = left + np.flatnonzero(pieces[top + h - 1, left : left + w] == i)
        under = top + h + 1
        if under < height and not afloat[under, columns].any():
            continue  # what floats on another mistake of the labels, not on water
        box = _whole_box(solid, (left, top, w, h))
        found.append(Obstacle(box, (float(columns.mean()), float(top + h))))
    return found


def _whole_box(solid: NDArray[np.bool_], box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Grow the box of a piece below the far edge to what rises above it, unless a shore is behind.

    Args:
        solid: pixels of the obstacle class (H, W). box: left, top, width, height.
    """
    left, top, w, h = box
    pad = 2 + w // 2
    start, stop = max(0, left - pad), min(solid.shape[1], left + w + pad)
    filled = solid[: top + h, start:stop]
    gaps = np.flatnonzero(~filled[:top].any(1))
    first = int(gaps[-1]) + 1 if len(gaps) else 0
    part = filled[first:]
    if part[:, [0, -1]].any():  # it goes on beyond the sides: that is a shore
        return box
    columns = np.flatnonzero(part.any(0))
    return start + int(columns[0]), first, int(columns[-1] - columns[0]) + 1, top + h - first


class MarineAnalyser:
    """Class ids -> `Scene`.

    analyser = MarineAnalyser(Classes.of(("obstacle", "water", "sky")), Camera(height=2.0, field_of_view=60))
    scene = analyser(labels)
    """

    def __init__(self, classes: Classes, camera: Camera | None = None, danger_m: float | None = None) -> None:
        """Prepare.

        Args:
            camera: its mounting; without it there are no bearings and ranges.
            danger_m: radius of the danger zone in metres.
        """
        self._classes = classes
        self._camera = camera
        self._danger_m = danger_m

    def __call__(self, labels: Labels) -> Scene:
        """Analyse the class ids (H, W) of a frame."""
        size = (labels.shape[0], labels.shape[1])
        scale = max(1.0, size[1] / WIDEST)
        small = resize_labels(labels, (max(1, round(size[0] / scale)), round(size[1] / scale)))
        small = without_fringe(small)
        body = water_body(small, self._classes.water)
        edge = water_edge(body)
        # Rows of the frame itself: a row of the shrunk labels is several, and range is worth each of them.
        tall = resize_labels(labels, (size[0], small.shape[1]))
        fine = finer_edge(tall, edge, len(small), self._classes.water)
        horizon = fit_horizon(tall, fine, self._classes.sky)
        obstacles = find_obstacles(small, body, edge, self._classes) if body.any() else []
        rows = np.where(fine < size[0], fine, np.nan).astype(np.float32)
        columns = np.minimum((np.arange(size[1]) / scale).astype(int), small.shape[1] - 1)
        located = [self._located(_scaled(o, scale), size, horizon) for o in obstacles]
        located.sort(key=lambda o: (o.range_m is None, o.range_m or 0.0, -o.foot[1]))
        alarm = any(o.danger for o in located)
        return Scene(size, rows[columns], horizon, tuple(located), alarm, self._camera)

    def _located(self, obstacle: Obstacle, size: tuple[int, int], horizon: Horizon | None) -> Obstacle:
        if self._camera is None:
            return obstacle
        plane = self._camera.plane(None if horizon is None else horizon.line, size)
        if plane is None:
            # Neither pitch nor horizon: the direction is still good to the roll.
            middle = Line((size[0] - 1) / 2, (size[0] - 1) / 2)
            bearing = WaterPlane(self._camera, middle, size).locate(*obstacle.foot).bearing
            return Obstacle(obstacle.box, obstacle.foot, bearing)
        position = plane.locate(*obstacle.foot)
        danger = (
            position.range is not None and self._danger_m is not None and position.range <= self._danger_m
        )
        return Obstacle(obstacle.box, obstacle.foot, position.bearing, position.range, position.error, danger)


def _scaled(obstacle: Obstacle, scale: float) -> Obstacle:
    left, top, width, height = (round(v * scale) for v in obstacle.box)
    return Obstacle((left, top, width, height), (obstacle.foot[0] * scale, obstacle.foot[1] * scale))
