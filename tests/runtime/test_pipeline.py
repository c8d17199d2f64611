"""The pipeline with sources, engines and sinks that misbehave on purpose."""

import errno
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from il2vseg.base.errors import CheckFailed, UserError
from il2vseg.base.images import Frame
from il2vseg.runtime import pipeline as module
from il2vseg.runtime.events import EventLog
from il2vseg.runtime.pipeline import Pipeline
from il2vseg.runtime.result import Result
from il2vseg.runtime.sources.base import Captured

from .conftest import make_result
from .misbehaving import Collect, Counting, Failing, Paced, engine, make


def test_a_recorded_source_loses_nothing_however_slow_the_sinks() -> None:
    ahead = threading.Event()
    source = Counting(200, hook=lambda i: ahead.set() if i == 8 else None)
    sink = Collect(lambda result: ahead.wait(5) and None)  # the first write ends when eight more were read
    make(source, [sink]).run()
    assert [o.index for o in sink.results] == list(range(200))
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
    indices = [o.index for o in sink.results]
    assert indices[0] == 0
    assert indices[-1] == 9
    assert indices == sorted(indices)
    assert len(indices) + pipeline.dropped == 10
    assert pipeline.dropped >= 7
    assert sink.results[-1].dropped == pipeline.dropped


def test_memory_is_bounded_when_sinks_hang() -> None:
    # One in the sink, four before it, one that the engine holds, four before that, one that was just read.
    most, more, release = threading.Event(), threading.Event(), threading.Event()
    source = Counting(100, hook=lambda i: most.set() if i == 10 else more.set() if i == 11 else None)
    pipeline = make(source, [Collect(lambda o: release.wait(10) and None)])
    thread = threading.Thread(target=pipeline.run)
    thread.start()
    assert most.wait(5)
    assert not more.wait(0.05)
    release.set()
    thread.join(10)
    assert pipeline.frames == 100


def test_the_overlay_is_drawn_once_for_all_sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = Result.draw
    monkeypatch.setattr(Result, "draw", lambda r: (drawn.append(r.index), draw(r))[1])

    def look(result: Result) -> None:
        assert result.overlay is result.overlay

    make(Counting(5), [Collect(look), Collect(look), Collect()]).run()
    assert drawn == [0, 1, 2, 3, 4]


def test_an_engine_that_raises_once_is_asked_again_and_no_frame_is_lost() -> None:
    sink = Collect()
    pipeline = make(Counting(5), [sink], Failing({2}))
    pipeline.run()
    assert [r.index for r in sink.results] == [0, 1, 2, 3, 4]
    assert sink.kinds() == ["engine_failed"]
    assert pipeline.failed == 0


def test_an_engine_that_keeps_raising_loses_a_live_frame_only() -> None:
    sink, failing = Collect(), Failing({1, 2})
    gate = threading.Semaphore(1)
    source = Counting(5, live=True, hook=lambda i: gate.acquire() and None)

    def run(frame: Frame) -> Result:
        try:
            return failing(frame)
        finally:
            if failing.count != 1:  # the second attempt is at the same frame
                gate.release()

    pipeline = make(source, [sink], run)
    pipeline.run()
    assert pipeline.failed == 1
    assert [r.index for r in sink.results] == [0, 2, 3, 4]
    assert pipeline.dropped == 0


@pytest.mark.parametrize(("live", "frames"), [(False, 1), (True, 10)])
def test_an_engine_that_never_works_ends_the_run(live: bool, frames: int) -> None:
    failing = Failing(set(range(1000)))
    gate = threading.Semaphore(1)
    source = Counting(100, live=live, hook=lambda i: gate.acquire(timeout=5) and None)

    def run(frame: Frame) -> Result:
        try:
            return failing(frame)
        finally:
            if failing.count % 2:
                gate.release()

    with pytest.raises(CheckFailed, match="device lost"):
        make(source, [Collect()], run).run()
    assert failing.count + 1 == 2 * frames  # each is tried twice


