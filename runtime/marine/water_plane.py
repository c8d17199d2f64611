"""From pixels to bearing and range: a pinhole camera above a flat sea.

The horizon is the image of all points of the water plane at infinity, so the line l that it draws gives
the plane's normal in the camera's frame, n ~ Kᵀl, and with it pitch and roll at this moment. A ray
d = K⁻¹(u, v, 1) meets the water, h metres below the camera, at X = h·d / (n·d).

Error. For a foot v pixels below the horizon the range is R = f·h / v, hence
|dR| = R²/(f·h)·|dv| + R/h·|dh|: it grows with the square of the range. With h = 2 m and f = 540 pixels, one
pixel is 0.4 m at 20 m and 9 m at 100 m. Curvature and refraction are below that for ranges under a
kilometre; waves tilt a small boat, which the horizon shows, and lift it by dh, which it does not.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Line:
    """A line across the frame: its row at the first and at the last column."""

    left: float
    right: float

    def at(self, x: float, width: int) -> float:
        """Return the row at column `x` of a frame so many columns wide."""
        return self.left + (self.right - self.left) * x / max(1, width - 1)


@dataclass(frozen=True)
class Camera:
    """How the camera is mounted.

    Attributes:
        height: metres above the water. field_of_view: horizontal, in degrees.
        pitch: degrees above the horizontal, of the axis; None if unknown, when only a horizon helps.
        yaw: degrees to starboard of the bow, of the axis.
    """

    height: float
    field_of_view: float
    pitch: float | None = None
    yaw: float = 0.0

    def focal(self, width: int) -> float:
        """Return the focal length in pixels of a frame so many columns wide."""
        return width / 2 / math.tan(math.radians(self.field_of_view) / 2)

    def level_horizon(self, size: tuple[int, int]) -> Line | None:
        """Return where the horizon is by the mounting alone, for a frame (height, width)."""
        if self.pitch is None:
            return None
        row = (size[0] - 1) / 2 + self.focal(size[1]) * math.tan(math.radians(self.pitch))
        return Line(row, row)

    def plane(self, horizon: Line | None, size: tuple[int, int]) -> "WaterPlane | None":
        """Return the water of a frame (height, width) below a horizon, or else below that of the mounting.

        None where neither is known, and with it no range.
        """
        line = horizon or self.level_horizon(size)
        return None if line is None else WaterPlane(self, line, size)


@dataclass(frozen=True)
class Position:
    """Where a point of the water is.

    Attributes:
        bearing: degrees to starboard of the camera's axis. range: metres from below the camera, None above
            the horizon. error: of the range, for a pixel of error of the foot, in metres.
    """

    bearing: float
    range: float | None
    error: float | None


class WaterPlane:
    """The water as a camera sees it below a horizon."""

    def __init__(self, camera: Camera, horizon: Line, size: tuple[int, int]) -> None:
        """Take the horizon of a frame (height, width)."""
        height, width = size
        self._camera = camera
        self._focal = camera.focal(width)
        self._centre = ((width - 1) / 2, (height - 1) / 2)
        slope = (horizon.right - horizon.left) / max(1, width - 1)
        # Rows below the line are positive: v − left − slope·u = 0, in homogeneous coordinates.
        line = np.array([-slope, 1.0, -horizon.left])
        normal = self._intrinsics().T @ line
        self._down: NDArray[np.float64] = normal / np.linalg.norm(normal)
        axis = np.array([0.0, 0.0, 1.0])
        forward = axis - (axis @ self._down) * self._down
        self._forward = forward / np.linalg.norm(forward)
        self._right = np.cross(self._down, self._forward)

    def _intrinsics(self) -> NDArray[np.float64]:
        (cx, cy), f = self._centre, self._focal
        return np.array([[f, 0.0, cx], [0.0, f, cy], [0.0, 0.0, 1.0]])

    def locate(self, u: float, v: float) -> Position:
        """Locate the point of the water that shows at column `u`, row `v`."""
        bearings, ranges = self.locate_all(np.array([u]), np.array([v]))
        bearing, distance = float(bearings[0]), float(ranges[0])
        if math.isinf(distance):
            return Position(bearing, None, None)
        return Position(bearing, distance, distance**2 / (self._focal * self._camera.height))

    def locate_all(self, u: NDArray[Any], v: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Bearings in degrees (N,) and ranges in metres (N,) of the points at columns and rows (N,).

        A range is infinite above the horizon; both are NaN where a row is.
        """
        (cx, cy), f = self._centre, self._focal
        rays = np.stack([(u - cx) / f, (v - cy) / f, np.ones(len(u))], 1)
        ahead, aside, below = (rays @ axis for axis in (self._forward, self._right, self._down))
        below = np.where(below <= 1e-9, 0.0, below)
        with np.errstate(divide="ignore"):
            ranges = self._camera.height * np.hypot(ahead, aside) / below
        return np.degrees(np.arctan2(aside, ahead)), ranges
