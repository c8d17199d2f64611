"""Ring buffer, segments, quota, MCAP, MQTT, systemd."""

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.base.outputs import Ledger
from il2vseg.runtime.events import Event
from il2vseg.runtime.marine.scene import Scene
from il2vseg.runtime.notify import Notifier
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks import encoder
from il2vseg.runtime.sinks.jsonl import JsonlSink
from il2vseg.runtime.sinks.log import LogSink
from il2vseg.runtime.sinks.quota import QuotaSink
from il2vseg.runtime.sinks.ring import RingSink
from il2vseg.runtime.sinks.video import VideoSink
from tests.waiting import eventually

from . import servers
from .conftest import SIZE, make_result, needs

FPS = 10


def result(index: int, size: tuple[int, int] = SIZE, **fields: Any) -> Result:
    """A grey frame whose level is its number, without a legend on top of it in a video."""
    made = make_result(np.full((*size, 3), 10 + index % 200, np.uint8), index=index, rate=FPS, **fields)
    vars(made)["overlay"] = made.frame
    return made


def alarmed(index: int, alarm: bool) -> Result:
    scene = Scene(SIZE, np.full(SIZE[1], 20, np.float32), None, (), alarm)
    return result(index, scene=scene)


def values(path: Path) -> list[float]:
    """Mean of every frame of a video: the number that the frames above were painted with."""
    capture, found = cv2.VideoCapture(str(path)), []
    while (grabbed := capture.read())[0]:
        found.append(float(grabbed[1].mean()) - 10)
    return found


def test_a_clip_holds_the_seconds_around_an_alarm(tmp_path: Path) -> None:
    with RingSink(tmp_path, before_s=2.0, after_s=1.0) as sink:
        for i in range(100):
            sink.write(alarmed(i, 50 <= i < 60))
    (clip,) = tmp_path.iterdir()
    found = values(clip)
    assert found[0] == pytest.approx(29, abs=3)  # the codec is not exact
    assert found[-1] == pytest.approx(70, abs=3)
    assert len(found) == pytest.approx(42, abs=2)


def test_alarms_that_follow_each_other_get_clips_of_their_own(tmp_path: Path) -> None:
    with RingSink(tmp_path, before_s=1.0, after_s=0.5) as sink:
        for i in range(120):
            sink.write(alarmed(i, i in range(20, 30) or i in range(80, 90)))
    assert len(list(tmp_path.iterdir())) == 2


def test_memory_before_an_alarm_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from il2vseg.runtime.sinks import ring

    monkeypatch.setattr(ring, "MAX_FRAMES", 20)
    sink = RingSink(tmp_path, before_s=1e9, after_s=1.0)
    for i in range(50):
        sink.write(result(i))
    assert len(sink._kept) == 20


