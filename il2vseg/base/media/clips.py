"""Recordings: every frame with its number and time, and a report of what could not be read."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame
from il2vseg.base.media.container import open_container, reason, video_stream
from il2vseg.base.media.pixels import ToFrame
from il2vseg.base.media.structure import damaged_packets, missing_bytes, refuse_picture_container

Report = Callable[..., Any]
"""Called for what could not be read: `report(kind, message, **data)` with plain JSON values."""

MAX_FPS = 240.0
"""Rates above are clocks that a container announces as one (1000, 90000)."""

_MAX_STALLS = 8
"""Failures of a container in a row, with nothing read between them, after which it counts as ended."""

_EARLIEST = datetime(1980, 1, 1).timestamp()
_EVEN = 3
"""Even steps in a row after which an uneven one is a gap."""

_LAST_FRAMES = 1.6
"""Frames that may be missing at the end by the header's duration: it is rounded and counts the last one."""

_LEAST_BYTES = 4
"""Of a frame in a file, on average: one of which nothing changed still has a header."""

_BARE = frozenset({"mjpeg", "h264", "hevc", "m4v", "mpegvideo", "av1", "obu", "ivf", "rawvideo", "dirac"})
_INDEXED = ("mov", "avi")
"""Containers whose header counts the frames."""


def _ignore(kind: str, message: str, **data: Any) -> None:
    return None


@dataclass(frozen=True)
class Picture:
    """A frame of a clip.

    Attributes:
        frame: BGR (H, W, 3) uint8, upright. number: its place in the clip, from 0, those that were lost
            counted. seconds: its time after the clip's start, always growing. damaged: parts of it are
            guessed, since its data or those of a frame before it are damaged.
    """

    frame: Frame
    number: int
    seconds: float
    damaged: bool = False


