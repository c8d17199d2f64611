"""What the pipeline hands to its sinks for every frame."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from il2vseg.base.images import Frame, Labels
from il2vseg.runtime.engine import Result
from il2vseg.runtime.marine.scene import Scene
from il2vseg.runtime.sources.base import Captured


def class_fractions(labels: Labels, classes: int) -> list[float]:
    """Return the share of the frame for each of `classes` classes, in [0, 1]."""
    counts = cv2.calcHist([labels], [0], None, [classes], [0, classes])
    return [float(n) for n in np.ravel(counts) / labels.size]


@dataclass(frozen=True)
class Output:
    """A frame, what was found in it, and views of both that sinks share.

    Attributes:
        fractions: share of the frame by class name. latency_ms: milliseconds by stage so far.
        done: unix seconds when the labels were there. dropped: frames of the source lost so far.
        fps: frames a second lately. scene: what the marine layer found, where it is on.
        paint: makes the overlay; called once at most, whatever the number of sinks that want it.
    """

    captured: Captured
    result: Result
    fractions: dict[str, float]
    latency_ms: dict[str, float]
    done: float
    dropped: int
    fps: float
    paint: Callable[["Output"], Frame]
    scene: Scene | None = None

    @cached_property
    def overlay(self) -> Frame:
        """The picture for people (H, W, 3), of the frame's own size. Not to be written to."""
        return self.paint(self)

    @cached_property
    def record(self) -> dict[str, Any]:
        """The JSON object of the frame."""
        return {
            "type": "frame",
            "index": self.captured.index,
            "name": self.captured.name,
            "captured": round(self.captured.unix, 6),
            "done": round(self.done, 6),
            "latency_ms": {k: round(v, 3) for k, v in self.latency_ms.items()},
            "classes": {k: round(v, 6) for k, v in self.fractions.items()},
            "dropped": self.dropped,
            "fps": round(self.fps, 2),
            **({"marine": self.scene.to_dict()} if self.scene is not None else {}),
        }
