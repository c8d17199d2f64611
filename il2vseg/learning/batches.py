"""What a step of a distillation sees, made ahead by worker processes where there are cores for it.

A batch is a function of the seed and the step, so the number of workers changes nothing but the time. The
workers have NumPy and OpenCV alone.
"""

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Frame, decode_frame
from il2vseg.learning.paste import Cutout, Pasting, cut_out, paste
from il2vseg.learning.restyle import Restyling, restyle
from il2vseg.learning.views import Augmentation, draw_view, vary_colours, warp_frame

TEXTURES = 3
"""Patches of other frames for a crop to paste."""


@dataclass(frozen=True)
class Batch:
    """Crops and where they come from.

    Attributes:
        chosen: frames (B,). views: (B, 2, 3) float64, see `draw_view`. crops: BGR (B, h, w, 3).
        solid: share (B, h/s, w/s) uint8, 0 to 255, of every cell of the scores that was pasted over.
        weight: (B, h/s, w/s) float32, how much a cell counts.
    """

    chosen: NDArray[np.int64]
    views: NDArray[np.float64]
    crops: NDArray[np.uint8]
    solid: NDArray[np.uint8]
    weight: NDArray[np.float32]


@dataclass(frozen=True)
class Standing:
    """What pasting needs: which classes are obstacle and what it stands on, and how much of it."""

    ground: int
    obstacle: int
    pasting: Pasting = field(default_factory=Pasting)


@dataclass(frozen=True)
class Looks:
    """What restyling needs: the classes that waves and clouds are drawn on; None where there is none."""

    ground: int | None
    sky: int | None
    restyling: Restyling = field(default_factory=Restyling)


@dataclass(frozen=True)
class Batches:
    """Makes the batch of any step.

    Attributes:
        frames: encoded images of the student's size. scores: the targets (n, C, gh, gw) uint8.
        size: (H, W) of the frames. crop: (h, w). stride: pixels along a cell of the student's scores.
        standing: pastes obstacles; None pastes nothing. looks: restyles regions; None leaves them.
    """

    frames: Sequence[bytes]
    scores: NDArray[np.uint8]
    size: tuple[int, int]
    crop: tuple[int, int]
    stride: int
    batch: int
    seed: int
    augmentation: Augmentation
    standing: Standing | None = None
    looks: Looks | None = None

    def __call__(self, step: int) -> Batch:
        """Draw the batch of a step."""
        rng = np.random.default_rng((self.seed, step))
        chosen = rng.choice(len(self.frames), min(self.batch, len(self.frames)), replace=False)
        grid = (self.crop[0] // self.stride, self.crop[1] // self.stride)
        views, crops, solids, weights = [], [], [], []
        for i in chosen:
            view = draw_view(rng, self.size, self.crop, self.augmentation)
            crop = warp_frame(self._frame(i), view, self.crop)
            solid, weight = np.zeros(grid, np.uint8), np.ones(grid, np.float32)
            cover = cache(partial(self._cover, i, view))
            if (looks := self.looks) is not None:
                regions = [cover(label) for label in range(self.scores.shape[1])]
                crop = restyle(rng, crop, regions, looks.ground, looks.sky, looks.restyling)
            if self.standing is not None:
                ground = cover(self.standing.ground)
                textures, cutouts = self._things(rng)
                pasted = paste(rng, crop, ground, textures, cutouts, self.standing.pasting)
                crop = pasted.frame
                solid = np.asarray(_shrink(pasted.solid, grid), dtype=np.uint8)
                weight = np.asarray(_shrink(pasted.weight, grid), dtype=np.float32)
            views.append(view)
            crops.append(vary_colours(rng, crop, self.augmentation))
            solids.append(solid)
            weights.append(weight)
        return Batch(chosen, np.stack(views), np.stack(crops), np.stack(solids), np.stack(weights))

    def _frame(self, index: int) -> Frame:
        return decode_frame(self.frames[index])

    def _cover(self, index: int, view: NDArray[np.float64], label: int) -> NDArray[np.float32]:
        """Probability (h, w) of a class in a view."""
        scores = self.scores[index, label]
        size = (self.size[1], self.size[0])
        whole = np.asarray(cv2.resize(scores, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
        return np.asarray(warp_frame(whole, view, self.crop) / 255, dtype=np.float32)

    def _things(self, rng: np.random.Generator) -> tuple[list[Frame], list[Cutout]]:
        """Draw patches of solid things from a few frames, and what stands on the ground there."""
        assert self.standing is not None
        textures: list[Frame] = []
        cutouts: list[Cutout] = []
        # Most of the time one other frame is enough: decoding costs as much as pasting.
        index = int(rng.integers(len(self.frames)))
        solid = self.scores[index, self.standing.obstacle]
        cells = np.argwhere(solid > 200)
        if not len(cells):
            return textures, cutouts
        frame = self._frame(index)
        scale = self.size[0] / solid.shape[0]
        for y, x in cells[rng.integers(len(cells), size=TEXTURES)]:
            half = int(rng.integers(4, 32))
            top, left = max(0, int(y * scale) - half), max(0, int(x * scale) - half)
            textures.append(frame[top : top + 2 * half, left : left + 2 * half])
        boxes = afloat(solid, self.scores[index, self.standing.ground])
        if boxes:
            whole = cv2.resize(solid, (self.size[1], self.size[0]), interpolation=cv2.INTER_LINEAR) > 127
            scaled = [
                (int(a * scale), int(b * scale), int(c * scale), int(d * scale)) for a, b, c, d in boxes
            ]
            cutouts = cut_out(frame, whole, scaled)
        return textures, cutouts


def afloat(solid: NDArray[np.uint8], ground: NDArray[np.uint8]) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, width, height) of pieces that stand in water or on a road, in cells of the targets.

    Args:
        solid, ground: probabilities (gh, gw) times 255.
    """
    height, width = solid.shape
    mask = (solid > 127).astype(np.uint8)
    count, _, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    found = []
    for i in range(1, count):
        left, top, w, h, area = (int(v) for v in statistics[i])
        if area < 12 or w > width // 3 or left == 0 or left + w == width or top + h >= height - 1:
            continue
        rim = ground[top : top + h + 1, left - 1 : left + w + 1] > 127
        # The lower row of the surroundings and half of both sides are ground.
        sides = (rim[h // 2 :, 0].mean() + rim[h // 2 :, -1].mean()) / 2
        if rim[-1].mean() > 0.7 and sides > 0.7:
            found.append((left, top, w, h))
    return found


def _shrink(values: NDArray[Any], grid: tuple[int, int]) -> NDArray[Any]:
    """Average (h, w) over the cells of a grid."""
    return cv2.resize(values, (grid[1], grid[0]), interpolation=cv2.INTER_AREA)


_batches: Batches | None = None


def _adopt(batches: Batches) -> None:
    """In a worker: take over what every batch is made of."""
    global _batches
    cv2.setNumThreads(1)
    _batches = batches


def _make(step: int) -> Batch:
    assert _batches is not None
    return _batches(step)


def ahead(batches: Batches, steps: range, workers: int) -> Iterator[Batch]:
    """Yield the batches of steps in order, made ahead by so many processes; 0 makes each when asked."""
    if workers == 0:
        yield from map(batches, steps)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_adopt, initargs=(batches,)) as pool:
        pending: deque[Future[Batch]] = deque()
        try:
            for step in steps:
                pending.append(pool.submit(_make, step))
                if len(pending) > 3 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
