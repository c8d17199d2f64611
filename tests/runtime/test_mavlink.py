"""What an autopilot receives, read by pymavlink's own receiver, field by field."""

import math
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.runtime.events import Event
from il2vseg.runtime.marine.scene import Horizon, Obstacle, Scene
from il2vseg.runtime.marine.water_plane import Camera, Line
from il2vseg.runtime.result import Result
from tests.waiting import eventually

from . import servers
from .conftest import make_result, needs

needs("pymavlink", "mavlink")

from pymavlink import mavutil  # noqa: E402

from il2vseg.runtime.sinks import mavlink  # noqa: E402
from il2vseg.runtime.sinks.mavlink import MavlinkSink  # noqa: E402

from .autopilot import Autopilot  # noqa: E402

SIZE = (48, 64)
HORIZON = Horizon(Line(20.0, 20.0), 0.0)


CAMERA = Camera(20.0, 72.0)


def seen(*obstacles: Obstacle, camera: Camera | None = CAMERA, **fields: Any) -> Result:
    """Open water to the horizon, with these obstacles in it."""
    edge = np.full(SIZE[1], 20.0, np.float32)
    return make_result(scene=Scene(SIZE, edge, HORIZON, obstacles, camera=camera), **fields)


BUOY = Obstacle((40, 20, 1, 6), (40.5, 26.0), 11.5, 37.5, 0.4)


@pytest.fixture
def autopilot() -> Iterator[Autopilot]:
    pilot = Autopilot(f"udpin:127.0.0.1:{servers.free_port(socket.SOCK_DGRAM)}")
    yield pilot
    pilot.line.close()


Events = list[tuple[str, str]]


@pytest.fixture
def opened(autopilot: Autopilot) -> Iterator[Callable[..., tuple[MavlinkSink, Events]]]:
    sinks: list[MavlinkSink] = []

    def start(**options: Any) -> tuple[MavlinkSink, Events]:
        events: Events = []
        port = autopilot.line.port.getsockname()[1]
        sink = MavlinkSink(
            f"udp:127.0.0.1:{port}", lambda kind, message, **data: events.append((kind, message)), **options
        )
        sinks.append(sink)
        autopilot.hear("HEARTBEAT")
        return sink, events

    yield start
    for sink in sinks:
        sink.close()


Open = Callable[..., tuple[MavlinkSink, Events]]


def test_every_field_of_an_obstacle_distance(autopilot: Autopilot, opened: Open) -> None:
    sink, _ = opened()
    scene = seen(BUOY).scene
    assert scene is not None
    scene.water_edge[:10] = np.nan  # the left is hidden
    sink.write(make_result(index=3, scene=scene))
    (message,) = autopilot.hear("OBSTACLE_DISTANCE")
    assert message.time_usec == 1_700_000_000_300_000
    assert message.sensor_type == 4  # MAV_DISTANCE_SENSOR_UNKNOWN
    assert message.frame == 12  # MAV_FRAME_BODY_FRD
    assert (message.min_distance, message.max_distance) == (20, 10_000)
    assert message.increment == 1
    assert message.increment_f == pytest.approx(1.0)
    assert message.angle_offset == pytest.approx(-35.5)
    assert len(message.distances) == 72
    assert message.distances[0] == 65535  # unknown
    assert message.distances[36 + 11] == 3750
    assert message.distances[-1] == 10_001  # free
    assert set(message.distances) == {65535, 3750, 10_001}
    assert (message.get_srcSystem(), message.get_srcComponent()) == (1, 191)


def test_a_camera_that_shows_nothing_knows_nothing(autopilot: Autopilot, opened: Open) -> None:
    sink, _ = opened()
    sink.write(seen(BUOY, blind="black"))
    (message,) = autopilot.hear("OBSTACLE_DISTANCE")
    assert set(message.distances) == {65535}


