"""Real transports on loopback: the server is killed in mid-stream and comes back."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from il2vseg.runtime.sources import SourceOptions, open_source

from . import servers

BACK_WITHIN_S = 5.0


def _make(kind: str, clip: Path, require: Callable[[object, str], None]) -> servers.Server:
    if kind == "http-mjpeg":
        return servers.MjpegServer(clip)
    if kind == "rtsp":
        require(servers.have_gstreamer_rtsp(), "GStreamer's RTSP server is not installed")
        return servers.rtsp()
    require(servers.FFMPEG, "ffmpeg is not installed")
    return servers.mpegts_tcp() if kind == "mpegts-tcp" else servers.mpegts_udp()


@pytest.mark.parametrize("kind", ["http-mjpeg", "mpegts-tcp", "mpegts-udp", "rtsp"])
def test_streaming_goes_on_when_the_server_comes_back(
    kind: str, clip: Path, require: Callable[[object, str], None]
) -> None:
    events: list[str] = []

    def report(name: str, message: str, **data: Any) -> None:
        events.append(name)

    server = _make(kind, clip, require)
    with servers.running(server):
        options = SourceOptions(freeze_s=1.0, wait=True)
        with open_source(server.url, options, report) as source:
            for _ in range(5):
                captured = source.read()
                assert captured is not None
                assert captured.frame.shape == (120, 160, 3)
            before = captured.index
            events.clear()
            server.kill()
            reading = threading.Thread(target=lambda: [source.read() for _ in range(100)], daemon=True)
            reading.start()
            wait_for(lambda: "source_lost" in events, 5)
            server.start()
            began = time.monotonic()
            wait_for(lambda: "source_back" in events, BACK_WITHIN_S)
            assert time.monotonic() - began < BACK_WITHIN_S
            source.interrupt()
            reading.join(5)
            assert before < source._last  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while any(t.name == "reader" for t in threading.enumerate()):
        assert time.monotonic() < deadline, "a reader thread is left"
        time.sleep(0.05)


def test_corrupt_pictures_do_not_stop_a_stream(clip: Path) -> None:
    server = servers.MjpegServer(clip)
    server.corrupt()
    with servers.running(server), open_source(server.url, SourceOptions(freeze_s=1.0, wait=True)) as source:
        for _ in range(30):
            captured = source.read()
            assert captured is not None
            assert captured.frame.shape == (120, 160, 3)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {seconds:g} s"
        time.sleep(0.02)


def test_the_jsonl_tells_of_a_lost_camera_and_nothing_leaks(model: Path, clip: Path, tmp_path: Path) -> None:
    jsonl = tmp_path / "o.jsonl"
    server = servers.MjpegServer(clip)

    def records() -> list[dict[str, Any]]:
        text = jsonl.read_text() if jsonl.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def count(event: str) -> int:
        return sum(r.get("event") == event for r in records())

    with servers.running(server):
        command = [sys.executable, "-m", "il2vseg.runtime.cli", "--model", str(model), "--source", server.url]
        process = subprocess.Popen(
            [*command, "--jsonl", str(jsonl), "--freeze-after", "1"], stderr=subprocess.DEVNULL
        )
        try:
            wait_for(lambda: sum(r["type"] == "frame" for r in records()) > 5, 20)
            descriptors = []
            for cycle in range(1, 4):
                server.kill()
                wait_for(lambda n=cycle: count("source_lost") == n, 5)  # type: ignore[misc]
                server.start()
                wait_for(lambda n=cycle: count("source_back") == n, BACK_WITHIN_S)  # type: ignore[misc]
                descriptors.append(len(os.listdir(f"/proc/{process.pid}/fd")))
            assert descriptors[-1] <= descriptors[0] + 1
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()
    frames = [r["index"] for r in records() if r["type"] == "frame"]
    assert frames == sorted(set(frames))
