"""A rendered approach to a buoy, from the pixels to what an autopilot and a Signal K server are told.

Truth is the renderer's. Stated error: two pixels of the foot, and the range's share of what the foot is
above or below the water (draught and heave) of the camera's height.
"""

import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from il2vseg.base.images import Frame, Labels
from il2vseg.runtime.events import EventLog
from il2vseg.runtime.marine.scene import Classes, MarineAnalyser
from il2vseg.runtime.marine.tracks import Tracker
from il2vseg.runtime.marine.water_plane import Camera
from il2vseg.runtime.pipeline import Pipeline
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sources.base import Captured, Source
from tests.waiting import eventually

from .conftest import CLASSES, needs

needs("websockets", "signalk")
needs("starlette", "web")
needs("uvicorn", "web")
needs("pymavlink", "mavlink")

from il2vseg.runtime.sinks import mavlink, signalk  # noqa: E402

from . import servers  # noqa: E402
from .approach import FIELD_OF_VIEW, Approach, View  # noqa: E402
from .signalk.server import FakeSignalK, RealSignalK, installed  # noqa: E402
from .test_mavlink import Autopilot  # noqa: E402

BEGIN = 1.7e9
STEP_S = 0.25
TIMES = [STEP_S * i for i in range(39)]  # 45 m to 7 m: nearer, the foot is below the picture
DANGER_M = 15.0
YAW = 10.0
APPROACH = Approach()
NEAREST = "environment.obstacles.bow.nearest"


@cache
def view_at(seconds: float) -> View:
    return APPROACH.at(seconds)


def error(view: View) -> float:
    """The stated error of a range, in metres; 2 m high, 544 pixels of focal length."""
    return 2 * view.range_m**2 / (544.0 * 2.0) + view.range_m * APPROACH.lift_m / 2.0


class Footage(Source):
    """The approach as a recording; `labels` of each frame are those of the renderer."""

    fps = 1 / STEP_S

    def __init__(self, pace_s: float) -> None:
        self._pace_s = pace_s
        self._index = 0
        self.views: list[View] = []
        self.labels: dict[int, Labels] = {}

    def read(self) -> Captured | None:
        if self._index == len(TIMES):
            return None
        seconds, index = TIMES[self._index], self._index
        self._index += 1
        view = view_at(seconds)
        self.views.append(view)
        self.labels[id(view.frame)] = view.labels
        time.sleep(self._pace_s)
        return Captured(view.frame, index, f"frame_{index:06d}", unix=BEGIN + seconds, timeline_s=seconds)

    def truth(self, unix: float) -> View:
        return self.views[round((unix - BEGIN) / STEP_S)]


def drive(sinks: list[Sink], pace_s: float = 0.0) -> Footage:
    """Run the pipeline over the approach, the renderer's masks in place of a model."""
    footage, events = Footage(pace_s), EventLog()
    camera = Camera(APPROACH.height_m, FIELD_OF_VIEW, yaw=YAW)
    analyser = MarineAnalyser(Classes(1, 0, 2), camera, DANGER_M)

    def engine(frame: Frame) -> Result:
        captured = Captured(frame, 0, "frame")
        return Result(captured, footage.labels[id(frame)], np.full((3, 1, 1), 1 / 3, np.float32), CLASSES)

    follow = Tracker(DANGER_M, events.emit)
    Pipeline(footage, engine, sinks, events, analyse=analyser, follow=follow).run()
    return footage


class Kept(Sink):
    """Keeps results."""

    def __init__(self) -> None:
        self.results: list[Result] = []

    def write(self, result: Result) -> None:
        self.results.append(result)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(signalk, "PERIOD_S", 0.0)
    monkeypatch.setattr(signalk, "_TICK_S", 0.002)
    monkeypatch.setattr(mavlink, "DISTANCE_S", 0.0)


@pytest.fixture
def autopilot() -> Iterator[Autopilot]:
    pilot = Autopilot(f"udpin:127.0.0.1:{servers.free_port()}")
    yield pilot
    pilot.line.close()


def test_ranges_bearings_and_closing_speed_are_those_of_the_renderer() -> None:
    kept = Kept()
    footage = drive([kept])
    assert len(kept.results) == 39
    for result, view in zip(kept.results, footage.views, strict=True):
        (buoy,) = result.obstacles
        assert buoy.range_m == pytest.approx(view.range_m, abs=error(view))
        assert buoy.bearing_deg == pytest.approx(view.bearing_deg, abs=0.5)
        assert buoy.danger == (buoy.range_m <= DANGER_M)
    tracked = [r.obstacles[0] for r in kept.results[12:]]
    assert {o.track for o in tracked} == {1}
    assert np.median([o.closing_mps for o in tracked]) == pytest.approx(4.0, abs=0.4)