def test_what_is_nearer_than_a_sensor_can_measure_is_not_ignored(autopilot: Autopilot, opened: Open) -> None:
    """An autopilot passes over distances below the least one, and over 0."""
    sink, _ = opened(reach_m=50.0)
    sink.write(seen(replace(BUOY, range_m=0.05)))
    (message,) = autopilot.hear("OBSTACLE_DISTANCE")
    assert min(message.distances) == message.min_distance == 20
    assert message.max_distance == 5000


def test_distances_come_ten_times_a_second_at_most(autopilot: Autopilot, opened: Open) -> None:
    sink, _ = opened()
    now = 100.0
    sink._clock = lambda: now
    for i in range(100):  # 40 frames per second
        now = 100.0 + i / 40
        sink.write(seen(BUOY, index=i))
    found = autopilot.hear("OBSTACLE_DISTANCE", 25)
    assert len(found) == 25
    assert found[1].time_usec - found[0].time_usec == 400_000  # `make_result` has 10 frames per second


def test_the_heartbeat_is_that_of_an_onboard_computer_once_a_second(
    autopilot: Autopilot, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, _ = opened()
    first = autopilot.all("HEARTBEAT")[0]
    assert (first.type, first.autopilot, first.base_mode, first.custom_mode) == (18, 8, 0, 0)
    assert first.system_status == 3  # standby: no frame yet
    sink.write(seen())
    second = autopilot.hear("HEARTBEAT", 2)[1]
    assert second.system_status == 4  # active
    assert 0.8 < second._timestamp - first._timestamp < 3.0  # on a busy machine
    assert (second.get_seq() - first.get_seq()) % 256 == 2  # nothing is lost or numbered twice


def test_alarms_are_texts_for_the_ground_station(autopilot: Autopilot, opened: Open) -> None:
    sink, _ = opened()
    sink.event(Event("alarm", "obstacle at 12 m, bearing +5°"))
    sink.event(Event("alarm", "obstacle at 11 m, bearing +5°"))  # in the same second
    sink.event(Event("quota", "deleted 3 old recordings"))
    sink.event(Event("camera_blind", "x" * 90))
    sink.event(Event("alarm_over", "x" * 41))
    sink.event(Event("camera_sees", "x" * 91))
    texts = autopilot.hear("STATUSTEXT", 7)
    assert [(t.severity, t.text, t.id, t.chunk_seq) for t in texts] == [
        (2, "il2vseg: obstacle at 12 m, bearing +5 deg", 0, 0),
        (3, "il2vseg: " + "x" * 41, 2, 0),
        (3, "x" * 49, 2, 1),
        (6, "il2vseg: " + "x" * 41, 0, 0),
        (6, "il2vseg: " + "x" * 41, 4, 0),
        (6, "x" * 50, 4, 1),
        (6, "", 4, 2),  # only a piece that is not full is the last
    ]


@pytest.mark.parametrize(("yaw", "orientation"), [(0.0, 0), (-90.0, 6), (170.0, 4)])
def test_every_field_of_a_distance_sensor(
    autopilot: Autopilot, opened: Open, yaw: float, orientation: int
) -> None:
    sink, _ = opened(distance_sensor=True)
    camera = Camera(20.0, 72.0, yaw=yaw)
    sink.write(seen(BUOY, camera=camera))
    (message,) = autopilot.hear("DISTANCE_SENSOR")
    focal = 32 / math.tan(math.radians(36))
    error = 37.5**2 / (focal * 20.0)
    assert message.time_boot_ms < 60_000
    assert (message.min_distance, message.max_distance, message.current_distance) == (20, 10_000, 3750)
    assert (message.type, message.id, message.orientation) == (4, 0, orientation)
    assert message.covariance == 255  # 1.6 m is more than it can say
    assert message.signal_quality == round(100 * (1 - error / 37.5))
    assert message.horizontal_fov == pytest.approx(math.radians(45), abs=0.02)


def test_straight_ahead_unknown_is_not_free(autopilot: Autopilot, opened: Open) -> None:
    sink, _ = opened(distance_sensor=True)
    sink._clock = iter(range(1000)).__next__
    free = seen()
    assert free.scene is not None
    hidden = replace(free.scene, water_edge=np.where(np.arange(64) < 32, np.nan, 20).astype(np.float32))
    sink.write(make_result(scene=hidden))
    sink.write(free)
    autopilot.hear("OBSTACLE_DISTANCE", 2)
    (message,) = autopilot.hear("DISTANCE_SENSOR")
    assert (message.current_distance, message.signal_quality) == (10_001, 0)


def test_without_a_mounting_there_are_no_distances_and_that_is_said_once(
    autopilot: Autopilot, opened: Open
) -> None:
    sink, events = opened()
    sink._clock = iter(range(1000)).__next__
    for result in (make_result(), seen(BUOY, camera=None), seen(BUOY, camera=None)):
        sink.write(result)
    sink.event(Event("alarm", "last"))
    autopilot.hear("STATUSTEXT")
    assert not autopilot.all("OBSTACLE_DISTANCE")
    assert [kind for kind, _ in events] == ["mavlink_without_range"]
    assert "--camera-height and --fov" in events[0][1]


def test_an_autopilot_goes_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, autopilot: Autopilot, opened: Open
) -> None:
    monkeypatch.setattr(mavlink, "SILENCE_S", 0.3)
    monkeypatch.setattr(mavlink, "HEARTBEAT_S", 0.05)
    sink, events = opened()
    kinds = lambda: [kind for kind, _ in events]  # noqa: E731
    eventually(lambda: kinds() == ["mavlink_lost"])  # it says nothing yet
    autopilot.hear("HEARTBEAT", 12)  # it is sent to, and does not refuse
    assert kinds() == ["mavlink_lost"]
    autopilot.speak()
    eventually(lambda: kinds() == ["mavlink_lost", "mavlink_connected"])
    sink.write(seen(BUOY))
    (message,) = autopilot.hear("OBSTACLE_DISTANCE")
    assert message.get_srcSystem() == 7  # that of the autopilot
    port = autopilot.line.port.getsockname()[1]
    autopilot.line.close()
    eventually(lambda: kinds()[2:] == ["mavlink_lost"])
    begun = time.monotonic()
    sink.write(seen(BUOY))
    assert time.monotonic() - begun < 1.0  # nobody waits for it
    again = Autopilot(f"udpin:127.0.0.1:{port}")
    try:
        again.hear("HEARTBEAT")
        again.speak()
        eventually(lambda: kinds()[3:] == ["mavlink_connected"])
        assert "127.0.0.1" in events[-1][1]
    finally:
        again.line.close()


