"""Tracked targets and alarms for chart plotters, by NMEA 0183. Needs the extra `nmea` for a serial port only.

TTM for every obstacle with a number, a bearing and a range; ALR and ALF for what is alarming.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from il2vseg.runtime.events import Event, ignore
from il2vseg.runtime.marine.scene import Obstacle, Scene
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sinks.link import Address, Link
from il2vseg.runtime.sources.base import Report

TARGETS_S = 1.0
"""Seconds between two reports of a target."""

REPEAT_S = 10.0
"""Seconds after which an alarm that goes on is repeated."""

HOLD_S = 2.0
"""Seconds for which a target that is not seen is neither lost nor clear."""

MAX_TARGETS = 20
_BAUD_PER_TARGET = 1200  # a serial line of 4800 baud carries four sentences per second, and has room
_KMH = 3.6


def sentence(*fields: str) -> bytes:
    """Join the fields of a sentence, the first with talker and type, between $ and the checksum."""
    body = ",".join(fields)
    checksum = 0
    for byte in body.encode("ascii"):
        checksum ^= byte
    return f"${body}*{checksum:02X}\r\n".encode("ascii")


@dataclass
class _Alarm:
    """An alarm by its number: what it says in the sixteen characters of ALF, and since when it is so."""

    number: int
    text: str
    active: bool = False
    changed: float = 0.0
    told: float = -math.inf
    revision: int = 0


class NmeaSink(Sink):
    """Sends the nearest obstacles once a second, and alarms when they begin, every ten seconds, and end.

    Alarm 1: an obstacle is in the danger zone; 2: one is on a collision course; 3: the camera shows nothing.
    Bearings are relative to the bow; speed and course are those seen from the boat. Events reported:
    nmea_connected, nmea_lost.
    """

    name = "nmea"

    def __init__(self, address: str, report: Report = ignore) -> None:
        """Start to connect.

        Args:
            address: as `link.Address.parse` reads it.
        Raises:
            UserError: it is no address. ImportError: it is a serial port, and pyserial is not installed.
        """
        parsed = Address.parse("nmea", address)
        serial = parsed.kind == "serial"
        self._most = max(1, min(MAX_TARGETS, parsed.number // _BAUD_PER_TARGET)) if serial else MAX_TARGETS
        self._clock: Callable[[], float] = time.monotonic
        self._due = -math.inf
        self._moment = 0.0
        self._shown: dict[int, tuple[bytes, float]] = {}  # how its loss is told, and when it was seen
        self._threats: dict[int, float] = {}  # tracks on a collision course, and when they last were
        self._zone = _Alarm(1, "OBSTACLE NEAR")
        self._course = _Alarm(2, "COLLISION COURSE")
        self._camera = _Alarm(3, "CAMERA BLIND")
        self._messages = 0
        self._lock = threading.Lock()
        self._link = Link("nmea", address, report, tick=self._repeat)
        self._link.start()

    def write(self, result: Result) -> None:
        unix, self._moment = result.captured.unix, result.captured.moment
        self._update(self._camera, result.blind is not None, unix)
        if result.scene is None:
            return
        self._update(self._zone, result.scene.alarm, unix)
        for obstacle in result.obstacles:
            if obstacle.track in self._threats and obstacle.nearest_s is not None:
                self._threats[obstacle.track] = self._moment
        self._threats = {t: seen for t, seen in self._threats.items() if self._moment - seen <= HOLD_S}
        self._update(self._course, bool(self._threats), unix)
        now = self._clock()
        if now >= self._due:
            self._due = now + TARGETS_S
            self._tell_targets(result.scene, unix)

    def event(self, event: Event) -> None:
        if event.kind == "collision_course" and isinstance(event.data.get("track"), int):
            self._threats[event.data["track"]] = self._moment
            self._update(self._course, True, event.time)
        elif event.kind == "source_lost":
            self._update(self._camera, True, event.time)

    def close(self) -> None:
        self._link.close()

    def _tell_targets(self, scene: Scene, unix: float) -> None:
        """Send the nearest ones, and once more, as lost, those that were sent before and are gone."""
        yaw = 0.0 if scene.camera is None else scene.camera.yaw
        told = {
            obstacle.track % 100: obstacle
            for obstacle in reversed(scene.obstacles)
            if obstacle.track is not None
            and obstacle.range_m is not None
            and obstacle.bearing_deg is not None
        }
        for number, obstacle in list(told.items())[-self._most :]:
            self._link.send(_ttm(number, obstacle, yaw, unix, "T"))
            self._shown[number] = _ttm(number, obstacle, yaw, unix, "L"), self._moment
        for number, (loss, seen) in list(self._shown.items()):
            if self._moment - seen > HOLD_S:
                self._link.send(loss)
                del self._shown[number]

    def _update(self, alarm: _Alarm, active: bool, unix: float) -> None:
        """Tell of an alarm that begins or ends."""
        with self._lock:
            if active != alarm.active:
                alarm.active, alarm.changed = active, unix
                alarm.revision = alarm.revision % 99 + 1
                self._tell(alarm)

    def _repeat(self) -> None:
        """Called all the time by the link's thread: tell again of alarms that go on, for who came late."""
        with self._lock:
            for alarm in (self._zone, self._course, self._camera):
                if alarm.active and self._clock() - alarm.told >= REPEAT_S:
                    self._tell(alarm)

    def _tell(self, alarm: _Alarm) -> None:
        alarm.told = self._clock()
        state = "A" if alarm.active else "V"
        number = f"{alarm.number:03d}"
        self._link.send(sentence("IIALR", _utc(alarm.changed), number, state, "V", alarm.text))
        self._messages = (self._messages + 1) % 10
        self._link.send(_alf(alarm, self._messages))


def _ttm(number: int, obstacle: Obstacle, yaw: float, unix: float, status: str) -> bytes:
    """Tracked target, in kilometres: a plotter may take relative bearings with its own heading."""
    nearest_s, nearest_m = obstacle.nearest_s, obstacle.nearest_m
    return sentence(
        "RATTM",
        f"{number:02d}",
        _number(obstacle.range_m, 1e-3, 3),
        f"{((obstacle.bearing_deg or 0.0) + yaw) % 360:05.1f}",
        "R",
        _number(obstacle.speed_mps, _KMH, 1),
        "" if obstacle.course_deg is None else f"{(obstacle.course_deg + yaw) % 360:05.1f}",
        "R",
        _number(nearest_m, 1e-3, 3),
        _number(nearest_s, 1 / 60, 2),
        "K",
        f"OBST{number:02d}",
        status,
        "",
        _utc(unix),
        "A",
    )


def _alf(alarm: _Alarm, message: int) -> bytes:
    """Alert: category B, alarm, active and unacknowledged or normal; its identifier is one of our own."""
    state = "V" if alarm.active else "N"
    identity = f"{10_000 + alarm.number}"
    return sentence(
        "IIALF", "1", "1", str(message), _utc(alarm.changed), "B", "A", state, "", identity, "1",
        str(alarm.revision), "0", alarm.text,
    )  # fmt: skip


def _number(value: float | None, factor: float, digits: int) -> str:
    return "" if value is None else f"{factor * value:.{digits}f}"


def _utc(unix: float) -> str:
    seconds, hundredths = divmod(round(100 * unix), 100)
    return time.strftime("%H%M%S", time.gmtime(seconds)) + f".{hundredths:02d}"
