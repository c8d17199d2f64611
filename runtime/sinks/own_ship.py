"""Where the own ship is and where it points, from a Signal K server, and what follows for obstacles."""

import math
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

FRESH_S = 5.0
"""Seconds after which a position or a heading is not used any more."""

_EQUATOR_M, _FLATTENING = 6378137.0, 1 / 298.257223563  # WGS 84


@dataclass(frozen=True)
class Fix:
    """What is known of the own ship at a moment.

    Attributes:
        ahead: radians to starboard of the bow in which the camera looks.
        position: latitude and longitude in degrees. heading: true, in radians. None where they are unknown.
    """

    ahead: float = 0.0
    position: tuple[float, float] | None = None
    heading: float | None = None

    def relative(self, bearing_deg: float | None) -> float | None:
        """Turn a bearing in degrees from the camera's axis into radians from the bow, in (−π, π]."""
        if bearing_deg is None:
            return None
        angle = math.remainder(self.ahead + math.radians(bearing_deg), math.tau)
        return math.pi if angle == -math.pi else angle

    def true(self, relative: float | None) -> float | None:
        """Turn radians from the bow into a true bearing in [0, 2π); None without a heading."""
        return None if relative is None or self.heading is None else (self.heading + relative) % math.tau

    def position_of(self, range_m: float | None, relative: float | None) -> dict[str, float] | None:
        """Return latitude and longitude of what is so many metres away; None where that is unknown.

        On the ellipsoid's tangent plane: exact to a centimetre at 1 km.
        """
        true = self.true(relative)
        if range_m is None or true is None or self.position is None or abs(self.position[0]) > 89:
            return None
        latitude, longitude = self.position
        sine = math.sin(math.radians(latitude))
        squared = _FLATTENING * (2 - _FLATTENING)
        curve = 1 - squared * sine**2
        along = _EQUATOR_M * (1 - squared) / curve**1.5  # radius of the meridian
        across = _EQUATOR_M / math.sqrt(curve) * math.cos(math.radians(latitude))
        north, east = range_m * math.cos(true), range_m * math.sin(true)
        longitude += math.degrees(east / across)
        return {
            "latitude": round(latitude + math.degrees(north / along), 7),
            "longitude": round((longitude + 180) % 360 - 180, 7),
        }


class OwnShip:
    """Position and heading as deltas of Signal K bring them, while they are fresh."""

    def __init__(self) -> None:
        self._ahead_of_us = 0.0  # seconds, of the server's clock
        self._values: dict[str, tuple[Any, float]] = {}

    def hello(self, message: dict[str, Any]) -> None:
        """Take a server's greeting, which tells its time."""
        self._values.clear()
        now = time.time()
        self._ahead_of_us = (_seconds(message.get("timestamp")) or now) - now

    def take(self, message: dict[str, Any]) -> dict[str, str]:
        """Take a delta; return the paths in it with their times."""
        found: dict[str, str] = {}
        for update in message.get("updates") or ():
            stamp = _seconds(update.get("timestamp"))
            taken = time.time() if stamp is None else stamp - self._ahead_of_us
            for value in update.get("values") or ():
                found[value["path"]] = str(update.get("timestamp"))
                if str(value["path"]).startswith("navigation."):
                    self._values[value["path"]] = value["value"], taken
        return found

    def fix(self, yaw: float = 0.0) -> Fix:
        """Return what is known now; `yaw`: where the camera looks, degrees to starboard of the bow."""
        place, heading = self._fresh("navigation.position"), self._fresh("navigation.headingTrue")
        position = None
        if isinstance(place, dict):
            latitude, longitude = _number(place.get("latitude")), _number(place.get("longitude"))
            position = None if latitude is None or longitude is None else (latitude, longitude)
        return Fix(math.radians(yaw), position, _number(heading))

    def _fresh(self, path: str) -> Any:
        value, taken = self._values.get(path, (None, -math.inf))
        return value if abs(time.time() - taken) <= FRESH_S else None


def _number(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def _seconds(stamp: Any) -> float | None:
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except (TypeError, ValueError):
        return None