def test_a_video_is_cut_into_segments(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "%Y-%H%M%S.mkv", segment_s=2.0)
    for i in range(50):
        sink.write(result(i))
    sink.close()
    counts = sorted(len(values(p)) for p in tmp_path.iterdir())
    assert sum(counts) == 50
    assert len(counts) == 3
    with pytest.raises(UserError, match="the name needs a time"):
        VideoSink(tmp_path / "o.mkv", segment_s=2.0)


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".mp4"])
def test_a_video_survives_a_change_of_the_frame_size(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"o{suffix}"
    sink = VideoSink(path)
    for i, size in enumerate([(48, 64), (48, 64), (30, 90), (49, 65)]):
        sink.write(result(i, size))
    sink.close()
    assert len(values(path)) == 4


@pytest.mark.parametrize("suffix", [".mkv", ".avi"])
def test_live_video_keeps_the_time(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"o{suffix}"
    sink = VideoSink(path, fps=30.0)
    for i in range(21):  # 10 frames per second, though the camera promised 30; then nothing for an hour
        sink.write(result(i, live=True))
    last = result(21)
    late = replace(last, captured=replace(last.captured, clock=3600.0), live=True)
    vars(late)["overlay"] = late.frame
    sink.write(late)
    sink.close()
    capture = cv2.VideoCapture(str(path))
    stamp = 0.0
    while capture.read()[0]:
        stamp = capture.get(cv2.CAP_PROP_POS_MSEC)
    assert stamp == pytest.approx(3000, abs=80)


def test_the_oldest_recordings_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    now, ledger = time.time(), Ledger(tmp_path)
    for i in (3, 0, 5, 1, 4, 2):  # recorded in another order than they were written
        path = tmp_path / f"sub/{i}.mkv"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 100)
        os.utime(path, (now - 1000 + i, now - 1000 + i))
        ledger.record(path)
    (tmp_path / "wedding.mkv").write_bytes(b"x" * 1000)
    os.utime(tmp_path / "wedding.mkv", (0, 0))
    ledger.begin(tmp_path / "fresh.mkv")
    (tmp_path / "fresh.mkv").write_bytes(b"x" * 100)
    events: list[str] = []

    def report(kind: str, message: str, **data: Any) -> None:
        events.append(kind)

    sink = QuotaSink([tmp_path, tmp_path], 350, report)
    assert [p.name for p in sink.enforce()] == ["0.mkv", "1.mkv", "2.mkv", "3.mkv"]
    assert sorted(p.name for p in tmp_path.rglob("*.mkv")) == ["4.mkv", "5.mkv", "fresh.mkv", "wedding.mkv"]
    assert events == ["quota"]
    assert QuotaSink([tmp_path], 0, report).enforce()
    assert (tmp_path / "fresh.mkv").exists()  # it is being written


def test_an_mcap_file_holds_pictures_labels_and_numbers(tmp_path: Path) -> None:
    needs("mcap", "mcap")
    from mcap.reader import make_reader

    from il2vseg.runtime.sinks.mcap import McapSink

    sink = McapSink(tmp_path / "o.mcap")
    for i in range(3):
        sink.write(result(i))
    sink.event(Event("source_lost", "gone"))
    sink.close()
    with (tmp_path / "o.mcap").open("rb") as file:
        messages = [(s.name, c.topic, m) for s, c, m in make_reader(file).iter_messages()]
    topics = {topic for _, topic, _ in messages}
    assert topics == {"/camera", "/overlay", "/segmentation", "/frame", "/events"}
    schema, _, message = next(m for m in messages if m[1] == "/segmentation")
    assert schema == "foxglove.CompressedImage"
    assert message.log_time == pytest.approx(1.7e18, rel=1e-9)
    image = json.loads(message.data)
    assert image["format"] == "png"
    labels = cv2.imdecode(np.frombuffer(base64.b64decode(image["data"]), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(labels, result(0).labels)
    records = [json.loads(m.data)["index"] for _, topic, m in messages if topic == "/frame"]
    assert records == [0, 1, 2]


# --- MQTT -----------------------------------------------------------------------------------------------


@pytest.fixture
def broker(tmp_path: Path, require: Callable[[object, str], None]) -> Iterator[servers.Process]:
    needs("paho", "mqtt")
    mosquitto = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    require(Path(mosquitto).exists(), "mosquitto is not installed")
    port = servers.free_port()
    process = servers.Process(f"mqtt://127.0.0.1:{port}/boat", [mosquitto, "-p", str(port)])
    with servers.running(process):
        yield process  # type: ignore[misc]


def test_records_reach_a_broker_that_comes_late_and_goes_away(broker: servers.Process) -> None:
    from il2vseg.runtime.sinks.mqtt import Broker, MqttSink

    events: list[str] = []

    def report(kind: str, message: str, **data: Any) -> None:
        events.append(kind)

    broker.kill()
    address = Broker.parse(broker.url)
    sink = MqttSink(address, report)
    sink.write(result(0))  # nobody there: not an error
    broker.start()
    eventually(lambda: events[-1:] == ["mqtt_connected"])
    assert events.count("mqtt_lost") <= 1  # none where the broker was faster than the first attempt
    events.clear()
    received: list[tuple[str, str]] = []
    reader = _listen(address.port, received)
    eventually(lambda: ("boat/status", "online") in received)
    sink.write(result(1))
    sink.event(Event("alarm", "boat"))
    eventually(lambda: len(received) >= 3)
    by_topic = {topic: payload for topic, payload in received}
    assert json.loads(by_topic["boat/frame"])["index"] == 1
    assert json.loads(by_topic["boat/event"])["event"] == "alarm"

    def told(text: str) -> bool:
        return any(text in payload for _, payload in received)

    for attempt in range(1, 6):
        seen = received.count(("boat/status", "online"))
        reader.loop_stop()
        broker.kill()
        eventually(lambda n=attempt: events.count("mqtt_lost") == n)  # type: ignore[misc]
        sink.event(Event("source_lost", "kept until the broker is back"))
        broker.start()
        reader = _listen(address.port, received)  # at once: the sink waits for a second before it tries again
        eventually(lambda n=attempt: events.count("mqtt_connected") == n)  # type: ignore[misc]
        # Whoever subscribes is told the status; what the sink sends after that comes last.
        eventually(lambda n=seen: received.count(("boat/status", "online")) > n)  # type: ignore[misc]
        sink.event(Event("marker", f"marker {attempt}"))
        eventually(lambda n=attempt: told(f"marker {n}"))  # type: ignore[misc]
        # A reader that comes back after the sink has missed it.
        if told("kept until"):
            break
    else:
        raise AssertionError("what happened while the broker was away never came")
    eventually(reader.is_connected)
    sink.close()
    eventually(lambda: received[-1] == ("boat/status", "offline"))
    reader.loop_stop()


def _listen(port: int, received: list[tuple[str, str]]) -> Any:
    """A client of a broker that notes topic and payload of all messages of the boat."""
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    reader = mqtt.Client(CallbackAPIVersion.VERSION2)
    reader.on_message = lambda client, data, m: received.append((m.topic, m.payload.decode()))
    reader.on_connect = lambda client, *arguments: client.subscribe("boat/#", qos=1)
    eventually(lambda: _connects(reader, port))
    reader.loop_start()
    return reader


def _connects(client: Any, port: int) -> bool:
    try:
        client.connect("127.0.0.1", port)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("url", ["http://x", "mqtt://", "mqtt://x:port", "mqtt://x/a/#", "x"])
def test_a_wrong_broker_address_is_refused(url: str) -> None:
    needs("paho", "mqtt")
    from il2vseg.runtime.sinks.mqtt import Broker

    with pytest.raises(UserError, match="--mqtt"):
        Broker.parse(url)


# --- systemd --------------------------------------------------------------------------------------------


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"})
        notifier.send("READY=1")
        for _ in range(5):
            notifier.alive()  # far more often than the watchdog needs
        notifier.send("STOPPING=1")
        assert [manager.recv(64) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_no_service_manager_is_fine(tmp_path: Path) -> None:
    for environment in (
        {},
        {"NOTIFY_SOCKET": str(tmp_path / "gone")},
        {"NOTIFY_SOCKET": "@il2vseg-test-gone"},
    ):
        notifier = Notifier(environment)
        notifier.send("READY=1")
        notifier.alive()
    assert Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_s is None


DEPLOY = Path(__file__).parents[2] / "deploy/systemd"


def test_the_service_starts_with_settings_that_exist() -> None:
    from il2vseg.base.command import parse
    from il2vseg.runtime.config import RunConfig, check

    unit = (DEPLOY / "il2vseg-run@.service").read_text()
    (command,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert "Type=notify" in unit
    assert command.split()[1:] == ["--config", "/etc/il2vseg/%i.yaml"]
    config = parse(RunConfig, "il2vseg-run", ["--config", str(DEPLOY / "bow.yaml")])
    check(config)
    assert config.wait_for_source


def test_a_run_tells_systemd_that_it_is_ready_and_alive(model: Path, clip: Path, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        environment = os.environ | {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000000"}
        command = [sys.executable, "-m", "il2vseg.runtime.cli", "--model", str(model), "--source", str(clip)]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        manager.setblocking(False)
        states: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                states.append(manager.recv(64))
    assert states[0] == b"READY=1"
    assert b"WATCHDOG=1" in states
    assert states[-1] == b"STOPPING=1"


# --- JSONL ----------------------------------------------------------------------------------------------


def test_a_line_that_a_full_disk_cut_off_is_taken_back(tmp_path: Path) -> None:
    """A limit on the file's size cuts a line in the middle, as a full disk does."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from il2vseg.runtime.events import Event\n"
        "from il2vseg.runtime.sinks.jsonl import JsonlSink\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "sink = JsonlSink(Path(sys.argv[1]))\n"
        "for i in range(20):\n"
        "    try: sink.event(Event('event', 'x' * 40))\n"
        "    except OSError: print('full')\n"
    )
    path = tmp_path / "o.jsonl"
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "full" in done.stdout
    lines = path.read_text().splitlines()
    assert 3 <= len(lines) < 20
    assert path.read_text().endswith("\n")
    assert all(json.loads(line)["event"] == "event" for line in lines)


def test_a_log_may_be_cut_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    sink = JsonlSink(path)
    sink.event(Event("one", "x"))
    os.truncate(path, 0)  # logrotate's copytruncate
    sink.event(Event("two", "x"))
    sink.close()
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["two"]


def test_a_kind_of_events_that_repeats_is_told_twenty_times(capsys: pytest.CaptureFixture[str]) -> None:
    sink = LogSink()
    for i in range(30):
        sink.event(Event("noise", f"noise {i}"))
    sink.event(Event("other", "something else"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:20] == [f"il2vseg-run: noise {i}" for i in range(20)]
    assert lines[20:] == [
        "il2vseg-run: further events noise are not shown", "il2vseg-run: something else"
    ]  # fmt: skip


@pytest.mark.parametrize(("free", "enough"), [(16 << 20, True), ((16 << 20) - 1, False)])
def test_sixteen_mebibytes_stay_free(
    free: int, enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with nullcontext() if enough else pytest.raises(OSError, match="No space"):
        encoder.check_space(tmp_path / "o.mkv")