def test_frames_lost_now_and_then_do_not_end_a_live_run() -> None:
    """Every second frame, twelve in all; ten in a row would be the end."""
    failing = Failing({call for k in range(12) for call in (3 * k + 1, 3 * k + 2)})
    gate = threading.Semaphore(1)

    def run(frame: Frame) -> Result:
        try:
            return failing(frame)
        finally:
            if failing.count % 3 != 1:  # the second attempt is at the same frame
                gate.release()

    sink = Collect()
    pipeline = make(Counting(24, live=True, hook=lambda i: gate.acquire(timeout=5) and None), [sink], run)
    pipeline.run()
    assert pipeline.failed == 12
    assert [r.index for r in sink.results] == list(range(0, 24, 2))


def test_a_sink_that_cannot_write_ends_a_recording_and_closes_the_others() -> None:
    def full(result: Result) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "o.jsonl")

    other = Collect()
    with pytest.raises(UserError, match=r"o\.jsonl: cannot write \(No space left on device\)"):
        make(Counting(100), [Collect(full), other]).run()
    assert other.closed


def test_a_sink_that_cannot_write_for_a_while_does_not_stop_a_live_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    clock = SimpleNamespace(monotonic=lambda: now, perf_counter=time.perf_counter)
    monkeypatch.setattr(module, "time", clock)
    tried = []

    def full(result: Result) -> None:
        tried.append(result.index)
        if result.index < 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    def written(result: Result) -> None:
        nonlocal now
        now += 4.0
        source.written(result)

    source, failing, other = Paced(6), Collect(full), Collect(written)
    make(source, [failing, other]).run()
    assert tried == [0, 3, 4, 5]  # ten seconds later, at four seconds per frame
    assert [r.index for r in other.results] == [0, 1, 2, 3, 4, 5]
    kinds = [e for e in other.events if e.kind.startswith("sink")]
    assert [e.kind for e in kinds] == ["sink_failed", "sink_back"]
    assert kinds[0].message == "collect: cannot write (No space left on device); trying again in 10 s"


def test_a_dead_stage_of_a_live_source_is_started_again() -> None:
    def hook(i: int) -> None:
        if i == 3 and not died:
            died.append(i)
            source.written(sink.results[-1])  # the frame is read again
            raise RuntimeError("driver bug")

    died: list[int] = []
    source = Paced(10, hook)
    sink = Collect(source.written)
    make(source, [sink]).run()
    assert sink.kinds() == ["stage_restarted"]
    assert [r.index for r in sink.results] == list(range(10))


def test_a_stage_that_dies_again_and_again_ends_the_run() -> None:
    def hook(i: int) -> None:
        raise RuntimeError("driver bug")

    sink = Collect()
    with pytest.raises(RuntimeError, match="driver bug"):
        make(Counting(10, live=True, hook=hook), [sink]).run()
    assert sink.kinds() == ["stage_restarted"] * 3
    assert sink.closed


def test_a_bug_in_a_recorded_run_keeps_its_traceback() -> None:
    written: list[int] = []

    def broken(result: Result) -> None:
        written.append(result.index)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make(Counting(10), [Collect(broken)]).run()
    assert written == [0]  # and the stage ends with it


def test_a_hanging_engine_ends_the_run() -> None:
    release = threading.Event()

    def hang(frame: Frame) -> Result:
        release.wait(20)
        return engine(frame)

    class Slow(Collect):
        def close(self) -> None:
            release.wait(0.2)
            super().close()

    sink = Slow()
    try:
        source = Counting(10)
        with pytest.raises(CheckFailed, match="inference hangs"):
            make(source, [sink], hang).run(stall_s=0.5)
        assert sink.closed
        assert source.read() is None  # it was told to stop
    finally:
        release.set()


def test_failures_that_lie_apart_do_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now, perf_counter=time.perf_counter)
    monkeypatch.setattr(module, "time", clock)
    died: list[int] = []

    def hook(i: int) -> None:
        nonlocal now
        if i not in died:
            died.append(i)
            now += 20.5  # three in a minute, the limit
            source.written(None)  # type: ignore[arg-type]
            raise RuntimeError("driver bug")

    source = Paced(6, hook)
    sink = Collect(source.written)
    make(source, [sink]).run()
    assert sink.kinds() == ["stage_restarted"] * 6
    assert [r.index for r in sink.results] == list(range(6))


