"""Footage unlike the training footage: reported once, when it lasts for a while."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from il2vseg.runtime.manifest import Novelty
from il2vseg.runtime.sources.base import Report

WINDOW_S = 4.0
"""Seconds of footage that decide, so that a change is told of within five at any frame rate."""

FIRST_S, FIRST_FRAMES = 1.0, 12
"""At the beginning so much of it is enough: a short clip, or a few photographs."""

FEWEST = 3
"""Frames that decide where they come more rarely than the window is long."""

MOST = 4096
"""Frames that are kept at most."""

MANY = 0.75
"""Share of the window's frames that must be unlike the training; the state ends below half of it."""

ADVICE = "this footage is unlike what the model was made from: train on yours (il2vseg train)"


def unlike_share(confidence: NDArray[np.float32] | None, novelty: Novelty | None) -> float | None:
    """Share, in [0, 1], of the cells of a frame that are unlike the training footage.

    Args:
        confidence: of the cells (h, w), in [0, 1]; None where the model cannot tell.
    """
    if confidence is None or novelty is None:
        return None
    return float((confidence < novelty.cell).mean())


class NoveltyWatch:
    """Takes the share of unlike cells of frame after frame; reports unlike_training and like_training.

    It counts in seconds of the footage: a slow computer and a quick camera are told of at the same time.

    Attributes:
        active: the footage is unlike the training now. frames, unlike: counted so far.
    """

    def __init__(self, novelty: Novelty, report: Report) -> None:
        self._limit = novelty.frame
        self._report = report
        self._recent: deque[tuple[float, bool]] = deque()
        self._strange = 0  # of the recent ones
        self.active = False
        self.frames = self.unlike = 0

    def update(self, share: float, moment: float) -> bool:
        """Take the next frame; return whether the footage is unlike the training.

        Args:
            share: of its cells that are unlike. moment: of the frame in seconds, on a clock that grows.
        """
        unlike = share > self._limit
        self._recent.append((moment, unlike))
        self.frames += 1
        self.unlike += unlike
        self._strange += unlike
        self._forget(moment - WINDOW_S)
        many = self._strange / len(self._recent)
        if not self.active and self._long_enough() and many >= MANY:
            self.active = True
            self._report("unlike_training", ADVICE, share=round(share, 3))
        elif self.active and many < MANY / 2:
            self.active = False
            self._report("like_training", "this footage is again like what the model was made from")
        return self.active

    def _forget(self, before: float) -> None:
        """Drop frames but the last one before the window: what is left covers it."""
        while len(self._recent) > MOST or (len(self._recent) > FEWEST and self._recent[1][0] <= before):
            self._strange -= self._recent.popleft()[1]

    def _long_enough(self) -> bool:
        covered, frames = self._recent[-1][0] - self._recent[0][0], len(self._recent)
        if frames >= FIRST_FRAMES and covered >= FIRST_S:
            return True
        return frames >= FEWEST and covered >= WINDOW_S

    def summary(self) -> str | None:
        """One line for the end of a run, where most of its frames were unlike; else None."""
        if self.frames == 0 or self.unlike < MANY * self.frames:
            return None
        return f"{self.unlike} of {self.frames} frames: {ADVICE}"
