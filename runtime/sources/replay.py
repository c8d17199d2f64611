"""Replay of a recording: at its own pace, or again and again."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from il2vseg.runtime.sources.base import Captured, Source

_PAUSE_S = 0.1
"""Between the last frame of a recording and the first of its next round."""


class Replay(Source):
    """Frames of a recorded source when they are due, or again and again, or both."""

    def __init__(self, open_again: Callable[[], Source], *, realtime: bool, loop: bool) -> None:
        """Open the recording.

        Args:
            open_again: opens it. realtime: frames come at their own times; the source is live then, and what
                is not taken in time is dropped. loop: begin again at the end, without end.
        """
        self._open = open_again
        self._source = open_again()
        self._loop = loop
        self._stopped = threading.Event()
        self._first_index = self._index = 0
        self._begin = self._timeline = 0.0
        self._started: float | None = None
        self._skipped = self._damaged = 0
        self.live = realtime
        self.fps = self._source.fps
        self.total = None if loop else self._source.total

    @property
    def skipped(self) -> int:  # type: ignore[override]
        """Frames that could not be decoded so far."""
        return self._skipped + self._source.skipped

    @property
    def damaged(self) -> int:  # type: ignore[override]
        """Frames so far of which parts are guessed."""
        return self._damaged + self._source.damaged

    def read(self) -> Captured | None:
        while not self._stopped.is_set():
            captured = self._source.read()
            if captured is not None:
                return self._placed(captured)
            if not self._loop or self._index == self._first_index:
                return None
            self._rewind()
        return None

    def _placed(self, captured: Captured) -> Captured | None:
        """Give a frame its place among those of all rounds, when it is due."""
        self._index = self._first_index + captured.index + 1
        self._timeline = self._begin + (captured.timeline_s or 0.0)
        if self.live:
            now = time.monotonic()
            self._started = now - self._timeline if self._started is None else self._started
            if self._stopped.wait(max(0.0, self._started + self._timeline - now)):
                return None
        index = self._index - 1
        return replace(
            captured,
            index=index,
            name=f"frame_{index:06d}",
            timeline_s=self._timeline,
            unix=time.time(),
            clock=time.perf_counter(),
        )

    def _rewind(self) -> None:
        self._skipped, self._damaged = self.skipped, self.damaged
        self._source.close()
        self._source = self._open()
        self._first_index = self._index
        self._begin = self._timeline + (1 / self.fps if self.fps else _PAUSE_S)

    def interrupt(self) -> None:
        self._stopped.set()
        self._source.interrupt()

    def close(self) -> None:
        self._source.close()
