"""Network streams through PyAV: joined at any moment, with a limit on every wait."""

import time
from collections.abc import Iterator
from typing import Any

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame
from il2vseg.base.media.container import open_container, reason, video_stream
from il2vseg.base.media.pixels import ToFrame
from il2vseg.runtime.sources.capture import Connection, ConnectionFailed, open_gstreamer
from il2vseg.runtime.sources.interrupt import watch_this_thread

_OPTIONS: dict[str, dict[str, str]] = {
    "rtsp": {"rtsp_transport": "tcp"},
    "rtsps": {"rtsp_transport": "tcp"},
    "udp": {"overrun_nonfatal": "1", "fifo_size": "50000"},
}
_RECORDINGS_END = ("hls", "dash")
"""Play lists: their own size says nothing, a known duration that nothing is added any more."""

_TELL_EVERY_S = 0.1


class StreamConnection:
    """A `Connection` on a container of PyAV."""

    def __init__(self, container: Any, name: str) -> None:
        """Take an open container.

        Raises:
            ConnectionFailed: there is no video in it.
        """
        self.container = container
        self._name = name
        self._stream = video_stream(container)
        if self._stream is None:
            container.close()
            raise ConnectionFailed("there is no video in it that can be decoded")
        rate = self._stream.average_rate or self._stream.guessed_rate
        # Some streams announce their clock rate (90000) as frame rate.
        self.fps = float(rate) if rate and 0 < rate <= 240 else None
        self._to_frame = ToFrame()
        self._frames: Iterator[tuple[Frame | None, float | None]] = self._decoded()

    @property
    def is_recording(self) -> bool:
        """Whether this is a file behind an address: it has an end."""
        kind = self.container.format.name
        if kind == "mpjpeg":
            return False
        ends = bool(self.container.duration)
        return ends if kind in _RECORDINGS_END else ends or self.container.size > 0

    def grab(self) -> tuple[Frame | None, float | None] | None:
        """Return the next frame, or no frame where only data came that show nothing yet; None at the end."""
        return next(self._frames, None)

    def _decoded(self) -> Iterator[tuple[Frame | None, float | None]]:
        """Yield frames and, now and then while packets come of which none makes a frame, None."""
        told = time.monotonic()
        for packet in self._packets():
            try:
                pictures = packet.decode()
            except Exception:  # joined between two key frames, or damaged: the next ones will do
                pictures = []
            for picture in pictures:
                told = time.monotonic()
                yield self._to_frame(picture), picture.pts
            if time.monotonic() - told > _TELL_EVERY_S:
                told = time.monotonic()
                yield None, None

    def _packets(self) -> Iterator[Any]:
        import av

        while True:
            try:
                yield from self.container.demux(self._stream)
                return
            except av.error.InvalidDataError:
                continue  # damaged on the way
            except Exception as error:
                raise ConnectionFailed(reason(error)) from None

    def close(self) -> None:
        """Close the connection, and let the threads of the decoder go."""
        self._frames = iter(())
        self._stream = None
        self.container.close()


def connect_stream(url: str, connect_s: float, timeout_s: float) -> StreamConnection:
    """Open an address. Whoever reads it in another thread can `interrupt` that thread.

    Args:
        connect_s: give up when there is no answer for so long. timeout_s: the same for a later packet.
    Raises:
        ConnectionFailed: it does not answer, or refuses.
        UserError: there is no such kind of address.
    """
    import av

    watch_this_thread()
    scheme = url.partition(":")[0].lower()
    begun = time.monotonic()
    try:
        container = open_container(url, timeouts=(connect_s, timeout_s), options=_OPTIONS.get(scheme))
    except av.error.ProtocolNotFoundError:
        raise UserError(
            f"{scheme}://: no such kind of address; use rtsp://, http(s)://, udp://, tcp://, rtmp:// or srt://"
        ) from None
    except Exception as error:
        # Of an interrupted handshake FFmpeg says that the data are invalid.
        silent = time.monotonic() - begun > 0.9 * connect_s
        raise ConnectionFailed("it does not answer" if silent else reason(error, url)) from None
    return StreamConnection(container, url)


def open_stream(url: str, connect_s: float, timeout_s: float) -> Connection:
    """Open a live stream through FFmpeg, or `gst:PIPELINE` through GStreamer.

    Raises:
        ConnectionFailed: it does not answer.
        UserError: there is no such kind of address, this OpenCV has no GStreamer, or it is a recording.
    """
    if url.startswith("gst:"):
        return open_gstreamer(url[4:])
    connection = connect_stream(url, connect_s, timeout_s)
    if url.startswith("http") and connection.is_recording:
        connection.close()
        raise UserError("there is a recording at this address, no stream; start again to read it to its end")
    return connection
