"""Whether a camera shows anything at all: "no obstacle" from a black picture is worse than no answer."""

import cv2
import numpy as np

from il2vseg.base.images import Frame
from il2vseg.runtime.sources.base import Captured, Report

CHECK_EVERY_S = 0.2
FRAMES = 3
"""Looks in a row that decide, of a clip or a live source; single images decide alone."""

FROZEN_S = 15.0
"""A live picture that is the same to the last bit for so long is no picture: sensors are noisy."""

MIN_EDGE = 4.0
"""Grey levels between neighbouring cells of a 64x36 grid. Where nearly no cell has an edge like that, nothing
is seen. Frames of real cameras have 35 and more, the same in fog with a tenth of the contrast 6."""

MIN_CORRELATION = 0.3
"""Of neighbouring pixels: 0.74 and more in real frames, about 0 in noise."""

_GRID = (64, 36)
_DARK = 20.0


def nothing_to_see(frame: Frame) -> str | None:
    """Say why a frame (H, W, 3) shows nothing, None where it shows something."""
    rows = frame[:: max(1, frame.shape[0] // 64), :, 1].astype(np.float32)
    rows -= rows.mean()
    first, second = rows[:, :-1], rows[:, 1:]
    energy = float(np.sqrt(np.square(first).sum() * np.square(second).sum()))
    noise = energy > 0 and float((first * second).sum()) < MIN_CORRELATION * energy
    cells = cv2.resize(frame, _GRID, interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = cells.mean(2)
    edges = np.hypot(np.diff(grey, axis=0)[:, :-1], np.diff(grey, axis=1)[:-1])
    flat = float(np.quantile(edges, 0.999)) < MIN_EDGE
    if not flat and not noise:
        return None
    if grey.mean() < _DARK:
        return "it is black"
    if not flat:
        return "it is noise"
    return "it has one colour" if cells.std((0, 1)).max() < MIN_EDGE else "it has no detail, as if covered"


class Blindness:
    """Reports when a source shows nothing: camera_blind with a reason, and camera_sees once it does again."""

    def __init__(self, report: Report, *, live: bool) -> None:
        self._report = report
        self._live = live
        self._next = float("-inf")
        self._row: list[str | None] = []
        self._same: tuple[Frame, float] | None = None
        self.reason: str | None = None

    def update(self, captured: Captured) -> str | None:
        """Look at a frame, now and then; return why the source is blind, None while it sees."""
        alone = not self._live and captured.position_s is None
        if not alone and captured.moment < self._next:
            return self.reason
        self._next = captured.moment + CHECK_EVERY_S
        found = nothing_to_see(captured.frame) or self._frozen(captured)
        self._row = [*self._row, found][-(1 if alone else FRAMES) :]
        if len(self._row) < FRAMES and not alone:
            return self.reason
        if self.reason is None and all(self._row):
            self.reason = found
            self._report("camera_blind", f"the picture shows nothing: {found}", reason=found)
        elif self.reason is not None and not any(self._row):
            self.reason = None
            self._report("camera_sees", "the picture shows something again")
        return self.reason

    def _frozen(self, captured: Captured) -> str | None:
        if not self._live:
            return None
        if self._same is None or not np.array_equal(self._same[0], captured.frame):
            self._same = (captured.frame, captured.moment)
            return None
        return "it does not change" if captured.moment - self._same[1] >= FROZEN_S else None
