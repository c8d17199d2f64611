"""What a chart plotter receives, read back by pynmea2; its death and return."""

import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.runtime.events import Event
from il2vseg.runtime.marine.scene import Obstacle, Scene
from il2vseg.runtime.marine.water_plane import Camera
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks import nmea
from il2vseg.runtime.sinks.nmea import NmeaSink, sentence
from tests.waiting import eventually

from . import servers
from .conftest import SIZE, make_result, needs

needs("pynmea2", "dev")

import pynmea2  # noqa: E402

TARGET = Obstacle(
    (40, 20, 1, 6), (40.5, 26.0), -12.5, 37.4, 0.4, track=7, closing_mps=2.0,
    nearest_s=18.0, nearest_m=3.2, speed_mps=2.0, course_deg=171.25,
)  # fmt: skip


class ALR(pynmea2.TalkerSentence):  # type: ignore[misc]
    """As IEC 61162-1 has it; pynmea2 registers it by its name."""

    fields = (
        ("time", "time"),
        ("number", "number", int),
        ("condition", "condition"),
        ("ack", "ack"),
        ("text", "text"),
    )


class ALF(pynmea2.TalkerSentence):  # type: ignore[misc]
    fields = tuple(
        (name, name)
        for name in (
            "total", "index", "message", "time", "category", "priority", "state", "maker", "identity",
            "instance", "revision", "escalation", "text",
        )
    )  # fmt: skip


def seen(*obstacles: Obstacle, index: int = 0, alarm: bool = False, **fields: Any) -> Result:
    camera = fields.pop("camera", Camera(2.0, 60.0))
    scene = Scene(SIZE, np.full(SIZE[1], 20.0, np.float32), None, obstacles, alarm, camera)
    return make_result(scene=scene, index=index, **fields)


class Plotter:
    """Waits for datagrams and keeps the sentences in them, each of which must be right."""

    def __init__(self, port: int = 0) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]
        self.received: list[Any] = []

    def hear(self, kind: str, count: int = 1) -> list[Any]:
        def enough() -> bool:
            with suppress(BlockingIOError):
                while True:
                    data = self.socket.recv(4096)
                    assert data.endswith(b"\r\n")
                    assert len(data) <= 82
                    self.received.append(pynmea2.parse(data.decode("ascii"), check=True))
            return len(self.all(kind)) >= count

        eventually(enough, 5.0)
        return self.all(kind)

    def all(self, kind: str) -> list[Any]:
        return [s for s in self.received if s.sentence_type == kind]


@pytest.fixture
def plotter() -> Iterator[Plotter]:
    plotter = Plotter()
    yield plotter
    plotter.socket.close()


@pytest.fixture
def sink(plotter: Plotter) -> Iterator[NmeaSink]:
    """A sink whose line is open, and nothing under way on it."""
    with NmeaSink(f"udp:127.0.0.1:{plotter.port}") as sink:
        sent = [b"0"]

        def open_() -> bool:
            sent.append(b"%d" % len(sent))
            sink._link.send(sent[-1])
            return bool(_piece(plotter))

        eventually(open_)
        sink._link.send(b"last")
        eventually(lambda: _piece(plotter) == b"last")
        yield sink


def _piece(plotter: Plotter) -> bytes:
    with suppress(BlockingIOError):
        return plotter.socket.recv(4096)
    return b""


def test_every_field_of_a_target(plotter: Plotter, sink: NmeaSink) -> None:
    sink.write(seen(TARGET, index=5))
    (ttm,) = plotter.hear("TTM")
    assert ttm.talker == "RA"
    assert (ttm.target_number, ttm.name, ttm.status, ttm.acquisition) == (7, "OBST07", "T", "A")
    assert (float(ttm.distance), ttm.dist_unit) == (0.037, "K")
    assert (float(ttm.bearing), ttm.brg_ref) == (347.5, "R")  # to port of the bow
    assert (float(ttm.speed), float(ttm.cog), ttm.cog_unit) == (7.2, 171.2, "R")  # km/h
    assert (float(ttm.dist_cpa), float(ttm.time_cpa)) == (0.003, 0.3)
    assert ttm.reference == ""
    assert str(ttm.timestamp)[:10] == "22:13:20.5"


def test_bearings_are_from_the_bow_wherever_the_camera_looks(plotter: Plotter, sink: NmeaSink) -> None:
    sink.write(seen(TARGET, camera=Camera(2.0, 60.0, yaw=-170.0)))
    (ttm,) = plotter.hear("TTM")
    assert (float(ttm.bearing), float(ttm.cog)) == (177.5, 1.2)


def test_what_is_not_known_is_empty_and_what_has_no_place_is_not_told(
    plotter: Plotter, sink: NmeaSink
) -> None:
    new = replace(TARGET, track=8, speed_mps=None, course_deg=None, nearest_s=None, nearest_m=None)
    sink.write(seen(replace(TARGET, range_m=None), replace(TARGET, track=None), new))
    (ttm,) = plotter.hear("TTM")
    assert ttm.target_number == 8
    assert (ttm.speed, ttm.cog, ttm.dist_cpa, ttm.time_cpa) == (None, None, None, None)