def check_alarm(value: Any, footage: Footage) -> None:
    """An alarm in the danger zone whose distance is that of a frame that was just seen."""
    assert value["state"] == "alarm"
    distance = value["data"]["distance"]
    assert 12.0 < distance <= 15.0
    assert any(abs(v.range_m - distance) <= error(v) for v in footage.views)
    assert value["message"].startswith(f"obstacle at {distance:.0f} m")


def test_an_autopilot_is_told_where_the_buoy_is(quick: None, autopilot: Autopilot) -> None:
    port = autopilot.line.port.getsockname()[1]
    with mavlink.MavlinkSink(f"udp:127.0.0.1:{port}") as sink:
        autopilot.hear("HEARTBEAT")
        footage = drive([sink])
        told = autopilot.hear("OBSTACLE_DISTANCE", len(TIMES))
    assert len(told) == 39
    for message in told[:2]:  # for half a second it may be a mistake: neither there nor free
        assert set(message.distances) == {65535, message.max_distance + 1}
    for message in told[2:]:
        view = footage.truth(message.time_usec / 1e6)
        sectors = np.array(message.distances, float)
        nearest = int(np.argmin(sectors))
        assert sectors[nearest] / 100 == pytest.approx(view.range_m, abs=error(view) + 0.01)
        direction = message.angle_offset + nearest * message.increment_f
        assert direction == pytest.approx(view.bearing_deg + YAW, abs=1.5)  # a sector is 0.8 degrees
        rest = np.delete(sectors, range(max(0, nearest - 4), nearest + 5))
        assert (rest == message.max_distance + 1).all()  # open water


def test_a_signal_k_server_is_told_where_the_buoy_is(quick: None) -> None:
    server = FakeSignalK()
    server.start()
    try:
        events: list[str] = []
        sink = signalk.SignalKSink(f"{server.url}/bow", lambda kind, *_, **__: events.append(kind))
        eventually(lambda: events)
        footage = drive([sink], pace_s=0.01)
        updates = [u for m in server.messages for u in m.get("updates", ())]
    finally:
        server.kill()
    told, alarms = 0, []
    for update in updates:
        values = {v["path"]: v["value"] for v in update.get("values", ())}
        alarms += [v for p, v in values.items() if "obstacle.bow" in p and v["state"] == "alarm"]
        if values.get(f"{NEAREST}.distance") is None:
            continue
        view = footage.truth(_unix(update["timestamp"]))
        assert values[f"{NEAREST}.distance"] == pytest.approx(view.range_m, abs=error(view))
        relative = np.degrees(values[f"{NEAREST}.bearingRelative"])
        assert relative == pytest.approx(view.bearing_deg + YAW, abs=0.5)
        told += 1
    assert told >= 15
    (alarm,) = alarms
    check_alarm(alarm, footage)


def _unix(stamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(stamp).timestamp()


@pytest.mark.slow
def test_the_real_server_and_an_autopilot_are_told_at_once(
    tmp_path: Path, autopilot: Autopilot, require: Callable[[object, str], None], monkeypatch: Any
) -> None:
    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))
    folder = installed()
    require(folder is not None, "signalk-server is not installed (tests/npm-packages.sh)")
    assert folder is not None
    server = RealSignalK(folder, tmp_path / "signalk")
    with servers.running(server):
        eventually(server.ready, 60)
        events: list[str] = []
        chart = signalk.SignalKSink(f"{server.url}/bow", lambda kind, *_, **__: events.append(kind))
        eventually(lambda: "signalk_connected" in events)
        seen: list[Any] = []

        class Look(Sink):
            """Asks the server after every frame."""

            def write(self, result: Result) -> None:
                seen.append((server.value(f"{NEAREST}.distance"), server.value(chart._path("obstacle"))))

        port = autopilot.line.port.getsockname()[1]
        pilot = mavlink.MavlinkSink(f"udp:127.0.0.1:{port}")
        footage = drive([chart, pilot, Look()], pace_s=0.25)
    assert len(autopilot.hear("OBSTACLE_DISTANCE", 10)) >= 10
    distances = [d for d, _ in seen if d is not None]
    assert len(set(distances)) >= 10
    assert all(any(abs(v.range_m - d) <= error(v) for v in footage.views) for d in distances)
    check_alarm(next(v for _, v in seen if v["state"] == "alarm"), footage)
