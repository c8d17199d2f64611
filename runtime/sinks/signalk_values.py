"""What a Signal K server is told of obstacles: paths and values in metres, seconds and radians."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from il2vseg.runtime.marine.scene import Obstacle
from il2vseg.runtime.sinks.own_ship import Fix

MAX_LISTED = 20
"""Obstacles in the list."""

_METHODS = {"alarm": ["visual", "sound"], "warn": ["visual", "sound"], "alert": ["visual"], "normal": []}
_UNITS = {
    "distance": ("m", "Range of the nearest obstacle from below the camera"),
    "distanceError": ("m", "Error of the range per pixel of error of the obstacle's foot"),
    "bearingRelative": ("rad", "Bearing of the nearest obstacle from the bow, positive to starboard"),
    "bearingTrue": ("rad", "True bearing of the nearest obstacle"),
    "closingSpeed": ("m/s", "Speed at which its range falls"),
    "closestApproach.distance": ("m", "Distance at the closest approach"),
    "closestApproach.timeTo": ("s", "Time to the closest approach"),
}


@dataclass(frozen=True)
class Notice:
    """A notification of Signal K; `obstacle` is what it is about."""

    state: str
    message: str
    obstacle: Obstacle | None = None


def obstacle_values(name: str, obstacles: Sequence[Obstacle], fix: Fix) -> list[dict[str, Any]]:
    """What a camera sees. The nearest is null where there is none, so that no gauge keeps an old one.

    Args:
        name: of the camera. obstacles: nearest first. fix: of the own ship.
    """
    described = [_described(o, fix) for o in obstacles[:MAX_LISTED]]
    nearest = described[0] if described else dict.fromkeys((*_UNITS, "position"))
    leaves = {f"nearest.{key}": nearest[key] for key in (*_UNITS, "position")}
    values = {"count": len(obstacles), **leaves, "list": described}
    return [
        {"path": f"environment.obstacles.{name}.{path}", "value": value} for path, value in values.items()
    ]


def meta(name: str) -> list[dict[str, Any]]:
    """Units of the values, for instruments."""
    return [
        {
            "path": f"environment.obstacles.{name}.nearest.{path}",
            "value": {"units": units, "description": text},
        }
        for path, (units, text) in _UNITS.items()
    ]


def _described(obstacle: Obstacle, fix: Fix) -> dict[str, Any]:
    """An obstacle in the terms of Signal K: metres, seconds, radians."""
    relative = fix.relative(obstacle.bearing_deg)
    return {
        "track": obstacle.track,
        "danger": obstacle.danger,
        "distance": _rounded(obstacle.range_m),
        "distanceError": _rounded(obstacle.range_error_m),
        "bearingRelative": _rounded(relative, 5),
        "bearingTrue": _rounded(fix.true(relative), 5),
        "position": fix.position_of(obstacle.range_m, relative),
        "closingSpeed": _rounded(obstacle.closing_mps),
        "closestApproach.distance": _rounded(obstacle.nearest_m),
        "closestApproach.timeTo": _rounded(obstacle.nearest_s, 1),
    }


def notification(notice: Notice, fix: Fix) -> dict[str, Any]:
    """The value of a notification."""
    value: dict[str, Any] = {
        "state": notice.state,
        "method": _METHODS[notice.state],
        "message": notice.message,
    }
    if notice.obstacle is not None:
        about = _described(notice.obstacle, fix)
        value["data"] = {key: about[key] for key in ("distance", "distanceError", "bearingRelative")}
        if about["position"] is not None:
            value["position"] = about["position"]
    return value


def describe(obstacle: Obstacle | None) -> str:
    """An obstacle in the danger zone in words."""
    if obstacle is None or obstacle.range_m is None or obstacle.bearing_deg is None:
        return "an obstacle is in the danger zone"
    return f"obstacle at {obstacle.range_m:.0f} m, bearing {obstacle.bearing_deg:+.0f}°"


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)
