"""The overlay as a live stream, to a server that the user runs: RTSP, SRT, RTMP, or MPEG-TS over UDP.

PyAV holds the interpreter's lock while it connects, so a server that does not answer would stop every thread
of this process. Therefore a process of its own encodes and sends (`stream_worker`); it ends itself where the
network hangs, and is started again. It gets the address through a pipe, where `ps` does not show it.
"""

import json
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from il2vseg.base.errors import UserError
from il2vseg.base.images import resize_frame
from il2vseg.base.redact import redacted
from il2vseg.runtime.events import ignore
from il2vseg.runtime.histogram import Latencies
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sinks.stream_worker import FORMATS, HEAD
from il2vseg.runtime.sources.base import Report

HANG_S = 8.0
"""Seconds to connect, or to send a frame; then the connection counts as dead."""

_PAUSES_S = (0.5, 4.0)
_END_S = 2.0


def _have_srt() -> bool:
    import av

    try:
        av.open("srt://")
    except av.error.ProtocolNotFoundError:
        return False
    except (OSError, ValueError):
        return True  # the address is none
    return True


class StreamSink(Sink):
    """Sends the overlay, a key frame every second. Never waits: what comes while a frame is sent is dropped.

    The first frame decides the size; later ones of another size are resized to it. Events reported, each once
    until the other one comes: stream_connected, stream_lost.

    Attributes:
        sent, dropped: frames so far.
    """

    name = "stream"

    def __init__(
        self, url: str, report: Report = ignore, *, bitrate: float = 2.0, latencies: Latencies | None = None
    ) -> None:
        """Prepare; the connection is made with the first frame.

        Args:
            url: rtsp://, srt://, rtmp:// or udp://. bitrate: megabits per second at most.
            latencies: where to count the milliseconds from capture to the network, as "stream sent".
        Raises:
            UserError: it is another kind of address.
        """
        if url.partition("://")[0] not in FORMATS or not url.partition("://")[2]:
            raise UserError("--stream: rtsp://, srt://, rtmp:// or udp:// with HOST:PORT is needed")
        if url.startswith("srt:") and not _have_srt():
            raise UserError(
                "--stream srt://: the installed PyAV has no SRT, as those from PyPI have none; use --stream "
                "udp://127.0.0.1:5000 and run ffmpeg -i udp://127.0.0.1:5000 -c copy -f mpegts srt://HOST:PORT"
            )
        self._url, self._shown = url, redacted(url)
        self._report = report
        self._bitrate = bitrate
        self._latencies = latencies
        self._newest: Result | None = None
        self._wake = threading.Condition()
        self._closing = False
        self._told: str | None = None
        self._size: tuple[int, int] | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self.sent = self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._thread.start()

    def write(self, result: Result) -> None:
        with self._wake:
            self.dropped += self._newest is not None
            self._newest = result
            self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(_END_S)
        if (worker := self._worker) is not None and self._thread.is_alive():
            worker.kill()  # and the thread that waits for it goes on
            self._thread.join(_END_S)

    def _run(self) -> None:
        pause = _PAUSES_S[0]
        while (result := self._next()) is not None:
            try:
                self._send(result)
                pause = _PAUSES_S[0]
            except OSError as error:
                self._end_worker()
                with self._wake:
                    self.dropped += 1
                    if not self._closing:
                        self._tell("stream_lost", f"{self._shown}: {error}; trying again")
                        self._wake.wait_for(lambda: self._closing, pause)
                pause = min(2 * pause, _PAUSES_S[1])
        self._end_worker()

    def _next(self) -> Result | None:
        """Wait for the newest result; None at the end."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._newest is not None)
            newest, self._newest = self._newest, None
        return newest

    def _send(self, result: Result) -> None:
        """Give a frame to the worker, a new one if there is none, and wait until it is on the network.

        Raises:
            OSError: it is not; its text is the rest of a sentence.
        """
        self._size = self._size or (result.frame.shape[0], result.frame.shape[1])
        picture = resize_frame(result.overlay, self._size)
        worker = self._worker or self._start(result.rate)
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(HEAD.pack(result.captured.moment))
            worker.stdin.write(np.ascontiguousarray(picture).data.cast("B"))
            worker.stdin.flush()
        except BrokenPipeError:
            pass  # it said why, or did not
        answer = worker.stdout.readline().decode(errors="replace").strip()
        if answer != "sent":
            raise OSError(answer or "it does not answer")
        self.sent += 1
        self._tell("stream_connected", f"{self._shown}: the stream is taken")
        if self._latencies is not None:
            self._latencies.add({"stream sent": 1e3 * (time.perf_counter() - result.captured.clock)})

    def _start(self, rate: float | None) -> "subprocess.Popen[bytes]":
        assert self._size is not None
        height, width = self._size
        setup: dict[str, Any] = {"url": self._url, "height": height, "width": width, "rate": rate}
        setup |= {"bitrate": self._bitrate, "hang_s": HANG_S}
        command = [sys.executable, "-m", "il2vseg.runtime.sinks.stream_worker"]
        self._worker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._worker.stdin is not None
        self._worker.stdin.write(json.dumps(setup).encode() + b"\n")
        return self._worker

    def _end_worker(self) -> None:
        """Let the worker finish the stream, if it does so soon."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        try:
            worker.communicate(timeout=_END_S / 2)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            worker.kill()
            worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()

    def _tell(self, kind: str, message: str) -> None:
        if kind != self._told:
            self._told = kind
            self._report(kind, message)