def test_targets_come_once_a_second_and_a_lost_one_says_so_once(plotter: Plotter, sink: NmeaSink) -> None:
    now = 100.0
    sink._clock = lambda: now
    for i in range(60):  # ten frames per second; in the eleventh it is missed, after 2.5 seconds it is gone
        now = 100.0 + i / 10
        sink.write(seen(*([TARGET] if i < 25 and i != 10 else []), index=i))
    sink.event(Event("source_lost", "end"))
    plotter.hear("ALR")
    assert [ttm.status for ttm in plotter.all("TTM")] == ["T", "T", "L"]
    assert float(plotter.all("TTM")[2].distance) == 0.037


def test_the_nearest_are_told_and_numbers_have_two_digits(plotter: Plotter, sink: NmeaSink) -> None:
    far = [replace(TARGET, track=90 + i, range_m=float(i + 1)) for i in range(30)]
    sink.write(seen(*far))
    told = plotter.hear("TTM", 20)
    assert sorted(float(t.distance) for t in told) == [pytest.approx(0.001 * (i + 1)) for i in range(20)]
    assert {t.target_number for t in told} == {*range(90, 100), *range(10)}


def test_alarms_begin_repeat_and_end(plotter: Plotter, sink: NmeaSink) -> None:
    now = 100.0
    sink._clock = lambda: now
    sink._due = 1e9
    sink.write(seen(index=1, alarm=True))
    sink.write(seen(index=2, alarm=True))
    (alr,) = plotter.hear("ALR")
    (alf,) = plotter.hear("ALF")
    assert (alr.talker, alr.number, alr.condition, alr.ack, alr.text) == ("II", 1, "A", "V", "OBSTACLE NEAR")
    assert (alr.time, alf.time) == ("221320.10", "221320.10")
    assert (alf.total, alf.index, alf.category, alf.priority, alf.state) == ("1", "1", "B", "A", "V")
    assert (alf.maker, alf.identity, alf.instance, alf.escalation) == ("", "10001", "1", "0")
    assert alf.text == "OBSTACLE NEAR"
    now = 110.0
    assert plotter.hear("ALR", 2)[1].condition == "A"
    sink.write(seen(index=3))
    assert plotter.hear("ALR", 3)[2].condition == "V"
    first, again, over = plotter.hear("ALF", 3)
    assert (over.state, over.time) == ("N", "221320.30")
    assert first.revision == again.revision
    assert int(over.revision) == int(first.revision) + 1
    assert len({first.message, again.message, over.message}) == 3


def test_a_collision_course_is_an_alarm_until_the_target_has_turned(plotter: Plotter, sink: NmeaSink) -> None:
    sink.event(Event("collision_course", "obstacle 7", {"track": 7}))
    sink.write(seen(TARGET, index=1))
    sink.write(seen(index=2))  # a flicker
    for i in range(3, 40):
        sink.write(seen(replace(TARGET, nearest_s=None), index=i))
    begun, over = plotter.hear("ALR", 2)
    assert [(a.number, a.condition, a.text) for a in (begun, over)] == [
        (2, "A", "COLLISION COURSE"), (2, "V", "COLLISION COURSE")
    ]  # fmt: skip
    assert over.time == "221322.20"  # 2 s after it was last seen to come


def test_a_camera_that_sees_nothing_is_an_alarm(plotter: Plotter, sink: NmeaSink) -> None:
    sink.write(seen(blind="black"))
    sink.write(seen())
    sink.event(Event("source_lost", "camera 0"))
    sink.write(seen())
    told = [(a.number, a.condition) for a in plotter.hear("ALR", 4)]
    assert told == [(3, "A"), (3, "V"), (3, "A"), (3, "V")]


def test_the_checksum_of_the_standard() -> None:
    """An example that every description of GGA has."""
    body = "GPGGA,092750.000,5321.6802,N,00630.3372,W,1,8,1.03,61.7,M,55.2,M,,"
    assert sentence(body) == f"${body}*76\r\n".encode()


def test_the_longest_sentence_has_82_characters_at_most() -> None:
    far = replace(
        TARGET,
        range_m=99_999.4,
        bearing_deg=-0.4,
        speed_mps=27.7,
        course_deg=-0.4,
        nearest_s=60.0,
        nearest_m=650.1,
    )
    assert len(nmea._ttm(99, far, 0.0, 1.7e9, "T")) <= 82


