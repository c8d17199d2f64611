"""The event that says that the footage is not the model's."""

import numpy as np
import pytest

from il2vseg.runtime.manifest import Novelty
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
