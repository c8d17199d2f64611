"""The alarm: something has come into the danger zone, or the zone is clear again."""

from il2vseg.runtime.marine.scene import Obstacle
from il2vseg.runtime.sources.base import Report

CLEAR_S = 1.5
"""Seconds without an obstacle in the zone that end the alarm: a wave before it does not."""


class Alarm:
    """Turns what threatens from frame to frame into the events `alarm` and `alarm_over`."""

    def __init__(self, report: Report | None = None) -> None:
        """Be silent. `report` is told of the events; None for nobody."""
        self._report = report
        self._last = 0.0
        self.active = False

    def update(self, nearest: Obstacle | None, seconds: float) -> bool:
        """Take the nearest of what threatens at a time in seconds; return whether the alarm is on.

        Args:
            nearest: with range and bearing, in the danger zone for certain; None if there is nothing.
        """
        if nearest is not None:
            self._last = seconds
            if not self.active:
                self.active = True
                self._tell(
                    "alarm",
                    f"obstacle at {nearest.range_m:.0f} m, bearing {nearest.bearing_deg:+.0f}°",
                    range_m=round(nearest.range_m or 0.0, 2),
                    bearing_deg=round(nearest.bearing_deg or 0.0, 2),
                )
        elif self.active and seconds - self._last >= CLEAR_S - 1e-6:
            self.active = False
            self._tell("alarm_over", "the danger zone is clear")
        return self.active

    def _tell(self, kind: str, message: str, **data: float) -> None:
        if self._report is not None:
            self._report(kind, message, **data)
