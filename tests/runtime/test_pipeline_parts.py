"""What the pipeline counts, tells and waits for."""

import threading
from types import SimpleNamespace

import pytest

from il2vseg.runtime import pipeline as module
from il2vseg.runtime.pipeline import Pipeline
from il2vseg.runtime.result import Result

from .misbehaving import Collect, Counting, engine, make


class Clock:
    """Stands for the module `time`; a sink moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def test_the_time_of_every_sink_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    slow, quick = Collect(lambda _: clock.pass_by(0.25)), Collect(lambda _: clock.pass_by(0.125))
    slow.name, quick.name = "slow", "quick"
    pipeline = make(Counting(3), [slow, quick])
    pipeline.run()
    stages = pipeline.latencies.stages()
    assert [(name, stages[name].count, stages[name].total_ms) for name in ("slow", "quick")] == [
        ("slow", 3, pytest.approx(750.0)),
        ("quick", 3, pytest.approx(375.0)),
    ]


def test_limits_of_a_run() -> None:
    assert (module.QUEUED, module.RETRY_SINK_S) == (4, 10.0)
    assert (module.MAX_RESTARTS, module.RESTART_WINDOW_S, module.MAX_LOST_IN_A_ROW) == (3, 60.0, 10)


def test_a_failing_sink_is_tried_again_after_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    sink = Collect()
    pipeline = make(Counting(1, live=True), [sink])
    calls: list[float] = []

    def act(error: OSError | None = None) -> None:
        calls.append(clock.now)
        if error is not None:
            raise error

    full = OSError(28, "No space left on device", "/data/x.jsonl")
    pipeline._guarded(sink, lambda: act(full))
    clock.now = 109.9
    pipeline._guarded(sink, act)
    clock.now = 110.0
    pipeline._guarded(sink, act)
    pipeline._guarded(sink, act)
    assert calls == [100.0, 110.0, 110.0]
    assert [(e.kind, e.message, e.data) for e in pipeline._events.take()] == [
        (
            "sink_failed",
            "collect: /data/x.jsonl: cannot write (No space left on device); trying again in 10 s",
            {"sink": "collect"},
        ),
        ("sink_back", "collect: writing again", {"sink": "collect"}),
    ]


def test_scenes_are_followed_by_the_time_of_their_frame() -> None:
    seen: list[tuple[object, float]] = []

    def follow(scene: object, moment: float) -> object:
        seen.append((scene, moment))
        return f"{scene}, followed"

    sink = Collect()
    source = Counting(2)
    Pipeline(
        source,
        engine,
        [sink],
        analyse=lambda labels: "scene",  # type: ignore[arg-type, return-value]
        follow=follow,  # type: ignore[arg-type]
    ).run()
    assert [r.scene for r in sink.results] == ["scene, followed"] * 2
    assert [scene for scene, _ in seen] == ["scene"] * 2
    unseen = Collect()
    Pipeline(Counting(2), engine, [unseen], follow=follow).run()  # type: ignore[arg-type]
    assert [r.scene for r in unseen.results] == [None, None]
    assert len(seen) == 2


def test_an_error_is_one_line_of_two_hundred_characters() -> None:
    assert module._line(ValueError("a\n  b")) == "ValueError: a b"
    assert module._line(ValueError("x" * 300)) == "ValueError: " + "x" * 200


def test_a_stage_that_moves_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 50.0))
    pipeline = make(Counting(1), [])
    pipeline._beats = {"inference": 40.0, "sinks": 45.0}
    assert pipeline.stalled(5.0) == ["inference"]
    assert pipeline.stalled(4.9) == ["inference", "sinks"]


def test_a_frame_is_not_taken_once_enough_are_done() -> None:
    ran: list[int] = []

    def run(frame: object) -> Result:
        ran.append(threading.get_ident())
        return engine(frame)  # type: ignore[arg-type]

    pipeline = make(Counting(50), [Collect()], run, max_frames=3)
    pipeline.run()
    assert (len(ran), pipeline.frames) == (3, 3)


def test_frames_of_a_camera_that_sees_nothing_are_marked() -> None:
    sink = Collect()
    make(Counting(3), [sink]).run()
    assert [r.blind for r in sink.results] == ["it is black"] * 3
