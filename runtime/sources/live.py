"""A live source: the newest frame of a connection that is reopened when it dies or freezes."""

import threading
import time
from collections.abc import Callable

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame
from il2vseg.runtime.sources.base import Captured, Report, Source
from il2vseg.runtime.sources.capture import Connection, ConnectionFailed
from il2vseg.runtime.sources.interrupt import interrupt

INITIAL_BACKOFF_S = 0.25
MAX_BACKOFF_S = 4.0
CONNECT_S = 10.0
"""Seconds that a connection may take to its first sign of life: streams are probed, cameras warm up."""

KEY_FRAME_S = 30.0
"""Seconds that a stream may send without a frame: whoever joins waits for the next key frame."""

_GRACE_S = 0.5
"""Longer than the connection itself waits, so that its own reason is told."""

ADVICE = "check it, or wait for it with --wait-for-source"

_MOST_STUCK = 4
"""Readers that may hang in a driver at once before no new one is started."""


class _Reader:
    """One connection, read by a thread of its own as fast as it delivers; only the newest frame is kept.

    A read that hangs in a driver cannot be interrupted: such a reader is abandoned, and closes its connection
    itself should the read ever return.
    """

    def __init__(self, connect: Callable[[], Connection], changed: threading.Condition) -> None:
        self._connect = connect
        self._changed = changed
        self._abandoned = False
        self.newest: tuple[Frame, float, float] | None = None  # frame, unix time, monotonic time
        self.frames = 0
        self.begun = self.alive = time.monotonic()
        self.fps: float | None = None
        self.ended: str | None = None
        self.mistake: Exception | None = None
        self.thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        connection = None
        reason = "the stream ended"
        try:
            connection = self._connect()
            self.fps = connection.fps
            last = None
            while not self._abandoned and (grabbed := connection.grab()) is not None:
                frame, timestamp = grabbed
                if frame is None:
                    self.alive = time.monotonic()
                    continue
                if timestamp is not None and timestamp == last:
                    continue  # a frozen driver hands out the same frame for ever
                last = timestamp
                with self._changed:
                    self.alive = time.monotonic()
                    self.newest = frame, time.time(), time.perf_counter()
                    self.frames += 1
                    self._changed.notify_all()
        except ConnectionFailed as error:
            reason = str(error)
        except Exception as error:
            self.mistake = error
            reason = str(error)
        finally:
            if connection is not None:
                connection.close()
            with self._changed:
                self.ended = reason
                self._changed.notify_all()

    def deadline(self, freeze_s: float) -> float:
        """Until when (monotonic time) the next frame has to come; life without frames puts it off."""
        if self.frames:
            return self.alive + freeze_s
        first = self.begun + max(freeze_s, CONNECT_S) + _GRACE_S
        return max(first, min(self.alive + freeze_s, self.begun + KEY_FRAME_S))

    def abandon(self) -> None:
        """Stop at the next frame, and do not wait for it any longer."""
        self._abandoned = True
        interrupt(self.thread)


class LiveSource(Source):
    """The newest frame of a camera or stream; it is reopened after failures.

    Events reported: source_lost with the reason, source_back with the seconds it was away.
    """

    live = True

    def __init__(
        self,
        connect: Callable[[], Connection],
        name: str,
        report: Report,
        *,
        freeze_s: float = 5.0,
        wait: bool = False,
    ) -> None:
        """Connect for the first time.

        Args:
            connect: opens the connection; ConnectionFailed means "try again later".
            name: for messages. freeze_s: seconds without a new frame that count as a failure.
            wait: keep trying when the first attempt fails.
        Raises:
            UserError: the first attempt fails and `wait` is not set.
        """
        self._connect = connect
        self._name = name
        self._report = report
        self._freeze_s = freeze_s
        self._changed = threading.Condition()
        self._stopped = False
        self._stuck: list[threading.Thread] = []
        self._lost_at: float | None = None
        self._backoff = INITIAL_BACKOFF_S
        self._earlier = 0  # frames of earlier connections
        self._last = 0  # number of the frame returned last, counted from 1
        self._reader = _Reader(connect, self._changed)
        if not wait and not self._wait_for_frame():
            if isinstance(self._reader.mistake, UserError):
                raise self._reader.mistake
            reason = self._reader.ended or "no frame came"
            self.close()
            raise UserError(f"{name}: {reason}; {ADVICE}")
        self.fps = self._reader.fps

    def _wait_for_frame(self) -> bool:
        """Wait until the reader has a frame that was not returned yet; False when it ended or froze."""
        reader = self._reader

        def settled() -> bool:
            return self._stopped or reader.ended is not None or self._earlier + reader.frames > self._last

        with self._changed:
            while not settled() and (left := reader.deadline(self._freeze_s) - time.monotonic()) > 0:
                self._changed.wait_for(settled, timeout=left)
            return self._earlier + reader.frames > self._last

    def read(self) -> Captured | None:
        while not self._stopped:
            if self._wait_for_frame():
                return self._take()
            if not self._stopped:
                self._reconnect()
        return None

    def _take(self) -> Captured:
        with self._changed:
            assert self._reader.newest is not None
            frame, unix, monotonic = self._reader.newest
            self._last = self._earlier + self._reader.frames
        if self._lost_at is not None:
            away = time.monotonic() - self._lost_at
            self._lost_at, self._backoff = None, INITIAL_BACKOFF_S
            self._report("source_back", f"{self._name}: back after {away:.1f} s", seconds=round(away, 3))
        index = self._last - 1
        return Captured(frame, index, f"frame_{index:06d}", unix=unix, clock=monotonic)

    def _reconnect(self) -> None:
        """Give up the dead connection, wait (longer each time), and open a new one."""
        if isinstance(self._reader.mistake, UserError):
            raise self._reader.mistake
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            reason = self._reader.ended or f"no new frame for {self._freeze_s:g} s or more"
            self._report("source_lost", f"{self._name}: {reason}; trying again", reason=reason)
        self._reader.abandon()
        self._stuck = [t for t in (*self._stuck, self._reader.thread) if t.is_alive()]
        self._pause(self._backoff)
        self._backoff = min(2 * self._backoff, MAX_BACKOFF_S)
        while len(self._stuck) >= _MOST_STUCK and not self._stopped:
            self._pause(MAX_BACKOFF_S)
            self._stuck = [t for t in self._stuck if t.is_alive()]
        if not self._stopped:
            self._earlier += self._reader.frames
            self._last = self._earlier
            self._reader = _Reader(self._connect, self._changed)

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, timeout=seconds)

    def interrupt(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        self.interrupt()
        self._reader.abandon()
        # A healthy reader ends at its next frame; one that hangs in a driver is left to the process's end.
        self._reader.thread.join(timeout=1.0)
