"""Real transports on loopback: the server is killed in mid-stream and comes back."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from il2vseg.runtime.sources import SourceOptions, open_source
from tests.waiting import eventually

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


def test_corrupt_pictures_do_not_stop_a_stream(clip: Path) -> None:
    server = servers.MjpegServer(clip)
    server.corrupt()
    with servers.running(server), open_source(server.url, SourceOptions(freeze_s=1.0, wait=True)) as source:
        for _ in range(30):
            captured = source.read()
            assert captured is not None
            assert captured.frame.shape == (120, 160, 3)


@pytest.mark.parametrize("kind", ["http-mjpeg", "mpegts-tcp", "mpegts-udp", "rtsp"])
def test_streaming_goes_on_when_the_server_comes_back_and_nothing_leaks(
    kind: str, model: Path, clip: Path, tmp_path: Path, require: Callable[[object, str], None]
) -> None:
    jsonl = tmp_path / "o.jsonl"
    server = _make(kind, clip, require)

    def records() -> list[dict[str, Any]]:
        text = jsonl.read_text() if jsonl.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def count(event: str) -> int:
        return sum(r.get("event") == event for r in records())

    def frames() -> list[int]:
        return [r["index"] for r in records() if r["type"] == "frame"]

    with servers.running(server):
        command = [sys.executable, "-m", "il2vseg.runtime.cli", "--model", str(model), "--source", server.url]
        process = subprocess.Popen(
            [*command, "--jsonl", str(jsonl), "--freeze-after", "1", "--wait-for-source"],
            stderr=subprocess.DEVNULL,
        )
        try:
            eventually(lambda: len(frames()) > 5, 30)
            held = []
            for _ in range(2):
                lost = count("source_lost")
                server.kill()
                eventually(lambda n=lost: count("source_lost") > n, 10)  # type: ignore[misc]
                before, back = len(frames()), count("source_back")
                server.start()
                eventually(lambda n=back: count("source_back") > n, BACK_WITHIN_S)  # type: ignore[misc]
                eventually(lambda n=before: len(frames()) > n + 5, 10)  # type: ignore[misc]
                held.append([len(os.listdir(f"/proc/{process.pid}/{what}")) for what in ("fd", "task")])
            (files, threads), (files_later, threads_later) = held
            assert files_later <= files + 1
            assert threads_later <= threads + 1
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()
    assert frames() == sorted(set(frames()))
