"""Footage unlike the training footage: reported once, when it lasts for a while."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from il2vseg.runtime.manifest import Novelty
from il2vseg.runtime.sources.base import Report

WINDOW = 12
"""Number of recent frames that decide: under five seconds at usual frame rates."""

MANY = 0.75
"""Share of these that must be unlike the training; the state ends below half of it."""

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

    Attributes:
        active: the footage is unlike the training now. frames, unlike: counted so far.
    """

    def __init__(self, novelty: Novelty, report: Report) -> None:
        self._limit = novelty.frame
        self._report = report
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self.active = False
        self.frames = self.unlike = 0

    def update(self, share: float) -> bool:
        """Take the next frame's share of unlike cells; return whether the footage is unlike the training."""
        unlike = share > self._limit
        self._recent.append(unlike)
        self.frames += 1
        self.unlike += unlike
        many = sum(self._recent) / len(self._recent)
        if not self.active and len(self._recent) == WINDOW and many >= MANY:
            self.active = True
            self._report("unlike_training", ADVICE, share=round(share, 3))
        elif self.active and many < MANY / 2:
            self.active = False
            self._report("like_training", "this footage is again like what the model was made from")
        return self.active

    def summary(self) -> str | None:
        """One line for the end of a run, where most of its frames were unlike; else None."""
        if self.frames == 0 or self.unlike < MANY * self.frames:
            return None
        return f"{self.unlike} of {self.frames} frames: {ADVICE}"