def test_a_ground_station_is_no_autopilot(opened: Open) -> None:
    sink, _ = opened()
    station = mavutil.mavlink.MAVLink(None, 255, 190)
    assert not sink._hear(bytes(mavutil.mavlink.MAVLink_heartbeat_message(6, 8, 0, 0, 4, 3).pack(station)))
    vehicle = mavutil.mavlink.MAVLink(None, 7, 1)
    assert sink._hear(bytes(mavutil.mavlink.MAVLink_heartbeat_message(10, 3, 0, 0, 4, 3).pack(vehicle)))
    assert not sink._hear(b"no MAVLink \xfd\xfe at all")


@pytest.mark.parametrize("kind", ["udpin", "tcp", "serial"])
def test_every_kind_of_line(kind: str) -> None:
    """The autopilot's end of each: it calls us, we call it, and a cable."""
    port = servers.free_port()
    if kind == "serial":
        pytest.importorskip("serial")
        master, slave = os.openpty()
        sink = MavlinkSink(f"serial:{os.ttyname(slave)}:57600")
        os.set_blocking(master, False)
        data = b""

        def arrived() -> bool:
            nonlocal data
            with suppress(BlockingIOError):
                data += os.read(master, 4096)
            return len(data) >= 21

        eventually(arrived)
        (beat,) = mavutil.mavlink.MAVLink(None).parse_buffer(data[:21])
        assert beat.type == 18
        sink.close()
        os.close(master)
        os.close(slave)
        return
    if kind == "udpin":
        sink = MavlinkSink(f"udpin:127.0.0.1:{port}")
        pilot = Autopilot(f"udpout:127.0.0.1:{port}")
        eventually(lambda: pilot.speak() or sink._mouth.srcSystem == 7)
    else:
        pilot = Autopilot(f"tcpin:127.0.0.1:{port}")
        sink = MavlinkSink(f"tcp:127.0.0.1:{port}")
    sink.write(seen(BUOY))
    assert pilot.hear("HEARTBEAT")[0].type == 18
    eventually(lambda: sink.event(Event("alarm", "x")) or pilot.line.recv_msg() is not None)
    sink.close()
    pilot.line.close()


