"""Where the camera looks in a frame, and the upright canvas that the frame is cut from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from il2vseg.data.synthetic.scene import Scene, scene_of

FPS = 20.0
"""Frames of a second of scene time."""


PARALLAX = 120.0  # metres along the shore that turn its profile by one radian
FOCAL = 0.85  # focal length / frame width: a view of about 61 degrees


@dataclass(frozen=True)
class Pose:
    """Where the camera looks in one frame.

    Attributes:
        time: seconds.
        roll: radians, positive lowers the right-hand side of the horizon.
        horizon: row of the horizon on the upright canvas, in pixels.
        yaw: radians.
        travel: metres along the shore.
    """

    time: float
    roll: float
    horizon: float
    yaw: float
    travel: float


@dataclass(frozen=True)
class Canvas:
    """The upright picture that a frame of (height, width) is cut from, with margins for the roll."""

    height: int
    width: int
    margin: int
    focal: float

    @property
    def rows(self) -> int:
        return self.height + 2 * self.margin

    @property
    def columns(self) -> int:
        return self.width + 2 * self.margin


_MAX_ROLL = 0.085


def canvas_of(size: tuple[int, int]) -> Canvas:
    height, width = size
    return Canvas(height, width, int(np.ceil(0.5 * width * np.sin(_MAX_ROLL))) + 2, FOCAL * width)


def pose_of(scene: Scene, frame: int, canvas: Canvas) -> Pose:
    t = frame / FPS
    a = scene.phases
    swell = 0.35 + 0.65 * scene.chop
    roll = swell * (0.05 * np.sin(0.9 * t + a[0]) + 0.03 * np.sin(1.7 * t + a[1]))
    pitch = swell * (0.018 * np.sin(1.1 * t + a[2]) + 0.010 * np.sin(2.3 * t + a[3]))
    yaw = 0.10 * np.sin(0.13 * t + a[4]) + 0.04 * np.sin(0.37 * t + a[5])
    horizon = canvas.margin + scene.level * canvas.height + canvas.focal * np.tan(pitch)
    return Pose(t, float(roll), float(horizon), float(yaw), scene.speed * t)


def roll_matrix(pose: Pose, canvas: Canvas) -> NDArray[np.float64]:
    """Return the 2x3 matrix that maps frame coordinates (x, y) to canvas coordinates."""
    c, s = np.cos(pose.roll), np.sin(pose.roll)
    x0, y0 = (canvas.width - 1) / 2, (canvas.height - 1) / 2
    m = canvas.margin
    return np.array([[c, s, x0 + m - c * x0 - s * y0], [-s, c, y0 + m + s * x0 - c * y0]])


def horizon(seed: int, frame: int, size: tuple[int, int] = (360, 640)) -> tuple[float, float]:
    """Return the true horizon of a frame as (row at x = 0, slope in rows a column).

    Above it there is sky or shore, below it water or what stands in front of it.
    """
    canvas = canvas_of(size)
    pose = pose_of(scene_of(seed), frame, canvas)
    (_, (m10, m11, m12)) = roll_matrix(pose, canvas)
    # The canvas row m10·x + m11·y + m12 equals the horizon.
    return float((pose.horizon - m12) / m11), float(-m10 / m11)


def range_at(seed: int, frame: int, size: tuple[int, int], column: float, row: float) -> float | None:
    """Return the metres to the still water that shows at a column and row; None above the horizon."""
    scene, canvas = scene_of(seed), canvas_of(size)
    pose = pose_of(scene, frame, canvas)
    x, y = roll_matrix(pose, canvas) @ (column, row, 1.0)
    below = y - pose.horizon
    aside = x - (canvas.columns - 1) / 2
    return float(scene.eye * np.hypot(canvas.focal, aside) / below) if below > 0 else None
