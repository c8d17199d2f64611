"""Sources, engines and sinks that misbehave on purpose."""

import threading
from collections.abc import Callable, Sequence

import numpy as np

from il2vseg.base.images import Frame
from il2vseg.runtime.events import Event, EventLog
from il2vseg.runtime.pipeline import Pipeline
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sources.base import Captured, Source

from .conftest import make_result

FRAME = np.zeros((8, 8, 3), np.uint8)


class Counting(Source):
    """So many frames, recorded or live; `hook` is called before each."""

    def __init__(
        self, count: int, *, live: bool = False, hook: Callable[[int], None] = lambda i: None
    ) -> None:
        self.live = live
        self.closed = False
        self._count, self._hook, self._next, self._stopped = count, hook, 0, False

    def read(self) -> Captured | None:
        if self._stopped or self._next >= self._count:
            return None
        self._hook(self._next)
        self._next += 1
        return Captured(FRAME, self._next - 1, f"frame_{self._next - 1:06d}")

    def interrupt(self) -> None:
        self._stopped = True

    def close(self) -> None:
        self.closed = True


def engine(frame: Frame) -> Result:
    return make_result(frame, latency_ms={"engine": 0.1})


class Collect(Sink):
    name = "collect"

    def __init__(self, hook: Callable[[Result], None] = lambda result: None) -> None:
        self.results: list[Result] = []
        self.events: list[Event] = []
        self.closed = False
        self._hook = hook

    def write(self, result: Result) -> None:
        self._hook(result)
        self.results.append(result)

    def event(self, event: Event) -> None:
        if event.kind != "camera_blind":  # most frames of these tests are black
            self.events.append(event)

    def close(self) -> None:
        self.closed = True

    def kinds(self) -> list[str]:
        return [e.kind for e in self.events]


def make(
    source: Source,
    sinks: Sequence[Sink],
    run: Callable[[Frame], Result] = engine,
    events: EventLog | None = None,
    max_frames: int | None = None,
) -> Pipeline:
    return Pipeline(source, run, sinks, events, max_frames=max_frames)


class Paced(Counting):
    """A live source whose next frame comes when a sink has the one before, and says so by `written`."""

    def __init__(self, count: int, hook: Callable[[int], None] = lambda i: None) -> None:
        self._gate, self._then = threading.Semaphore(1), hook
        super().__init__(count, live=True, hook=self._wait)

    def _wait(self, index: int) -> None:
        self._gate.acquire(timeout=5)
        self._then(index)

    def written(self, result: Result) -> None:
        self._gate.release()


class Failing:
    """An engine that raises on the calls listed."""

    def __init__(self, calls: set[int]) -> None:
        self.calls, self.count = calls, -1

    def __call__(self, frame: Frame) -> Result:
        self.count += 1
        if self.count in self.calls:
            raise RuntimeError("device lost")
        return engine(frame)
