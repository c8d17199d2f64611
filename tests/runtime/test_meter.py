"""What a stream loses and how fast it is, by a clock that the test sets."""

import numpy as np
import pytest

from il2vseg.runtime.meter import Meter
from il2vseg.runtime.sources.base import Captured, Source

from .conftest import SIZE, make_result


class Nothing(Source):
    """A source of which only what it says of itself matters."""

    def __init__(self, live: bool) -> None:
        self.live, self.fps = live, 25.0

    def read(self) -> Captured | None:
        return None


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def frame(index: int, clock: float, read_ms: float = 2.0) -> Captured:
    picture = np.zeros((*SIZE, 3), np.uint8)
    return Captured(picture, index, f"frame {index}", read_ms, unix=1000.0 + clock, clock=clock)


def test_the_frames_of_a_live_source_that_nobody_took_are_counted() -> None:
    meter = Meter(Nothing(live=True))
    dropped = []
    for index in (0, 1, 4, 5, 9):
        meter.take(frame(index, 0.0))
        dropped.append(meter.dropped)
    assert dropped == [0, 0, 2, 2, 5]


def test_gaps_of_a_recording_are_frames_that_did_not_decode_not_dropped_ones() -> None:
    meter = Meter(Nothing(live=False))
    for index in (0, 3, 4):
        meter.take(frame(index, 0.0))
    assert meter.dropped == 0


def test_latencies_are_counted_from_the_capture() -> None:
    clock = Clock()
    meter = Meter(Nothing(live=True), clock=clock)
    captured = frame(0, clock=50.0)
    clock.now = 50.030
    begun = meter.take(captured)
    clock.now = 50.070

    def analyse(labels: np.ndarray) -> None:
        clock.now += 0.005

    result = meter.complete(make_result(latency_ms={"engine": 39.0}), captured, begun, analyse)  # type: ignore[arg-type]
    assert list(result.latency_ms) == ["read", "wait", "engine", "total"]  # no scene, no stage for it
    assert result.latency_ms == pytest.approx({"read": 2.0, "wait": 30.0, "engine": 39.0, "total": 75.0})
    assert result.done == pytest.approx(1050.075)
    assert result.captured is captured
    assert (result.rate, result.live, result.fps) == (25.0, True, 0.0)
    assert meter.latencies.stages()["total"].count == 1


def test_the_marine_layer_is_a_stage_of_its_own() -> None:
    clock = Clock()
    meter = Meter(Nothing(live=False), clock=clock)

    def analyse(labels: np.ndarray) -> object:
        clock.now += 0.005
        return "scene"

    result = meter.complete(make_result(), frame(0, 50.0), meter.take(frame(0, 50.0)), analyse)  # type: ignore[arg-type]
    assert result.scene == "scene"
    assert result.latency_ms["marine"] == pytest.approx(5.0)
    assert result.latency_ms["total"] == pytest.approx(5.0)


def test_the_frame_rate_follows_slowly() -> None:
    clock = Clock()
    meter = Meter(Nothing(live=False), clock=clock)
    rates = []
    for seconds in (0.0, 0.1, 0.1, 0.2):
        clock.now += seconds
        captured = frame(len(rates), clock.now)
        rates.append(meter.complete(make_result(), captured, meter.take(captured)).fps)
    assert rates == pytest.approx([0.0, 10.0, 10.0, 1 / 0.11])  # a tenth of the way to 0.2 s per frame
    assert meter.frames == 4
