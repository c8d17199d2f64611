"""The pipeline with sources, engines and sinks that misbehave on purpose."""

import errno
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from il2vseg.base.errors import CheckFailed, UserError
from il2vseg.base.images import Frame
from il2vseg.runtime import pipeline as module
from il2vseg.runtime.engine import Result
from il2vseg.runtime.engine_guard import EngineGuard
from il2vseg.runtime.events import Event, EventLog
from il2vseg.runtime.output import Output
from il2vseg.runtime.pipeline import Pipeline
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sources.base import Captured, Source

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
    return Result(np.zeros(frame.shape[:2], np.uint8), np.ones((1, 1, 1), np.float32), {"engine": 0.1})


class Collect(Sink):
    name = "collect"

    def __init__(self, hook: Callable[[Output], None] = lambda output: None) -> None:
        self.outputs: list[Output] = []
        self.events: list[Event] = []
        self.closed = False
        self._hook = hook

    def write(self, output: Output) -> None:
        self._hook(output)
        self.outputs.append(output)

    def event(self, event: Event) -> None:
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
    paint: Callable[[Output], Frame] = lambda o: o.captured.frame.copy()  # noqa: E731
    return Pipeline(source, run, ("all",), sinks, paint, events or EventLog(), max_frames=max_frames)


def test_a_recorded_source_loses_nothing_however_slow_the_sinks() -> None:
    sink, source = Collect(lambda o: time.sleep(0.001)), Counting(200)
    make(source, [sink]).run()
    assert [o.captured.index for o in sink.outputs] == list(range(200))
    assert sink.closed
    assert source.closed


def test_a_live_source_drops_old_frames_and_counts_them() -> None:
    begun = threading.Event()

    def hook(i: int) -> None:
        if i == 1:
            begun.wait(5)  # the engine has frame 0 by now
        if i == 9:
            go.set()

    def slow(frame: Frame) -> Result:
        begun.set()
        go.wait(5)
        return engine(frame)

    go = threading.Event()
    sink = Collect()
    pipeline = make(Counting(10, live=True, hook=hook), [sink], slow)
    pipeline.run()
    indices = [o.captured.index for o in sink.outputs]
    assert indices[0] == 0
    assert indices[-1] == 9
    assert indices == sorted(indices)
    assert len(indices) + pipeline.dropped == 10
    assert pipeline.dropped >= 7
    assert sink.outputs[-1].dropped == pipeline.dropped


def test_memory_is_bounded_when_sinks_hang() -> None:
    captured = 0
    release = threading.Event()

    def hook(i: int) -> None:
        nonlocal captured
        captured = i

    pipeline = make(Counting(1000, hook=hook), [Collect(lambda o: release.wait(10) and None)])
    thread = threading.Thread(target=pipeline.run)
    thread.start()
    time.sleep(0.3)
    assert captured < 4 * module.QUEUED
    release.set()
    thread.join(10)
    assert pipeline.frames == 1000


def test_the_overlay_is_painted_once_for_all_sinks() -> None:
    painted: list[int] = []

    def paint(output: Output) -> Frame:
        painted.append(output.captured.index)
        return output.captured.frame

    def look(output: Output) -> None:
        assert output.overlay is output.overlay

    sinks = [Collect(look), Collect(look), Collect()]
    Pipeline(Counting(5), engine, ("all",), sinks, paint, EventLog()).run()
    assert painted == list(range(5))


class Failing:
    """An engine that raises on the calls listed, as one object through all reloads."""

    manifest = None

    def __init__(self, calls: set[int]) -> None:
        self.calls, self.count, self.loads = calls, -1, 0

    def __call__(self, frame: Frame) -> Result:
        self.count += 1
        if self.count in self.calls:
            raise RuntimeError("device lost")
        return engine(frame)

    def reload(self) -> "Failing":
        self.loads += 1
        return self

    def close(self) -> None:
        pass


def guarded(failing: Failing, events: EventLog) -> EngineGuard:
    return EngineGuard(failing, failing.reload, events.emit)  # type: ignore[arg-type]


def test_an_engine_that_raises_once_is_loaded_again_and_no_frame_is_lost() -> None:
    events, sink, failing = EventLog(), Collect(), Failing({2})
    make(Counting(5), [sink], guarded(failing, events), events).run()
    assert len(sink.outputs) == 5
    assert failing.loads == 1
    assert "engine_failed" in sink.kinds()