class Clip:
    """A recording, read once from start to end.

        with Clip(Path("river.mp4"), print) as clip:
            for picture in clip:
                show(picture.frame, picture.seconds)

    Events reported: frame_unreadable and frame_damaged with `frames`, how many; clip_truncated with
    `missing`, the frames that the header promises beyond those, or None where it does not count them;
    clip_gap where a container without a count stops being even, and about how many `frames` would fit;
    clip_damaged where it is damaged and nothing else is known.

    Attributes:
        promised: frames to come, None where the container does not say. fps: nominal rate, None if unknown.
        recorded: unix time of its start, None where it does not say.
        read, lost, damaged: frames so far: yielded, not decodable or missing, yielded though damaged.
    """

    def __init__(
        self, path: Path | str, report: Report = _ignore, *, container: Any = None, name: str | None = None
    ) -> None:
        """Open a clip.

        Args:
            path: the file, or an address. container: PyAV's, where it is open already.
            name: for messages; default: the path.
        Raises:
            UserError: it cannot be opened, or there is no video in it.
        """
        self.name = name or str(path)
        self._path = path if isinstance(path, Path) else None
        self._report = report
        self._container = container if container is not None else self._open(path)
        self._stream: Any = video_stream(self._container)
        if self._stream is None:
            self._container.close()
            raise UserError(f"{self.name}: not a readable clip (no video in it that can be decoded)")
        self._base = float(self._stream.time_base or 0)
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate and 0 < rate <= MAX_FPS else None
        self.promised = self._promised()
        self.recorded = self._recorded()
        self.read = self.lost = self.damaged = 0
        self._packets = 0
        self._timed = True
        self._pending: list[int] = []
        self._corrupt: set[int] = set()
        self._failure: str | None = None
        self._start = self._stream.start_time
        self._shift = 0.0
        self._last: float | None = None
        self._second_fields = -1
        self._even = 0
        self._just_lost = False

    def _open(self, path: Path | str) -> Any:
        try:
            if isinstance(path, Path) and path.is_file():
                with path.open("rb") as file:
                    refuse_picture_container(path, file.read(12))
            return open_container(path)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self.name}: not a readable clip ({reason(error)})") from None

    def _promised(self) -> int | None:
        if self._container.format.name.split(",")[0] not in _INDEXED or not self._stream.frames:
            return None
        if self._stream.frames > max(1, self._container.size) // _LEAST_BYTES:
            return None  # a damaged header may promise any number
        # An edit list leaves frames out that the header counts.
        entries = self._stream.index_entries
        if len(entries) == self._stream.frames:
            return sum(not entry.is_discard for entry in entries)
        return int(self._stream.frames)

    def _recorded(self) -> float | None:
        for metadata in (self._container.metadata, self._stream.metadata):
            with suppress(KeyError, ValueError):
                time = datetime.fromisoformat(metadata["creation_time"]).timestamp()
                return time if time >= _EARLIEST else None
        return None

    def count(self) -> int:
        """Return the number of frames, by the header where that says, else by reading without decoding.

        A clip whose frames were counted by reading is at its end.
        """
        if self.promised is None:
            for _ in self._demux():
                pass
            return self._packets
        return self.promised

    def __iter__(self) -> Iterator[Picture]:
        return self.pictures()

    def pictures(self, wanted: Sequence[int] | None = None) -> Iterator[Picture]:
        """Yield the frames, or only those with the `wanted` numbers (ascending), in order.

        Frames are decoded from the start, since seeking is not exact in every container; with `wanted` the
        clip is read up to the last of them.

        Raises:
            UserError: the clip ended and not one frame could be decoded.
        """
        to_frame = ToFrame()
        remaining = None if wanted is None else list(reversed(wanted))
        for decoded in self._decoded():
            number = self._place(decoded)
            while remaining and remaining[-1] < number:
                remaining.pop()  # lost, and reported
            if remaining is not None and (not remaining or remaining[-1] != number):
                if not remaining:
                    break
                self.read += 1
                continue
            try:
                frame = to_frame(decoded)
            except Exception as error:
                self._lose(1, number, f"has no picture ({reason(error)})")
                continue
            self.read += 1
            damaged = bool(decoded.is_corrupt) or decoded.pts in self._corrupt
            if damaged:
                self.damaged += 1
                self._tell("frame_damaged", f"frame {number} is damaged", number, frames=1)
            yield Picture(frame, number, self._seconds(decoded), damaged)
            if remaining:
                remaining.pop()
            if remaining == []:
                break
        if remaining == []:
            self._tell_cut(self.read + self.lost)
        else:
            self._end()

    def _decoded(self) -> Iterator[Any]:
        for packet in self._demux():
            try:
                frames = packet.decode()
            except Exception as error:
                self._failure = self._failure or reason(error)
                continue
            yield from frames

    def _demux(self) -> Iterator[Any]:
        """Yield the packets of the video to the end, past failures of the container."""
        stalls = 0
        while stalls < _MAX_STALLS:
            before = self._packets
            try:
                for packet in self._container.demux(self._stream):
                    self._take(packet)
                    yield packet
                return
            except Exception as error:
                self._failure = reason(error)
                stalls = stalls + 1 if self._packets == before else 0

    def _take(self, packet: Any) -> None:
        if not packet.size or packet.is_discard or self._hidden(packet):
            return
        self._packets += 1
        if packet.pts is None:
            self._timed = False
            return
        heapq.heappush(self._pending, packet.pts)
        if packet.is_corrupt:
            self._corrupt.add(packet.pts)

    def _hidden(self, packet: Any) -> bool:
        """Whether a packet holds a frame that is only there for others to refer to."""
        return self._stream.codec_context.name in ("vp8", "libvpx") and not bytes(packet)[0] & 0x10

    def _place(self, decoded: Any) -> int:
        """Return the number of a decoded frame, after reporting those before it that did not come."""
        if self._timed and decoded.pts is not None:
            gone = 0
            while self._pending and self._pending[0] < decoded.pts:
                gone += heapq.heappop(self._pending) > self._second_fields
            if self._pending and self._pending[0] == decoded.pts:
                heapq.heappop(self._pending)
            if decoded.interlaced_frame:  # two fields may come in a packet each
                self._second_fields = decoded.pts + int(0.75 * decoded.duration)
            if gone:
                self._lose(gone, self.read + self.lost, "cannot be decoded")
        return self.read + self.lost

    def _lose(self, frames: int, first: int, what: str) -> None:
        self.lost += frames
        self._just_lost = True
        which = f"frame {first}" if frames == 1 else f"frames {first} to {first + frames - 1}"
        self._tell("frame_unreadable", f"{which} {what}", first, frames=frames)

    def _tell(self, kind: str, message: str, index: int | None = None, **data: Any) -> None:
        place = {} if index is None else {"index": index}
        self._report(kind, f"{self.name}: {message}", file=self.name, **place, **data)

    def _seconds(self, decoded: Any) -> float:
        """Return the time of a frame after the clip's start, growing where timestamps jump back or lack."""
        interval = 1 / self.fps if self.fps else 0.001
        stamp = decoded.pts if decoded.pts is not None else decoded.dts
        if stamp is None or not self._base:
            self._last = 0.0 if self._last is None else self._last + interval
            return self._last
        if self._start is None:
            self._start = stamp
        seconds: float = max(0.0, (stamp - self._start) * self._base) + self._shift
        self._look_for_gap(seconds, interval)
        if self._last is not None and seconds <= self._last:
            self._shift += self._last + interval - seconds
            seconds = self._last + interval
        self._last = seconds
        return seconds

    def _look_for_gap(self, seconds: float, interval: float) -> None:
        """Report a jump of times that were even before, where nothing else tells that frames are missing."""
        if self.promised is not None or self.fps is None or self._last is None:
            return
        passed = seconds - self._last
        missing = round(passed / interval) - 1
        if missing > 0 and self._even >= _EVEN and not self._just_lost:
            message = f"nothing between {self._last:.2f} s and {seconds:.2f} s, room for {missing} frames"
            self._tell("clip_gap", message, self.read + self.lost - 1, frames=missing)
        self._just_lost = False
        self._even = self._even + 1 if abs(passed - interval) < 0.25 * interval else 0

    def _end(self) -> None:
        """Report what is missing at the end of the file."""
        place = self.read + self.lost
        gone = len(self._pending) if self._timed else max(0, self._packets - place)
        if self._timed:
            gone = sum(pts > self._second_fields for pts in self._pending)
        if self.promised is not None:  # a damaged container may hand out packets that are none
            gone = min(gone, max(0, self.promised - place))
        if gone:
            self._lose(gone, place, "cannot be decoded")
        self._tell_truncation()
        if not self.read:
            why = f"none of its {self.lost} frames can be decoded" if self.lost else "no frame in it"
            raise UserError(f"{self.name}: {why}" + (f" ({self._failure})" if self._failure else ""))

    def _tell_truncation(self) -> None:
        seen = self.read + self.lost
        if self.promised is not None and seen < self.promised:
            missing = self.promised - seen
            self.lost += missing
            message = f"ends after {seen} of {self.promised} frames"
            self._tell("clip_truncated", message, seen, missing=missing)
        elif self._tell_cut(seen):
            return
        elif (ends := self._promised_end()) is not None and self._last is not None and self._last < ends:
            self._tell("clip_truncated", f"ends at {self._last:.2f} of {ends:.2f} s", seen, missing=None)
        elif self._bare():
            kind = self._container.format.name
            self._tell("clip_damaged", f"its header is damaged; {self.read} frames were read as bare {kind}")
        elif (damaged := self._damaged_packets()) > 0:
            self._tell("clip_damaged", f"{damaged} packets of it are damaged; {self.read} frames were read")
        elif self._failure is not None:
            message = f"damaged ({self._failure}); {self.read} frames were read"
            self._tell("clip_damaged", message)

    def _tell_cut(self, seen: int) -> bool:
        """Report a file that lacks bytes at its end; return whether it does."""
        short = missing_bytes(self._path) if self._path is not None and self._path.is_file() else 0
        if short:
            message = f"is cut off: {short} bytes are missing at its end, after {seen} frames"
            self._tell("clip_truncated", message, seen, missing=None)
        return short > 0

    def _bare(self) -> bool:
        """Whether a file that should be a container was read as a stream of pictures without one."""
        form = self._container.format
        bare = form.name in _BARE or form.name.endswith("_pipe")
        return bare and self._path is not None and self._path.suffix[1:].lower() not in form.extensions

    def _damaged_packets(self) -> int:
        stream = self._container.format.name == "mpegts"
        return damaged_packets(self._path) if stream and self._path and self._path.is_file() else 0

    def _promised_end(self) -> float | None:
        """Return the time, in seconds, that the last frame reaches by the header; None if it does not say."""
        alone = len(self._container.streams) == 1  # sound may go on after the picture
        if not alone or self.fps is None or self._container.format.name.split(",")[0] != "matroska":
            return None
        start = (self._start or 0) * self._base
        return (self._container.duration or 0) / 1e6 - start - _LAST_FRAMES / self.fps

    def close(self) -> None:
        """Close the file, and let the threads of the decoder go."""
        self._stream = None
        self._container.close()

    def __enter__(self) -> "Clip":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def count_frames(path: Path) -> int:
    """Count the frames of a clip; 0 where it cannot be opened."""
    try:
        with Clip(path) as clip:
            return clip.count()
    except UserError:
        return 0
