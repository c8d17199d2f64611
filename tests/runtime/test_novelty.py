"""The event that says that the footage is not the model's."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from il2vseg.runtime.backends.shared import SharedBackend
from il2vseg.runtime.engine import Engine
from il2vseg.runtime.manifest import Manifest, Novelty
from il2vseg.runtime.novelty import NoveltyWatch, unlike_share

LIMITS = Novelty(cell=0.02, frame=0.2)


class Events(list):
    def __call__(self, kind: str, message: str, **data: object) -> None:
        self.append(kind)


def test_the_share_counts_cells_of_low_confidence() -> None:
    confidence = np.array([[0.0, 0.01], [0.02, 0.9]], np.float32)
    assert unlike_share(confidence, LIMITS) == 0.5
    assert unlike_share(confidence, None) is None
    assert unlike_share(None, LIMITS) is None


def feed(watch: NoveltyWatch, shares: Sequence[float], fps: float, begin: float = 0.0) -> None:
    for i, share in enumerate(shares):
        watch.update(share, begin + i / fps)


@pytest.mark.parametrize("fps", [0.5, 1, 2, 5, 10, 25, 60, 240])
def test_the_event_comes_within_five_seconds_and_once(fps: float) -> None:
    events = Events()
    watch = NoveltyWatch(LIMITS, events)
    feed(watch, [0.5] * (int(5 * fps) + 1), fps)
    assert events == ["unlike_training"]
    feed(watch, [0.5] * 100, fps, 6.0)
    assert events == ["unlike_training"]


@pytest.mark.parametrize("fps", [1, 2, 10, 60])
def test_a_change_is_told_of_within_five_seconds_but_not_at_once(fps: int) -> None:
    events = Events()
    watch = NoveltyWatch(LIMITS, events)
    feed(watch, [0.0] * (60 * fps), fps)
    feed(watch, [0.5] * 2 * fps, fps, 60.0)
    assert events == []
    feed(watch, [0.5] * (3 * fps + 1), fps, 62.0)
    assert events == ["unlike_training"]
    feed(watch, [0.0] * (5 * fps + 1), fps, 65.1)
    assert events == ["unlike_training", "like_training"]


def test_at_the_beginning_twelve_frames_of_a_second_are_enough_and_fewer_are_not() -> None:
    for fps, most in ((10, 11), (60, 60)):
        events = Events()
        watch = NoveltyWatch(LIMITS, events)
        feed(watch, [0.5] * most, fps)
        assert events == []
        watch.update(0.5, most / fps)
        assert events == ["unlike_training"]


def test_a_frame_a_minute_is_told_of_after_three() -> None:
    events = Events()
    watch = NoveltyWatch(LIMITS, events)
    feed(watch, [0.5, 0.5], 1 / 60)
    assert events == []
    feed(watch, [0.5] * 3, 1 / 60, 120.0)
    assert events == ["unlike_training"]
    assert "5 of 5" in str(watch.summary())


def test_frames_without_times_are_not_kept_for_ever() -> None:
    watch = NoveltyWatch(LIMITS, Events())
    feed(watch, [0.5] * 10_000, float("inf"))
    assert len(watch._recent) < 5000
    assert "10000 of 10000" in str(watch.summary())


def test_a_few_strange_frames_are_no_event() -> None:
    events = Events()
    watch = NoveltyWatch(LIMITS, events)
    feed(watch, [0.5, 0.1] * 30, 10)
    assert events == []
    assert watch.summary() is None


@pytest.mark.parametrize("share", [0.2, 0.0])
def test_a_share_at_the_limit_is_familiar(share: float) -> None:
    watch = NoveltyWatch(LIMITS, Events())
    feed(watch, [share] * 60, 10)
    assert not watch.active


def test_a_result_says_how_unlike_its_frame_is() -> None:
    bundled = Path(__file__).parents[2] / "runtime" / "bundled" / "marine-lite"
    manifest = replace(Manifest.load(bundled), novelty=LIMITS)

    class Fake:
        provider, batch = "cpu", 1

        def __call__(self, frames: np.ndarray) -> tuple[np.ndarray, ...]:
            labels = np.zeros((1, *manifest.size), np.uint8)
            scores = np.zeros((1, *manifest.outputs.scores), np.float32)
            return labels, scores, np.array([[[0.0, 1.0]]], np.float32)

        def close(self) -> None:
            pass

    result = Engine(manifest, Fake())(np.zeros((36, 64, 3), np.uint8))
    assert result.unlike == 0.5
    assert result.record["unlike"] == 0.5
    silent = Engine(replace(manifest, novelty=None), Fake())(np.zeros((36, 64, 3), np.uint8))
    assert silent.unlike is None
    assert "unlike" not in silent.record


def test_shared_backends_hand_every_output_to_its_caller() -> None:
    class Fake:
        provider, batch = "cpu", 1

        def __call__(self, frames: np.ndarray) -> tuple[np.ndarray, ...]:
            return frames[:, :, :, 0], frames.astype(np.float32), np.full((1, 2, 2), 0.5, np.float32)

        def close(self) -> None:
            pass

    shared = SharedBackend(Fake, users=1)
    outputs = shared(np.zeros((1, 4, 4, 3), np.uint8))
    assert len(outputs) == 3
    assert (outputs[2] == 0.5).all()
