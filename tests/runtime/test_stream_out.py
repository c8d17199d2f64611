"""The overlay as a live stream: real receivers on loopback, which die and come back."""

import contextlib
import io
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.runtime.histogram import Latencies
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks import stream
from il2vseg.runtime.sinks.stream import StreamSink
from il2vseg.runtime.sinks.stream_worker import HEAD, Publisher, serve
from tests.waiting import eventually

from . import servers
from .conftest import make_result

SIZE = (120, 160)
Events = list[tuple[str, str]]
Open = Callable[..., tuple[StreamSink, Events]]


def frame(index: int, size: tuple[int, int] = SIZE) -> Result:
    """A frame at ten per second whose level is its number."""
    made = make_result(np.full((*size, 3), 20 + index % 200, np.uint8), index=index, rate=10)
    vars(made)["overlay"] = made.frame
    return made


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    monkeypatch.setattr(stream, "_PAUSES_S", (0.05, 0.1))
    made: list[StreamSink] = []

    def start(url: str, **options: Any) -> tuple[StreamSink, Events]:
        events: Events = []
        made.append(StreamSink(url, lambda kind, text, **_: events.append((kind, text)), **options))
        return made[-1], events

    yield start
    for sink in made:
        sink.close()


def feed(sink: StreamSink, frames: int) -> None:
    """Write until so many more frames are sent."""
    goal = sink.sent + frames
    for index in itertools.count():
        before = sink.sent
        sink.write(frame(index))
        eventually(lambda n=before: sink.sent > n or sink._newest is None)  # type: ignore[misc]
        time.sleep(0.005)
        if sink.sent >= goal:
            return