def test_an_engine_that_keeps_raising_loses_a_live_frame_only() -> None:
    events, sink, failing = EventLog(), Collect(), Failing({1, 2})
    gate = threading.Semaphore(1)
    source = Counting(5, live=True, hook=lambda i: gate.acquire() and None)

    def run(frame: Frame) -> Result:
        try:
            return guard(frame)
        finally:
            gate.release()

    guard = guarded(failing, events)
    pipeline = make(source, [sink], run, events)
    pipeline.run()
    assert pipeline.failed == 1
    assert len(sink.outputs) + pipeline.dropped == 4


@pytest.mark.parametrize("live", [False, True])
def test_an_engine_that_never_works_ends_the_run(live: bool) -> None:
    events, failing = EventLog(), Failing(set(range(1000)))
    source = Counting(100, live=live, hook=lambda i: time.sleep(0.005))
    with pytest.raises(CheckFailed, match="device lost"):
        make(source, [Collect()], guarded(failing, events), events).run()


def test_a_sink_that_cannot_write_ends_a_recording_and_closes_the_others() -> None:
    def full(output: Output) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "o.jsonl")

    other = Collect()
    with pytest.raises(UserError, match=r"o\.jsonl: cannot write \(No space left on device\)"):
        make(Counting(100), [Collect(full), other]).run()
    assert other.closed


def test_a_sink_that_cannot_write_for_a_while_does_not_stop_a_live_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RETRY_SINK_S", 0.05)

    def full(output: Output) -> None:
        if output.captured.index < 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    failing, other = Collect(full), Collect()
    make(Counting(60, live=True, hook=lambda i: time.sleep(0.005)), [failing, other]).run()
    assert failing.outputs
    assert len(other.outputs) > len(failing.outputs)
    assert [k for k in other.kinds() if k.startswith("sink")] == ["sink_failed", "sink_back"]


def test_a_dead_stage_of_a_live_source_is_started_again() -> None:
    def hook(i: int) -> None:
        time.sleep(0.005)
        if i == 3 and not died:
            died.append(i)
            raise RuntimeError("driver bug")

    died: list[int] = []
    sink = Collect()
    make(Counting(10, live=True, hook=hook), [sink]).run()
    assert sink.kinds() == ["stage_restarted"]
    assert sink.outputs[-1].captured.index == 9


def test_a_stage_that_dies_again_and_again_ends_the_run() -> None:
    def hook(i: int) -> None:
        raise RuntimeError("driver bug")

    sink = Collect()
    with pytest.raises(RuntimeError, match="driver bug"):
        make(Counting(10, live=True, hook=hook), [sink]).run()
    assert sink.kinds() == ["stage_restarted"] * module.MAX_RESTARTS
    assert sink.closed


def test_a_bug_in_a_recorded_run_keeps_its_traceback() -> None:
    def broken(frame: Frame) -> Result:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make(Counting(10), [Collect()], broken).run()


def test_a_hanging_engine_ends_the_run() -> None:
    release = threading.Event()

    def hang(frame: Frame) -> Result:
        release.wait(20)
        return engine(frame)

    sink = Collect()
    try:
        with pytest.raises(CheckFailed, match="inference hangs"):
            make(Counting(10), [sink], hang).run(stall_s=0.5)
        assert sink.closed
    finally:
        release.set()


def test_stop_finishes_what_is_under_way() -> None:
    sink = Collect(lambda o: (o.captured.index == 5 and pipeline.stop()) or None)
    pipeline = make(Counting(10_000), [sink])
    pipeline.run()
    indices = [o.captured.index for o in sink.outputs]
    assert 6 <= len(indices) < 10_000
    assert indices == list(range(len(indices)))


def test_a_change_of_the_frame_size_is_reported() -> None:
    class Changing(Counting):
        def read(self) -> Captured | None:
            captured = super().read()
            if captured is None or captured.index < 3:
                return captured
            return Captured(np.zeros((4, 6, 3), np.uint8), captured.index, captured.name)

    sink = Collect()
    make(Changing(6), [sink]).run()
    assert sink.kinds() == ["frame_size_changed"]
    assert sink.events[0].data == {"size": [4, 6]}
    assert sink.outputs[-1].result.labels.shape == (4, 6)


def test_max_frames_counts_results() -> None:
    sink = Collect()
    make(Counting(100), [sink], max_frames=7).run()
    assert len(sink.outputs) == 7


def test_events_may_come_faster_than_they_are_taken() -> None:
    log = EventLog()
    for i in range(5000):
        log.emit("noise", str(i))
    events = log.take()
    assert len(events) == 1000
    assert events[-1].message == "4999"
    assert log.take() == []
