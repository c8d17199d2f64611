"""One encoding of each frame for all viewers; each viewer gets the newest frame that it has time for."""

import asyncio
import json
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from il2vseg.base.images import Frame, encode_jpeg, encode_png, resize_frame, resize_labels
from il2vseg.runtime.result import Result
from il2vseg.runtime.web.state import captured_unix


@dataclass(frozen=True)
class Scale:
    """How large pictures are for a viewer: columns of the frame and of the class ids, quality of the JPEG."""

    width: int
    labels: int
    quality: int


LARGE, SMALL = Scale(960, 480, 80), Scale(400, 200, 55)
"""For the page, and for a line that is too slow for it."""


def fitted(shape: tuple[int, ...], widest: int) -> tuple[int, int]:
    """Return (height, width) of at most `widest` columns with the aspect of `shape`."""
    height, width = shape[:2]
    return (height, width) if width <= widest else (max(1, round(height * widest / width)), widest)


def _jpeg(frame: Frame, scale: Scale) -> bytes:
    return encode_jpeg(resize_frame(frame, fitted(frame.shape, scale.width)), scale.quality)


def encode_overlay(result: Result, scale: Scale = LARGE) -> bytes:
    """Return the overlay as a JPEG, for clients that show one picture."""
    return _jpeg(result.overlay, scale)


def encode_bundle(result: Result, scale: Scale = LARGE) -> bytes:
    """Return what the page needs to compose the picture itself.

    Layout: length of the header (uint32, little-endian), the header (JSON: the frame's record, when it was
    captured by this machine's clock, and the lengths of what follows), the frame as JPEG, the class ids as
    single-channel PNG.
    """
    jpeg = _jpeg(result.frame, scale)
    png = encode_png(resize_labels(result.labels, fitted(result.labels.shape, scale.labels)))
    values = {"record": result.record, "unix": captured_unix(result), "jpeg": len(jpeg), "png": len(png)}
    header = json.dumps(values).encode()
    return struct.pack("<I", len(header)) + header + jpeg + png


class Closed(Exception):
    """The run has ended; there will be no more frames."""


Encode = Callable[[Result, Scale], bytes]


class Broadcaster:
    """Hands the newest frame, encoded once, to any number of viewers. Lives in one event loop."""

    def __init__(self) -> None:
        self._number = 0
        self._newest: Result | None = None
        self._closed = False
        self._changed = asyncio.Event()
        self._encodings: dict[tuple[Encode, Scale], tuple[int, asyncio.Future[bytes]]] = {}
        self._pool = ThreadPoolExecutor(1, "encode")
        self.encoded = 0

    @property
    def closed(self) -> bool:
        """Whether there will be no more frames."""
        return self._closed

    def publish(self, result: Result) -> None:
        """Make `result` the newest one. To be called in the event loop."""
        self._newest = result
        self._number += 1
        self._wake()

    def close(self) -> None:
        """Send all viewers home. To be called in the event loop."""
        self._closed = True
        self._wake()
        self._pool.shutdown(wait=False)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def next(self, encode: Encode, after: int = 0, scale: Scale = LARGE) -> tuple[int, bytes]:
        """Wait for a frame newer than number `after`.

        Returns:
            its number, to be passed next time, and its encoding.
        Raises:
            Closed: there will be none.
        """
        while self._number <= after and not self._closed:
            await self._changed.wait()
        if self._closed:
            raise Closed
        assert self._newest is not None
        number, future = self._encodings.get((encode, scale), (0, None))
        if future is None or number != self._number:
            number, newest = self._number, self._newest
            future = asyncio.ensure_future(
                asyncio.get_running_loop().run_in_executor(self._pool, encode, newest, scale)
            )
            self._encodings[encode, scale] = number, future
            self.encoded += 1
        # A viewer that leaves must not cancel the encoding that others wait for.
        return number, await asyncio.shield(future)
