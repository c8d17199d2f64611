"""An engine maps a frame of any size to class labels of that size.

    engine = open_engine("runs/river/export")
    result = engine(frame)

A `Backend` only runs the graph. Resizing, naming of clusters, stabilisation and timing are done here, once
for all backends.
"""

import time
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.ignore import IGNORED, IgnoreMask
from il2vseg.base.images import Frame, resize_frame, resize_labels
from il2vseg.runtime.manifest import Manifest
from il2vseg.runtime.novelty import unlike_share
from il2vseg.runtime.overlay import DEFAULT_OPACITY
from il2vseg.runtime.result import Result, Scores
from il2vseg.runtime.sources.base import Captured

Outputs = tuple[NDArray[Any], ...]
"""Cluster ids (B, H, W) uint8, scores (B, C, h, w) float32, and what else the manifest lists."""


class Backend(Protocol):
    """Something that runs the graph of a manifest.

    Attributes:
        provider: name as on the command line. batch: most frames of a call.
    """

    @property
    def provider(self) -> str: ...

    @property
    def batch(self) -> int: ...

    def __call__(self, frames: NDArray[np.uint8]) -> Outputs:
        """Run the graph on uint8 BGR (B, H, W, 3)."""
        ...

    def close(self) -> None:
        """Release what the backend holds; it is not called again."""
        ...


class Stabiliser(Protocol):
    """Something that makes the scores of consecutive frames steadier."""

    def __call__(self, frame: Frame, scores: Scores) -> Scores:
        """Map the scores (C, h, w) of `frame` (H, W, 3) to steadier ones."""
        ...


class Engine:
    """A backend with all that makes frames of any size into named classes."""

    def __init__(
        self,
        manifest: Manifest,
        backend: Backend,
        stabiliser: Stabiliser | None = None,
        opacity: float = DEFAULT_OPACITY,
        ignore: IgnoreMask | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            opacity: of the results' colours, between 0 and 1.
            ignore: what belongs to the own vessel; labels are IGNORED (255) there.
        """
        self.manifest = manifest
        self.backend = backend
        self._stabiliser = stabiliser
        self._opacity = opacity
        self._ignore = ignore
        self._class_of_cluster = np.zeros(256, np.uint8)
        self._class_of_cluster[: len(manifest.clusters)] = manifest.clusters

    @property
    def provider(self) -> str:
        """Name of the provider that runs the graph."""
        return self.backend.provider

    def __call__(self, frame: Frame) -> Result:
        """Segment one BGR frame (H, W, 3). The result's latencies are of resize, engine and labels."""
        marks = [time.perf_counter()]
        small = resize_frame(frame, self.manifest.size)
        marks.append(time.perf_counter())
        clusters, scores, *more = self.backend(np.ascontiguousarray(small)[None])
        marks.append(time.perf_counter())
        steady, ids = scores[0], clusters[0]
        if self._stabiliser is not None:
            steady = self._stabiliser(small, steady)
            ids = upsampled_argmax(steady, self.manifest.size)
        classes = np.asarray(cv2.LUT(ids, self._class_of_cluster), dtype=np.uint8)
        labels = resize_labels(classes, (frame.shape[0], frame.shape[1]))
        if self._ignore is not None:
            labels[self._ignore.pixels(labels.shape)] = IGNORED
        marks.append(time.perf_counter())
        steps = ("resize", "engine", "labels")
        spans = zip(steps, marks, marks[1:], strict=False)
        confidence = more[0][0] if more else None
        return Result(
            Captured(frame, 0, "frame", clock=marks[0]),
            labels,
            steady,
            self.manifest.classes,
            {step: 1e3 * (end - start) for step, start, end in spans},
            opacity=self._opacity,
            confidence=confidence,
            unlike=unlike_share(confidence, self.manifest.novelty),
        )

    def close(self) -> None:
        """Release what the backend holds."""
        self.backend.close()


def upsampled_argmax(scores: Scores, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Cluster ids (H, W) from scores (C, h, w), as the graph makes them: bilinear, then argmax."""
    height, width = size
    fine = cv2.resize(
        np.ascontiguousarray(scores.transpose(1, 2, 0)), (width, height), interpolation=cv2.INTER_LINEAR
    )
    return np.asarray(fine.reshape(height, width, -1).argmax(2), dtype=np.uint8)
