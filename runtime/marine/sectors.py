"""How far it is to the next thing, direction by direction: what an autopilot's avoidance asks for.

A sector ends at the nearest obstacle in it, or where its water ends (a shore). It is free where the water
goes on as far as is measured, and unknown where no water is seen, where the thing has no range, and where
there is no horizon to measure from, and where something is seen that is not confirmed yet. Unknown is never
free.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from il2vseg.runtime.marine.scene import Obstacle, Scene
from il2vseg.runtime.marine.water_plane import Camera, WaterPlane

COUNT = 72

WORST_ERROR = 0.25
"""Share of a range that a pixel of error may be worth; what is farther is not measured."""

_SAMPLES = 5  # of the water's edge, for each sector


@dataclass(frozen=True)
class Sectors:
    """Distances by direction, from left to right.

    Attributes:
        metres: (N,); infinite where it is free as far as `reach_m`, NaN where nothing is known.
        first_deg: direction of the middle of the first one, to starboard of the bow. step_deg: to the next.
        yaw_deg: direction of the camera's axis. reach_m: how far is measured.
        error_per_m2: what a pixel of error is worth, in metres per square metre of range.
    """

    metres: NDArray[np.float64]
    first_deg: float
    step_deg: float
    yaw_deg: float
    reach_m: float
    error_per_m2: float

    def error(self, metres: float) -> float:
        """Error of a distance for a pixel of error of its foot, in metres."""
        return self.error_per_m2 * metres**2


def sectors(scene: Scene, reach_m: float, count: int = COUNT) -> Sectors | None:
    """Divide a camera's field of view into so many sectors; None where its mounting is not known.

    Args:
        reach_m: farthest distance that is of interest; no farther than `WORST_ERROR` allows.
    """
    camera = scene.camera
    if camera is None:
        return None
    view = camera.field_of_view
    step = view / count
    error_per_m2 = 1 / (camera.focal(scene.size[1]) * camera.height)
    reach = min(reach_m, WORST_ERROR / error_per_m2)
    metres = np.full(count, np.nan)
    plane = camera.plane(None if scene.horizon is None else scene.horizon.line, scene.size)
    if plane is not None:
        metres = _open_water(scene, camera, plane, count, reach)
        confirmed = scene.confirmed
        # What has no range hides what is behind it, and is itself hidden by what is nearer.
        for obstacle in sorted(confirmed, key=lambda o: o.range_m is not None):
            within = _covered(obstacle, plane, view, count)
            metres[within] = np.nan if obstacle.range_m is None else np.fmin(metres[within], obstacle.range_m)
        metres[metres > reach] = np.inf
        for obstacle in scene.obstacles:
            if obstacle not in confirmed:  # it may be nothing, but the way is not known to be free
                part = metres[_covered(obstacle, plane, view, count)]
                part[np.isinf(part)] = np.nan
    return Sectors(metres, camera.yaw - view / 2 + step / 2, step, camera.yaw, reach, error_per_m2)


def _open_water(
    scene: Scene, camera: Camera, plane: WaterPlane, count: int, reach: float
) -> NDArray[np.float64]:
    """How far the water goes by sector: the lower quartile of its columns, so that a wrong one is nothing.

    It is free only if water is seen in more than half of them.
    """
    width, view = scene.size[1], camera.field_of_view
    angles = np.radians(view * ((np.arange(_SAMPLES * count) + 0.5) / (_SAMPLES * count) - 0.5))
    u = (width - 1) / 2 + camera.focal(width) * np.tan(angles)
    rows = scene.water_edge[np.clip(u.round().astype(int), 0, width - 1)]
    bearings, ranges = plane.locate_all(u, rows)
    ranges[ranges > reach] = np.inf
    bearings = np.where(np.isnan(rows), np.degrees(angles), bearings)
    indices = np.floor(count * (bearings / view + 0.5))
    order = np.lexsort((ranges, indices))
    starts = np.searchsorted(indices[order], np.arange(count + 1))
    counts = starts[1:] - starts[:-1]
    low, middle = (
        ranges[order[np.minimum(starts[:-1] + step, len(order) - 1)]] for step in (counts // 4, counts // 2)
    )
    unknown = (counts == 0) | (np.isinf(low) & np.isnan(middle))
    return np.where(unknown, np.nan, low)


def _covered(obstacle: Obstacle, plane: WaterPlane, view: float, count: int) -> slice:
    """The sectors that an obstacle's width is in."""
    left, _, width, _ = obstacle.box
    ends, _ = plane.locate_all(np.array([left, left + width]), np.full(2, obstacle.foot[1]))
    first, last = np.clip(np.floor(count * (ends / view + 0.5)), 0, count - 1).astype(int)
    return slice(int(first), int(last) + 1)
