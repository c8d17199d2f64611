"""Obstacles and alarms for an autopilot, by MAVLink. Needs the extra `mavlink`.

What an ArduPilot or PX4 does with them is its own decision: docs/onboard.md has its parameters.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from pymavlink.dialects.v20 import common as mavlink

from il2vseg.runtime.events import Event, ignore
from il2vseg.runtime.marine.sectors import Sectors, sectors
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sinks.link import Link
from il2vseg.runtime.sources.base import Report

HEARTBEAT_S = 1.0
DISTANCE_S = 0.1
"""Least time between two OBSTACLE_DISTANCE; autopilots take what is older than half a second for lost."""

TEXT_S = 1.0
"""Least time between two texts of the same kind of event."""

SILENCE_S = 5.0
"""Seconds without a heartbeat after which the autopilot counts as away."""

_NO_RANGE = "no distances for the autopilot: they need classes water and obstacle, --camera-height and --fov"
_IDLE_S = 2.0  # without a frame: the heartbeat says standby
_MIN_CM = 20  # an autopilot ignores what is nearer than a sensor can measure
_FACE_DEG = 45.0  # what an autopilot takes a DISTANCE_SENSOR to look at
_TEXT_BYTES = 50

_SEVERITY = {
    "alarm": mavlink.MAV_SEVERITY_CRITICAL,
    "collision_course": mavlink.MAV_SEVERITY_CRITICAL,
    "camera_blind": mavlink.MAV_SEVERITY_ERROR,
    "source_lost": mavlink.MAV_SEVERITY_ERROR,
    "engine_failed": mavlink.MAV_SEVERITY_ERROR,
    "unlike_training": mavlink.MAV_SEVERITY_WARNING,
    "alarm_over": mavlink.MAV_SEVERITY_INFO,
    "camera_sees": mavlink.MAV_SEVERITY_INFO,
    "source_back": mavlink.MAV_SEVERITY_INFO,
    "like_training": mavlink.MAV_SEVERITY_INFO,
}
"""Events that are told as texts."""


class MavlinkSink(Sink):
    """Sends HEARTBEAT, OBSTACLE_DISTANCE, STATUSTEXT and, where asked for, DISTANCE_SENSOR.

    Distances need the camera's mounting (`Scene.camera`); without it there are heartbeat and texts only. They
    are unknown while the camera shows nothing. It takes the system number of the autopilot that it hears.
    Events reported: mavlink_connected, mavlink_lost, and mavlink_without_range once where no distance can be
    sent.
    """

    name = "mavlink"

    def __init__(
        self, address: str, report: Report = ignore, *, reach_m: float = 100.0, distance_sensor: bool = False
    ) -> None:
        """Start to connect.

        Args:
            address: as `link.Address.parse` reads it. reach_m: farthest distance that is sent, 1 to 650.
            distance_sensor: also send the distance straight ahead of the camera.
        Raises:
            UserError: it is no address. ImportError: it is a serial port, and pyserial is not installed.
        """
        self._report, self._reach_m, self._distance_sensor = report, reach_m, distance_sensor
        self._clock: Callable[[], float] = time.monotonic
        self._begun = self._clock()
        self._due: dict[str, float] = {}
        self._last_frame = -math.inf
        self._texts = 0
        self._told = False
        self._lock = threading.Lock()  # the sequence number is that of two threads
        self._mouth = mavlink.MAVLink(None, 1, mavlink.MAV_COMP_ID_ONBOARD_COMPUTER)
        self._ear = mavlink.MAVLink(None)
        self._ear.robust_parsing = True
        self._link = Link(
            "mavlink", address, report, hear=self._hear, tick=self._heartbeat, silence_s=SILENCE_S
        )
        self._link.start()

    def write(self, result: Result) -> None:
        self._last_frame = self._clock()
        if not self._is_due("distance", DISTANCE_S):
            return
        found = None if result.scene is None else sectors(result.scene, self._reach_m)
        if found is None:
            if not self._told:
                self._told = True
                self._report("mavlink_without_range", _NO_RANGE)
            return
        if result.blind is not None:
            found.metres[:] = np.nan
        self._send(_obstacle_distance(found, int(1e6 * result.captured.unix)))
        if self._distance_sensor and (nearest := self._nearest(found)) is not None:
            self._send(nearest)

    def event(self, event: Event) -> None:
        severity = _SEVERITY.get(event.kind)
        if severity is None or not self._is_due(event.kind, TEXT_S):
            return
        text = f"il2vseg: {event.message}".replace("°", " deg").encode("ascii", "replace")
        pieces = [text[i : i + _TEXT_BYTES] for i in range(0, len(text), _TEXT_BYTES)]
        self._texts = self._texts % 65535 + 1
        if len(text) % _TEXT_BYTES == 0 and len(pieces) > 1:
            pieces.append(b"")  # a piece that is not full is the last one
        for number, piece in enumerate(pieces):
            identity = self._texts if len(pieces) > 1 else 0
            self._send(mavlink.MAVLink_statustext_message(severity, piece, identity, number))

    def close(self) -> None:
        self._link.close()

    def _is_due(self, what: str, every_s: float) -> bool:
        now = self._clock()
        if now < self._due.get(what, -math.inf):
            return False
        self._due[what] = now + every_s
        return True

    def _send(self, message: Any) -> None:
        with self._lock:
            self._link.send(bytes(message.pack(self._mouth)))
            self._mouth.seq = (self._mouth.seq + 1) % 256

    def _heartbeat(self) -> None:
        """Called all the time by the link's thread."""
        if not self._is_due("heartbeat", HEARTBEAT_S):
            return
        idle = self._clock() - self._last_frame > _IDLE_S
        state = mavlink.MAV_STATE_STANDBY if idle else mavlink.MAV_STATE_ACTIVE
        kind, no_autopilot = mavlink.MAV_TYPE_ONBOARD_CONTROLLER, mavlink.MAV_AUTOPILOT_INVALID
        self._send(mavlink.MAVLink_heartbeat_message(kind, no_autopilot, 0, 0, state, 3))

    def _hear(self, data: bytes) -> bool:
        """Look for the heartbeat of an autopilot; belong to its system from then on."""
        heard = False
        for message in self._ear.parse_buffer(data) or ():
            if message.get_type() == "HEARTBEAT" and message.autopilot != mavlink.MAV_AUTOPILOT_INVALID:
                self._mouth.srcSystem = message.get_srcSystem()
                heard = True
        return heard

    def _nearest(self, found: Sectors) -> Any:
        """DISTANCE_SENSOR of the face that the camera's axis is in; None where that cannot be told."""
        face = round(found.yaw_deg / _FACE_DEG) * _FACE_DEG
        directions = found.first_deg + found.step_deg * np.arange(len(found.metres))
        metres = found.metres[np.abs(directions - face) <= _FACE_DEG / 2]
        nearest = float(np.fmin.reduce(metres))
        if math.isnan(nearest) or (math.isinf(nearest) and np.isnan(metres).any()):
            return None
        max_cm, error = _centimetres(found.reach_m), found.error(nearest)
        variance = (100 * error) ** 2
        return mavlink.MAVLink_distance_sensor_message(
            int(1e3 * (self._clock() - self._begun)) % 2**32,
            _MIN_CM,
            max_cm,
            max_cm + 1 if math.isinf(nearest) else max(_MIN_CM, _centimetres(nearest)),
            mavlink.MAV_DISTANCE_SENSOR_UNKNOWN,
            0,
            round(face / _FACE_DEG) % 8,  # MAV_SENSOR_ROTATION_NONE, _YAW_45, ... clockwise
            max(1, round(variance)) if variance < 254.5 else 255,
            math.radians(found.step_deg * len(metres)),
            0.0,
            (0.0, 0.0, 0.0, 0.0),
            0 if math.isinf(nearest) else round(100 * (1 - error / nearest)),
        )


def _centimetres(metres: float) -> int:
    return min(65_000, round(100 * metres))


def _obstacle_distance(found: Sectors, time_us: int) -> Any:
    """OBSTACLE_DISTANCE in the body's frame: unknown is UINT16_MAX, free is one more than the maximum."""
    max_cm = _centimetres(found.reach_m)
    metres = np.nan_to_num(found.metres, nan=0.0, posinf=0.0)
    distances = np.clip(np.round(100 * metres), _MIN_CM, max_cm).astype(int)
    distances[np.isinf(found.metres)] = max_cm + 1
    distances[np.isnan(found.metres)] = 65535
    return mavlink.MAVLink_obstacle_distance_message(
        time_us,
        mavlink.MAV_DISTANCE_SENSOR_UNKNOWN,
        distances.tolist(),
        max(1, round(found.step_deg)),
        _MIN_CM,
        max_cm,
        found.step_deg,
        found.first_deg,
        mavlink.MAV_FRAME_BODY_FRD,
    )
