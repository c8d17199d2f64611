"""What a source is."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from il2vseg.base.images import Frame

Report = Callable[..., Any]
"""Told of status events: `report(kind, message, **data)`, as `EventLog.emit`."""


@dataclass(frozen=True)
class Captured:
    """A frame and where it comes from.

    Attributes:
        frame: BGR (H, W, 3). index: its number in the source, from 0; a gap means frames that were lost.
        name: the file's name without its suffix, or frame_000042. read_ms: time to fetch and decode it.
        unix: seconds since 1970 when it was captured or, of a recording, read. clock: the same moment on
            `time.perf_counter`.
        position_s: of a clip's frame, its time after the clip's start.
        timeline_s: of a recording's frame, its time when all files are shown one after another.
        recorded: unix time at which it was filmed, where the recording says so.
    """

    frame: Frame
    index: int
    name: str
    read_ms: float = 0.0
    unix: float = field(default_factory=time.time)
    clock: float = field(default_factory=time.perf_counter)
    position_s: float | None = None
    timeline_s: float | None = None
    recorded: float | None = None

    @property
    def moment(self) -> float:
        """Seconds on the clock that counts between frames: the recording's own, or that of the capture."""
        return self.clock if self.timeline_s is None else self.timeline_s


class Source(ABC):
    """Frames, one after another.

    Attributes:
        live: frames come when they come, and old ones are worth nothing. fps: nominal rate, None if unknown.
        total: number of frames, None if unknown. skipped: frames that could not be decoded so far.
        damaged: frames so far of which parts are guessed.
    """

    live: bool = False
    fps: float | None = None
    total: int | None = None
    skipped: int = 0
    damaged: int = 0

    @abstractmethod
    def read(self) -> Captured | None:
        """Return the next frame, or None at the end and after `close`."""

    def interrupt(self) -> None:
        """Make a `read` that waits in another thread return None soon, and every later one at once."""
        return None

    def close(self) -> None:
        """Let go of the device or file. No `read` may be running."""
        return None

    def __iter__(self) -> Iterator[Captured]:
        while (captured := self.read()) is not None:
            yield captured

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