def test_a_stage_behind_the_source_that_stands_still_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make(Counting(1), [])
    pipeline._beats = {"inference": 100.0, "sinks": 107.0}
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 110.0))
    assert pipeline.stalled(5.0) == ["inference"]
    assert pipeline.stalled(10.0) == []
    assert pipeline.stalled(2.9) == ["inference", "sinks"]


def test_a_reader_that_leaves_ends_the_run_without_an_error() -> None:
    def left(result: Result) -> None:
        if result.index == 2:
            raise BrokenPipeError

    leaving, other = Collect(left), Collect()
    make(Counting(10_000), [leaving, other]).run()
    assert [r.index for r in leaving.results] == [0, 1]
    assert 3 <= len(other.results) < 10_000
    assert leaving.closed
    assert other.closed


def test_stop_finishes_what_is_under_way() -> None:
    sink = Collect(lambda o: (o.index == 5 and pipeline.stop()) or None)
    pipeline = make(Counting(10_000), [sink])
    pipeline.run()
    indices = [o.index for o in sink.results]
    assert 6 <= len(indices) < 10_000
    assert indices == list(range(len(indices)))


def test_stop_ends_a_source_that_cannot_be_interrupted() -> None:
    class Deaf(Counting):
        def interrupt(self) -> None:
            return None

    sink = Collect(lambda o: (o.index == 5 and pipeline.stop()) or None)
    pipeline = make(Deaf(10_000), [sink])
    pipeline.run()
    assert 6 <= len(sink.results) < 10_000


def test_a_source_that_pauses_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEAT_S", 0.001)
    get = module.Channel.get

    def counted(channel: Any, timeout: float | None = None) -> Any:
        item = get(channel, timeout)
        if item is None and channel is pipeline._captured:
            nothing.set()
        return item

    nothing = threading.Event()
    monkeypatch.setattr(module.Channel, "get", counted)
    sink = Collect()
    pipeline = make(Counting(4, hook=lambda i: nothing.wait(5) and None), [sink])
    pipeline.run()
    assert [r.index for r in sink.results] == [0, 1, 2, 3]


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
    assert sink.events[0].message == "frames are now 6x4, were 8x8"
    assert sink.results[-1].labels.shape == (4, 6)


def test_max_frames_counts_results() -> None:
    sink = Collect()
    make(Counting(100), [sink], max_frames=7).run()
    assert len(sink.results) == 7


def test_a_source_that_waits_is_woken_when_enough_frames_are_done() -> None:
    class Waiting(Counting):
        def __init__(self) -> None:
            super().__init__(1, live=True)
            self.woken = threading.Event()

        def read(self) -> Captured | None:
            return super().read() or (self.woken.wait(5) and None)

        def interrupt(self) -> None:
            self.woken.set()

    source, sink = Waiting(), Collect()
    make(source, [sink], max_frames=1).run()
    assert len(sink.results) == 1
    assert source.woken.is_set()


@pytest.mark.parametrize("unlike", [None, 0.9])
def test_novelty_is_told_what_the_model_says(unlike: float | None) -> None:
    told: list[float] = []
    moments: list[float] = []

    def update(share: float, moment: float) -> None:
        told.append(share)
        moments.append(moment)

    novelty: Any = SimpleNamespace(update=update)
    sink = Collect()
    run = lambda frame: make_result(frame, unlike=unlike)  # noqa: E731
    Pipeline(Counting(2), run, [sink], novelty=novelty).run()
    assert told == ([] if unlike is None else [0.9, 0.9])
    assert moments == [r.captured.moment for r in sink.results if unlike is not None]
    Pipeline(Counting(2), run, [sink]).run()
    assert len(sink.results) == 4


def test_events_may_come_faster_than_they_are_taken() -> None:
    log = EventLog()
    for i in range(5000):
        log.emit("noise", str(i))
    events = log.take()
    assert len(events) == 1000
    assert events[-1].message == "4999"
    assert log.take() == []