class Datagrams:
    """Receives MPEG-TS as it comes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"udp://127.0.0.1:{self._socket.getsockname()[1]}"

    def start(self) -> None:
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        with self._file.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while data := self._socket.recv(65536):
                file.write(data)

    def kill(self) -> None:
        self._socket.close()


def receiver(kind: str, file: Path, require: Callable[[object, str], None]) -> servers.Server:
    if kind == "rtsp":
        require(servers.have_gstreamer_rtsp(), "GStreamer's RTSP server is not installed")
        return servers.rtsp_record(file)
    if kind == "udp":
        return Datagrams(file)
    require(servers.FFMPEG, "ffmpeg is not installed")
    assert servers.FFMPEG
    url = f"rtmp://127.0.0.1:{servers.free_port()}/live/geheim"
    command = [servers.FFMPEG, "-y", "-loglevel", "quiet", "-listen", "1", "-i", url]
    return servers.Process(url, [*command, "-c", "copy", "-flush_packets", "1", "-f", "h264", str(file)])


def pictures(file: Path) -> list[tuple[bool, float]]:
    """Whether each received frame is a key frame, and its level."""
    with av.open(str(file)) as container:
        return [
            (bool(f.key_frame), float(f.to_ndarray(format="bgr24").mean())) for f in container.decode(video=0)
        ]


@pytest.mark.parametrize("kind", ["udp", "rtmp", "rtsp"])
def test_frames_arrive_in_order_with_a_key_frame_every_second(
    kind: str, opened: Open, tmp_path: Path, require: Callable[[object, str], None]
) -> None:
    file = tmp_path / "received"
    latencies = Latencies()
    with servers.running(receiver(kind, file, require)) as server:
        sink, events = opened(server.url, latencies=latencies)
        eventually(lambda: sink.write(frame(0)) or sink.sent or time.sleep(0.05))
        feed(sink, 40)
        sink.close()
        eventually(lambda: file.exists() and file.stat().st_size)
        time.sleep(0.3)
    assert "geheim" not in str(events)
    found = pictures(file)
    assert len(found) >= 20
    levels = [level for _, level in found]
    assert all(b >= a - 1.5 for a, b in itertools.pairwise(levels))
    assert levels[-1] - levels[0] > 15
    keys = [i for i, (key, _) in enumerate(found) if key]
    assert max(b - a for a, b in itertools.pairwise([*keys, len(found)])) <= 10
    assert latencies.stages()["stream sent"].count == sink.sent


@pytest.mark.parametrize("kind", ["rtmp", "rtsp"])
def test_the_stream_goes_on_when_the_server_comes_back(
    kind: str, opened: Open, tmp_path: Path, require: Callable[[object, str], None]
) -> None:
    server = receiver(kind, tmp_path / "received", require)
    sink, events = opened(server.url)

    def count(wanted: str) -> Callable[[], object]:
        return lambda: sink.write(frame(0)) or time.sleep(0.02) or [k for k, _ in events].count(wanted)

    eventually(count("stream_lost"))  # it is not there yet
    for round_ in range(1, 3):
        with servers.running(server):
            eventually(lambda n=round_: count("stream_connected")() == n)  # type: ignore[misc]
        eventually(lambda n=round_: count("stream_lost")() == n + 1)  # type: ignore[misc]
    assert [kind for kind, _ in events] == ["stream_lost", "stream_connected"] * 2 + ["stream_lost"]
    assert sink.dropped > 0
    assert "geheim" not in str(events)


def test_a_wrong_password_is_said_and_not_shown(
    opened: Open, tmp_path: Path, require: Callable[[object, str], None]
) -> None:
    with servers.running(receiver("rtsp", tmp_path / "o", require)) as server:
        sink, events = opened(server.url.replace("geheim", "falsch"))
        eventually(lambda: sink.write(frame(0)) or time.sleep(0.02) or "401" in str(events))
    assert "wrong user name or password" in str(events)
    assert "falsch" not in str(events)


def test_a_server_that_says_nothing_costs_the_pipeline_nothing(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyAV would hold the interpreter's lock all that time."""
    monkeypatch.setattr(stream, "HANG_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink, events = opened(f"rtsp://u:geheim@127.0.0.1:{silent.getsockname()[1]}/x")
        took = []
        while not events:
            result = frame(len(took))
            begun = time.perf_counter()
            sink.write(result)
            took.append(time.perf_counter() - begun)
            time.sleep(0.005)
            if sink._worker is not None:
                commands = Path(f"/proc/{sink._worker.pid}/cmdline").read_bytes()
                assert b"geheim" not in commands
        assert events[0][0] == "stream_lost"
        assert "does not answer" in events[0][1]
        assert sorted(took)[len(took) * 9 // 10] < 0.002
        assert sink.dropped >= len(took) - 2
        begun = time.perf_counter()
        sink.close()
        assert time.perf_counter() - begun < 4.5


def test_the_size_of_the_first_frame_is_kept(opened: Open, tmp_path: Path, require: Any) -> None:
    file = tmp_path / "received"
    with servers.running(receiver("udp", file, require)) as server:
        sink, events = opened(server.url)
        eventually(lambda: sink.write(frame(0, (121, 161))) or time.sleep(0.05) or sink.sent > 2)
        eventually(lambda: sink.write(frame(0, (60, 200))) or time.sleep(0.05) or sink.sent > 30)
        sink.close()
        eventually(lambda: file.exists() and file.stat().st_size)
    assert [k for k, _ in events] == ["stream_connected"]
    with av.open(str(file)) as container:
        assert {(f.height, f.width) for f in container.decode(video=0)} == {(120, 160)}


def test_the_worker_ends_with_its_parent() -> None:
    read, write = os.pipe()
    setup = b'{"url": "udp://127.0.0.1:9", "height": 4, "width": 4, "rate": 10, "bitrate": 1, "hang_s": 5}\n'
    os.write(write, setup + HEAD.pack(0.0) + bytes(7))
    answers: list[str] = []
    with os.fdopen(read, "rb") as pipe:
        worker = threading.Thread(target=_serve, args=(pipe, answers))
        worker.start()
        os.close(write)
        worker.join(5)
        assert not worker.is_alive()
    assert answers == []


def _serve(pipe: Any, answers: list[str]) -> None:
    from unittest.mock import patch

    with patch("signal.setitimer"):  # timers are for the main thread
        serve(pipe, answers.append)


def test_the_worker_says_why_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.setitimer", lambda *_: None)
    setup = (
        b'{"url": "rtmp://127.0.0.1:1/x", "height": 4, "width": 4, "rate": null, "bitrate": 1, "hang_s": 5}\n'
    )
    answers: list[str] = []
    serve(io.BytesIO(setup + 2 * (HEAD.pack(0.0) + bytes(48))), answers.append)
    assert answers == ["connection refused: nothing listens there"]


def test_every_second_of_the_clock_has_a_key_frame_at_any_rate(tmp_path: Path) -> None:
    """Twenty-five frames were promised; three per second come, and then sixty."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver_:
        receiver_.bind(("127.0.0.1", 0))
        publisher = Publisher(f"udp://127.0.0.1:{receiver_.getsockname()[1]}", 48, 64, 25, 1.0)
        kinds = []
        mux = publisher._file.mux

        class Watched:
            def mux(self, packet: Any) -> None:
                kinds.append((float(packet.pts * packet.time_base), packet.is_keyframe))
                mux(packet)

        publisher._file = Watched()
        moments = [100 + i / 3 for i in range(9)] + [103 + i / 60 for i in range(120)]
        for moment in moments:
            publisher.write(np.zeros((48, 64, 3), np.uint8), moment)
    assert [round(t, 2) for t, key in kinds if key] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert len(kinds) == len(moments)


@pytest.mark.parametrize("url", ["http://x/y", "rtsp://", "tcp://127.0.0.1:1", "x"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(UserError, match="--stream"):
        StreamSink(url)


def test_srt_is_refused_with_a_way_out_where_pyav_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_have_srt", lambda: False)
    with pytest.raises(UserError, match=r"ffmpeg -i udp://127.0.0.1:5000 -c copy -f mpegts srt://HOST:PORT"):
        StreamSink("srt://127.0.0.1:9000?passphrase=geheimnisvoll")


@pytest.mark.slow
def test_the_way_out_for_srt_works(
    opened: Open, tmp_path: Path, require: Callable[[object, str], None]
) -> None:
    require(servers.FFMPEG, "ffmpeg is not installed")
    assert servers.FFMPEG
    file = tmp_path / "received"
    inner = f"udp://127.0.0.1:{servers.free_port(socket.SOCK_DGRAM)}"
    outer = f"srt://127.0.0.1:{servers.free_port(socket.SOCK_DGRAM)}"
    ffmpeg = [servers.FFMPEG, "-y", "-loglevel", "quiet"]
    listening = [*ffmpeg, "-i", f"{outer}?mode=listener", "-c", "copy", "-flush_packets", "1", "-f", "h264"]
    bridge = [*ffmpeg, "-i", inner, "-c", "copy", "-f", "mpegts", outer]
    with (
        servers.running(servers.Process(outer, [*listening, str(file)])),
        servers.running(servers.Process(inner, bridge, restart=True)),
    ):
        sink, _ = opened(inner)
        moments = itertools.count()
        eventually(
            lambda: (
                sink.write(frame(next(moments)))
                or time.sleep(0.05)
                or (file.exists() and file.stat().st_size > 3000)
            ),
            60,
        )
    assert pictures(file)