@pytest.mark.parametrize(
    "text",
    ["", "boat", "udp:boat", "udp:boat:0", "udp:boat:65536", "udp:14550", "tcp:u:geheim@h:1",
     "serial:/dev/x", "serial:/dev/x:9", "serial:/dev/x:9999999", "http://x:80"],
)  # fmt: skip
def test_a_wrong_address_is_refused_in_one_line_that_does_not_repeat_it(text: str) -> None:
    with pytest.raises(UserError, match=r"--mavlink: udp:HOST:PORT") as error:
        MavlinkSink(text)
    assert "geheim" not in str(error.value)


def test_a_run_speaks_to_an_autopilot_and_goes_on_without_one(
    model: Path, tmp_path: Path, autopilot: Autopilot, capsys: pytest.CaptureFixture[str]
) -> None:
    from il2vseg.runtime.cli import main

    port = autopilot.line.port.getsockname()[1]
    arguments = [
        "--model",
        str(model),
        "--provider",
        "cpu",
        "--source",
        "synthetic:size=48x64,frames=4",
        "--fov",
        "60",
    ]
    arguments += ["--camera-height", "2", "--pitch", "0", "--camera-yaw", "-20", "--mavlink-range", "40"]
    assert main([*arguments, "--mavlink", f"udp:127.0.0.1:{port}"]) == 0
    message = autopilot.hear("OBSTACLE_DISTANCE")[0]
    assert message.angle_offset == pytest.approx(-20 - 30 + 60 / 144)
    assert message.max_distance <= 4000
    nobody = servers.free_port(socket.SOCK_DGRAM)
    assert main([*arguments, "--mavlink", f"udp:127.0.0.1:{nobody}"]) == 0
    assert main([*arguments, "--mavlink", f"udp:x:{nobody}", "--source", "a.mp4", "b.mp4"]) == 2
    assert "--mavlink: one source only" in capsys.readouterr().err


@pytest.mark.slow
def test_mavproxy_shows_and_forwards_what_is_sent(tmp_path: Path) -> None:
    """The ground station of ArduPilot's developers, between us and a vehicle that it believes us to be."""
    mavproxy = shutil.which("mavproxy.py")
    if mavproxy is None:
        pytest.skip("MAVProxy is not installed (pip install MAVProxy); it is large, so no extra asks for it")
    ours, further = (servers.free_port(socket.SOCK_DGRAM) for _ in range(2))
    pilot = Autopilot(f"udpin:127.0.0.1:{further}")
    command = [
        sys.executable,
        str(mavproxy),
        f"--master=udpin:127.0.0.1:{ours}",
        "--daemon",
        "--non-interactive",
    ]
    command += [f"--out=udpout:127.0.0.1:{further}", "--default-modules=output", "--force-connected"]
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        try:
            with MavlinkSink(f"udp:127.0.0.1:{ours}") as sink:

                def write() -> bool:
                    sink.write(seen(BUOY))
                    sink.event(Event("alarm", "obstacle at 37 m"))
                    while (message := pilot.line.recv_msg()) is not None:
                        pilot.received.append(message)
                    return bool(pilot.all("OBSTACLE_DISTANCE") and pilot.all("STATUSTEXT"))

                eventually(write, 60.0)
        finally:
            process.kill()
            process.wait()
    assert 3750 in pilot.all("OBSTACLE_DISTANCE")[0].distances
    assert pilot.all("HEARTBEAT")[0].type == 18
    assert "il2vseg: obstacle at 37 m" in (tmp_path / "out").read_text()
