"""The process that encodes a stream and sends it: setup and frames on standard input, an answer for each.

Setup is a line of JSON; a frame is HEAD (its time in seconds) and BGR bytes. An answer is "sent", or why not,
which ends the process. SIGALRM ends it where FFmpeg hangs: nothing else could, FFmpeg waits with the lock of
the interpreter.
"""

import json
import signal
import struct
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np

HEAD = struct.Struct("<d")

KEY_S = 1.0
"""Seconds between key frames: so long a viewer waits at most for the first picture."""

FORMATS = {"rtsp": "rtsp", "srt": "mpegts", "rtmp": "flv", "udp": "mpegts"}
"""Container by scheme."""

_OPTIONS = {
    "rtsp": {"rtsp_transport": "tcp"},
    "mpegts": {"muxdelay": "0", "flush_packets": "1", "mpegts_flags": "resend_headers"},
    "flv": {"flvflags": "no_duration_filesize", "flush_packets": "1"},
}
_TICKS = 90_000
_DEFAULT_RATE = 25.0


class Publisher:
    """An H.264 stream to an address, without B-frames and look-ahead: every frame leaves at once."""

    def __init__(self, url: str, height: int, width: int, rate: float | None, bitrate: float) -> None:
        """Prepare; the connection is made with the first frame.

        Args:
            rate: nominal frames per second, None if unknown. bitrate: megabits per second at most.
        """
        import av

        scheme = url.partition(":")[0]
        if scheme == "udp" and "?" not in url:
            url += "?pkt_size=1316"  # seven packets of MPEG-TS, which fit into one of Ethernet
        kind = FORMATS[scheme]
        self._size = (height - height % 2, width - width % 2)  # 4:2:0 needs even sides
        self._file: Any = av.open(url, "w", format=kind, options=_OPTIONS[kind])
        fps = Fraction(rate or _DEFAULT_RATE).limit_denominator(1001)
        self._stream: Any = self._file.add_stream("libx264", rate=fps)
        self._stream.height, self._stream.width = self._size
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = Fraction(1, _TICKS)
        context.gop_size = 10**6  # key frames are asked for, by the clock
        context.thread_count = 1
        context.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "crf": "23",
            "maxrate": f"{int(1e6 * bitrate)}",
            "bufsize": f"{int(5e5 * bitrate)}",
            "forced-idr": "1",
            "x264-params": "repeat-headers=1",  # for who joins later
        }
        self._begin: float | None = None
        self._last = -1
        self._key = -KEY_S

    def write(self, frame: np.ndarray[Any, np.dtype[np.uint8]], moment: float) -> None:
        """Send a frame (height, width, 3), BGR, of a time in seconds on any clock."""
        import av

        height, width = self._size
        self._begin = moment if self._begin is None else self._begin
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="bgr24")
        self._last = picture.pts = max(self._last + 1, round((moment - self._begin) * _TICKS))
        picture.time_base = Fraction(1, _TICKS)
        seconds = self._last / _TICKS
        if seconds - self._key >= KEY_S - 1e-3:
            self._key = seconds
            picture.pict_type = av.video.frame.PictureType.I
        for packet in self._stream.encode(picture):
            self._file.mux(packet)

    def close(self) -> None:
        """Say goodbye."""
        for packet in self._stream.encode(None):
            self._file.mux(packet)
        self._file.close()


def serve(read: BinaryIO, answer: Callable[[str], None]) -> None:
    """Send frames until there are no more, or one cannot be sent."""
    setup = json.loads(read.readline())
    hang_s = setup.pop("hang_s")
    shape = (setup["height"], setup["width"], 3)
    size = HEAD.size + shape[0] * shape[1] * 3
    publisher = None
    try:
        while len(data := read.read(size)) == size:
            signal.setitimer(signal.ITIMER_REAL, hang_s)
            publisher = publisher or Publisher(**setup)
            publisher.write(
                np.frombuffer(data, np.uint8, offset=HEAD.size).reshape(shape), *HEAD.unpack_from(data)
            )
            signal.setitimer(signal.ITIMER_REAL, 0)
            answer("sent")
        signal.setitimer(signal.ITIMER_REAL, hang_s)
        if publisher is not None:
            publisher.close()
    except Exception as error:
        from il2vseg.base.media.container import reason

        answer(reason(error, setup["url"]))


def serve_standard_input() -> None:
    """Be the worker: the parent alone says when it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # for the parent, which then closes the pipe
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def answer(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    serve(sys.stdin.buffer, answer)


if __name__ == "__main__":
    serve_standard_input()
