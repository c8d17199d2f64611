"""The small parts: histogram, channel, overlay."""

import math
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from il2vseg.base.images import Frame
from il2vseg.runtime import overlay
from il2vseg.runtime.channel import Channel
from il2vseg.runtime.histogram import RATIO, Histogram, Latencies
from il2vseg.runtime.marine.scene import Obstacle
from il2vseg.runtime.overlay import _caption

from .conftest import CLASSES, make_result


@given(st.lists(st.floats(0.02, 50_000), min_size=1), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_quantiles_are_right_within_a_bucket(durations: list[float], q: float) -> None:
    histogram = Histogram()
    for ms in durations:
        histogram.add(ms)
    exact = sorted(durations)[max(1, math.ceil(q * len(durations))) - 1]
    assert exact * (1 - 1e-6) <= histogram.quantile(q) <= exact * RATIO * (1 + 1e-6)


@given(st.lists(st.floats(0, 1e9)), st.floats(0.01, 1e5))
def test_counts_up_to_a_limit_grow_to_the_number_of_durations(durations: list[float], limit: float) -> None:
    histogram = Histogram()
    for ms in durations:
        histogram.add(ms)
    assert histogram.at_most(limit) <= sum(ms <= limit for ms in durations) + durations.count(0)
    assert histogram.at_most(1e9) == len(durations)


def test_an_empty_histogram_has_no_quantile() -> None:
    assert math.isnan(Histogram().quantile(0.5))


def test_the_table_has_a_row_for_every_stage() -> None:
    latencies = Latencies()
    latencies.add({"read": 1.0, "engine": 20.0})
    latencies.add({"engine": 40.0})
    head, read, engine = latencies.table().splitlines()
    assert "p50" in head
    assert "p99" in head
    assert read.split()[:2] == ["read", "1"]
    assert engine.split()[:2] == ["engine", "2"]


def test_a_lossless_channel_keeps_order_and_everything() -> None:
    channel: Channel[int] = Channel(2)
    got: list[int] = []

    def consume() -> None:
        while (item := channel.get()) is not None:
            got.append(item)

    thread = threading.Thread(target=consume)
    thread.start()
    assert all(channel.put(i) for i in range(1000))
    channel.close()
    thread.join()
    assert got == list(range(1000))
    assert channel.drained


def test_a_newest_channel_forgets_the_oldest() -> None:
    channel: Channel[int] = Channel(1, newest=True)
    for i in range(5):
        channel.put(i)
    assert channel.get() == 4
    assert channel.get(timeout=0.01) is None


def test_closing_frees_a_waiting_producer() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(0)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(channel.put(1)))
    thread.start()
    channel.close()
    thread.join(5)
    assert results == [False]
    assert channel.get() == 0
    assert channel.get() is None
    assert not channel.put(2)


def test_a_full_channel_gives_up_after_the_timeout() -> None:
    channel: Channel[int] = Channel(1)
    assert channel.put(0)
    assert not channel.put(1, timeout=0.01)


@pytest.mark.parametrize("opacity", [0.0, 0.5, 1.0])
def test_the_overlay_blends_class_colours(frames: list[Frame], opacity: float) -> None:
    frame = frames[0]
    labels = np.full(frame.shape[:2], 1, np.uint8)
    blended = make_result(frame, labels, opacity=opacity).draw(legend=False)
    expected = (1 - opacity) * frame + opacity * np.array([224, 167, 41])  # BGR of water
    assert np.abs(blended - expected).max() <= 1
    np.testing.assert_array_equal(make_result(frame, labels).draw(opacity, legend=False), blended)


def test_the_overlay_leaves_the_frame_alone_and_writes_a_legend(frames: list[Frame]) -> None:
    frame = frames[0].copy()
    result = make_result(frame, fps=9.9)
    picture = result.draw()
    np.testing.assert_array_equal(frame, frames[0])
    assert (picture != result.draw(legend=False)).any()
    assert picture.shape == frame.shape
    assert (picture != replace(result, fps=0.0).draw()).any()


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (1080, 1920)])
def test_the_overlay_fits_any_frame(size: tuple[int, int]) -> None:
    result = make_result(np.zeros((*size, 3), np.uint8), fps=1.0)
    assert result.draw().shape == (*size, 3)


def test_a_caption_has_what_is_known() -> None:
    assert _caption(Obstacle((0, 0, 1, 1), (0.0, 1.0))) == ""
    assert _caption(Obstacle((0, 0, 1, 1), (0.0, 1.0), range_m=12.4)) == "12 m"
    known = Obstacle((0, 0, 1, 1), (0.0, 1.0), range_m=12.4, track=3, nearest_s=9.6)
    assert _caption(known) == "3: 12 m in 10 s"


@pytest.mark.parametrize(("height", "scale"), [(100, 0.35), (900, 1.0), (3000, 1.2)])
def test_letters_suit_the_image(height: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float]] = []
    rows: list[int] = []
    monkeypatch.setattr(
        overlay.cv2, "putText", lambda *a: (written.append((a[1], a[4])), rows.append(a[2][1]))
    )
    fractions = {"obstacle": 0.01, "water": 0.0, "sky": 0.99}
    overlay.draw_legend(np.zeros((height, 200, 3), np.uint8), CLASSES, fractions, 12.34)
    assert [text for text, _ in written] == ["obstacle 1 %", "water 0 %", "sky 99 %", "12.3 fps"]
    assert [size for _, size in written] == pytest.approx([scale] * 4)
    assert rows == sorted(set(rows))  # one below the other
    written.clear()
    overlay.draw_legend(np.zeros((height, 200, 3), np.uint8), CLASSES, fractions, make_result().fps)
    assert len(written) == 3  # no rate before one is known
