"""Steadier labels: an exponential average of the scores that follows the motion of the picture.

A plain average blurs moving things. Here the average of the frames before is first carried along the optical
flow (OpenCV's DIS), and counts less where the carried picture does not look like the new one: there something
appeared, or was hidden before.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Frame
from il2vseg.runtime.result import Scores

_CELL = 6
"""Pixels of the flow's picture per cell of the scores, at most: enough to follow a boat, and cheap."""

_WIDEST = 320
"""Pixels of the flow's picture across, where the cells of the scores are small."""

_SMALLEST_SIDE = 64
"""Pixels; DIS crashes on pictures that its patches do not fit into."""

_LIKENESS = 12.0
"""Grey levels of difference at which the past counts e times less."""


class Smoother:
    """An average of scores over time, as a `Stabiliser`.

    engine = open_engine(folder, stabiliser=Smoother(0.7))
    """

    def __init__(self, weight: float = 0.7, *, flow: bool = True) -> None:
        """Prepare.

        Args:
            weight: of the past, from 0 (none) to below 1; the average spans about 1 / (1 - weight) frames.
            flow: carry the past along the motion of the picture; without it, it stays where it was.
        """
        self._weight = weight
        self._flow = flow
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._past: tuple[NDArray[np.uint8], Scores] | None = None

    def __call__(self, frame: Frame, scores: Scores) -> Scores:
        """Return the average of `scores` (C, h, w) and those before; each position still sums to 1.

        Args:
            frame: BGR (H, W, 3), of the size and view that the scores belong to.
        """
        _, h, w = scores.shape
        cell = max(1, min(_CELL, _WIDEST // w), -(-_SMALLEST_SIDE // min(h, w)))
        small = cv2.resize(frame, (cell * w, cell * h), interpolation=cv2.INTER_AREA)
        gray = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
        if self._past is None or self._past[1].shape != scores.shape or not self._weight:
            steady = scores
        elif self._flow:
            carried, likeness = self._carried(gray, *self._past)
            weight = self._weight * likeness
            steady = (1 - weight) * scores + weight * carried
        else:
            steady = (1 - self._weight) * scores + self._weight * self._past[1]
        self._past = gray, steady
        return steady

    def _carried(
        self, gray: NDArray[np.uint8], before: NDArray[np.uint8], past: Scores
    ) -> tuple[Scores, NDArray[np.float32]]:
        """Return the past scores (C, h, w) where they are now, and how far (h, w) to trust them, 0 to 1."""
        _, h, w = past.shape
        # From each pixel of the new picture to where it was: that is what remap needs.
        motion = self._dis.calc(gray, before, np.zeros((*gray.shape, 2), np.float32))
        rows, columns = np.mgrid[: gray.shape[0], : gray.shape[1]].astype(np.float32)
        origin = columns + motion[..., 0], rows + motion[..., 1]
        moved = cv2.remap(before, *origin, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        difference = cv2.absdiff(gray, moved).astype(np.float32)
        difference[(origin[0] < 0) | (origin[0] > gray.shape[1] - 1)] = 255.0  # came in from the side
        difference[(origin[1] < 0) | (origin[1] > gray.shape[0] - 1)] = 255.0
        cells = cv2.resize(difference, (w, h), interpolation=cv2.INTER_AREA)
        likeness = np.exp(-((cells / _LIKENESS) ** 2)).astype(np.float32)
        shift = cv2.resize(motion, (w, h), interpolation=cv2.INTER_AREA) * (w / gray.shape[1])
        rows, columns = np.mgrid[:h, :w].astype(np.float32)
        stacked = np.ascontiguousarray(past.transpose(1, 2, 0))
        carried = _remap(stacked, columns + shift[..., 0], rows + shift[..., 1])
        return np.ascontiguousarray(carried.transpose(2, 0, 1)), likeness


def _remap(
    values: NDArray[np.float32], columns: NDArray[np.float32], rows: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Sample distributions (h, w, C) bilinearly; OpenCV's remap takes four channels at a time."""
    parts = [
        cv2.remap(
            np.ascontiguousarray(values[..., i : i + 4]),
            columns,
            rows,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        for i in range(0, values.shape[2], 4)
    ]
    sampled = np.concatenate([p.reshape(*columns.shape, -1) for p in parts], axis=2).astype(np.float32)
    # OpenCV interpolates with other roundings for other numbers of channels; over time that would add up.
    return np.asarray(sampled / sampled.sum(2, keepdims=True), dtype=np.float32)