def test_a_slow_cable_gets_as_much_as_it_can_carry() -> None:
    """4800 baud are 480 characters per second: four targets, and room for alarms."""
    pytest.importorskip("serial")
    master, slave = os.openpty()
    many = [replace(TARGET, track=i) for i in range(1, 9)]
    data = b""

    def arrived(count: int) -> bool:
        nonlocal data
        with suppress(BlockingIOError):
            data += os.read(master, 4096)
        return data.count(b"\n") >= count

    os.set_blocking(master, False)
    events: list[str] = []
    path = os.ttyname(slave)
    sink = NmeaSink(f"serial:{path}:4800", lambda kind, message, **data: events.append(kind))
    try:
        eventually(lambda: events == ["nmea_connected"])
        sink.write(seen(*many))
        eventually(lambda: arrived(4))
        sink.event(Event("source_lost", "camera 0"))
        eventually(lambda: arrived(6))
        lines = data.decode("ascii").split("\r\n")
        assert [pynmea2.parse(s, check=True).sentence_type for s in lines[:-1]] == 4 * ["TTM"] + [
            "ALR",
            "ALF",
        ]
        os.close(master)  # the cable is pulled
        os.close(slave)
        eventually(lambda: sink.write(seen(*many)) or events[1:] == ["nmea_lost"])
    finally:
        sink.close()


def test_a_plotter_goes_and_comes_back(plotter: Plotter) -> None:
    events: list[str] = []
    port = servers.free_port(socket.SOCK_DGRAM)
    sink = NmeaSink(f"udp:127.0.0.1:{port}", lambda kind, message, **data: events.append(kind))
    sink._clock = iter(range(100_000)).__next__  # every frame is a second later
    try:
        for turn in range(2):
            eventually(lambda: sink.write(seen(TARGET)) or "nmea_lost" in events)
            there = Plotter(port)
            eventually(lambda: sink.write(seen(TARGET)) or events[-1] == "nmea_connected")
            assert there.hear("TTM")[0].target_number == 7
            there.socket.close()
            assert events == ["nmea_lost", "nmea_connected"], turn
            events.clear()
    finally:
        sink.close()


def test_tcp_that_hangs_up_is_connected_again() -> None:
    events: list[str] = []
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    sink = NmeaSink(f"tcp:127.0.0.1:{port}", lambda kind, message, **data: events.append(kind))
    try:
        for _ in range(2):
            connection, _ = server.accept()
            eventually(lambda: events[-1:] == ["nmea_connected"])
            sink._due = 0.0
            sink.write(seen(TARGET))
            assert connection.recv(200).startswith(b"$RATTM,07,")
            connection.close()
            eventually(lambda: events[-1:] == ["nmea_lost"])
    finally:
        sink.close()
        server.close()


@pytest.mark.parametrize("text", ["serial:/dev/ttyUSB0", "udp:u:geheim@h:1"])
def test_a_wrong_address_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--nmea: udp:HOST:PORT") as error:
        NmeaSink(text)
    assert "geheim" not in str(error.value)


def test_a_run_speaks_to_a_plotter(model: Path, plotter: Plotter, tmp_path: Path) -> None:
    from il2vseg.runtime.cli import main

    frame = np.full((48, 64, 3), 250, np.uint8)  # bright: sky
    frame[16:] = (220, 60, 0)  # blue: water
    frame[24:32, 24:40] = 0  # dark: something in it
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(20):
        writer.write(frame)
    writer.release()
    arguments = ["--model", str(model), "--provider", "cpu", "--source", str(tmp_path / "clip.avi")]
    arguments += ["--fov", "60"]
    arguments += ["--camera-height", "2", "--pitch", "10", "--danger-zone", "1e6"]
    assert main([*arguments, "--nmea", f"udp:127.0.0.1:{plotter.port}"]) == 0
    assert plotter.hear("ALR")[0].text == "OBSTACLE NEAR"


def test_the_python_of_the_page_runs(plotter: Plotter) -> None:
    page = (Path(__file__).parents[2] / "docs" / "onboard.md").read_text()
    (cell,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(cell.replace(":10110", f":{plotter.port}"), names)
    assert names["result"].index == 19
    obstacles = names["follow"](names["result"].scene, 1.0).obstacles
    assert any(o.track is not None and o.range_m is not None for o in obstacles)


def test_a_missing_package_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from il2vseg.runtime.cli import main

    arguments = ["--model", str(model), "--provider", "cpu", "--source", "synthetic:size=48x64,frames=1"]
    for flag, module, address in (
        ("nmea", "serial", "serial:/dev/ttyUSB0:4800"),
        ("mavlink", "pymavlink.dialects.v20", "udp:127.0.0.1:9"),
        ("foxglove", "foxglove", "0"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        for ours in (f"il2vseg.runtime.sinks.{flag}", f"il2vseg.runtime.sinks.ros2.{flag}"):
            monkeypatch.delitem(sys.modules, ours, raising=False)
        assert main([*arguments, f"--{flag}", address]) == 2
        error = capsys.readouterr().err
        assert f"--{flag} needs more packages: pip install 'il2vseg[{flag}]'" in error
        assert "Traceback" not in error
