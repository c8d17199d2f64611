"""The event that says that the footage is not the model's."""

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


def test_the_event_comes_within_twelve_frames_and_once() -> None:
    events = Events()
    watch = NoveltyWatch(LIMITS, events)
    for _ in range(11):
        watch.update(0.5)
    assert events == []
    watch.update(0.5)
    assert events == ["unlike_training"]
    for _ in range(30):
        watch.update(0.5)
    assert events == ["unlike_training"]
    assert "42 of 42" in str(watch.summary())


def test_a_few_strange_frames_are_no_event_and_the_state_ends() -> None:
    events = Events()
    watch = NoveltyWatch(LIMITS, events)
    for i in range(60):
        watch.update(0.5 if i % 2 else 0.1)
    assert events == []
    assert watch.summary() is None
    for _ in range(12):
        watch.update(0.5)
    for _ in range(12):
        watch.update(0.0)
    assert events == ["unlike_training", "like_training"]


@pytest.mark.parametrize("share", [0.2, 0.0])
def test_a_share_at_the_limit_is_familiar(share: float) -> None:
    watch = NoveltyWatch(LIMITS, Events())
    for _ in range(20):
        assert not watch.update(share)


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
