"""The result of a frame: the frame, its classes, and how to draw them.

result = model("river.jpg")
result.labels, result.fractions, result.obstacles
result.save("overlay.png")
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame, Labels, encode_image, write_image
from il2vseg.base.outputs import protect
from il2vseg.base.palette import class_colors
from il2vseg.runtime import overlay
from il2vseg.runtime.manifest import ClassInfo
from il2vseg.runtime.marine.scene import Obstacle, Scene
from il2vseg.runtime.sources.base import Captured

if TYPE_CHECKING:
    import supervision

Scores = NDArray[np.float32]
"""Cluster scores of a frame (C, h, w); each position's scores are a distribution over C."""


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """A frame and what a model found in it. Sinks take it and need nothing else.

    Attributes:
        captured: the frame with its number, name and times.
        labels: class ids (H, W) of the frame's own size, indices into `classes`.
        scores: cluster scores (C, h, w); a class has one cluster or several.
        classes: name and colour of every class.
        latency_ms: milliseconds by step so far. done: unix seconds when the labels were there.
        scene: what the marine layer found; None where it is off or the classes are of another kind.
        dropped: frames of a live source lost so far. fps: frames per second lately; 0 while unknown.
        rate: nominal frames per second of the source, None where it has none. live: whether it is live.
        opacity: of the colours over the frame, 0 to 1.
        confidence: how like the training a cell (h, w) is, 0 to 1; None where the model cannot tell.
        unlike: share of the frame, 0 to 1, that is unlike the training footage; None as above.
        blind: why the source shows nothing, None while it does or nobody looked.
        file: the image that a model was given as a path; None of other frames.
    """

    captured: Captured
    labels: Labels
    scores: Scores
    classes: tuple[ClassInfo, ...]
    latency_ms: dict[str, float] = field(default_factory=dict)
    done: float = field(default_factory=time.time)
    scene: Scene | None = None
    dropped: int = 0
    fps: float = 0.0
    rate: float | None = None
    live: bool = False
    opacity: float = overlay.DEFAULT_OPACITY
    confidence: NDArray[np.float32] | None = None
    unlike: float | None = None
    blind: str | None = None
    file: Path | None = None

    @classmethod
    def of(cls, frame: Frame, labels: Labels, names: Sequence[str], name: str = "frame") -> "Result":
        """Make a result of labels that come from elsewhere, to draw it or to hand it to a sink.

        Args:
            frame: BGR (H, W, 3). labels: class ids (H, W). names: of the classes. name: of the frame.

        >>> import numpy as np
        >>> Result.of(np.zeros((2, 2, 3), np.uint8), np.uint8([[0, 0], [1, 0]]), ["water", "sky"])
        Result(frame, 2x2: 75 % water, 25 % sky)
        """
        classes = tuple(ClassInfo(n, c) for n, c in zip(names, class_colors(names), strict=True))
        shares = np.array(class_fractions(labels, len(names)), np.float32)
        return cls(Captured(frame, 0, name), labels, shares.reshape(-1, 1, 1), classes)

    @property
    def frame(self) -> Frame:
        """The picture (H, W, 3), BGR, of which this is the result."""
        return self.captured.frame

    @property
    def name(self) -> str:
        """Name of the frame: its file's without the suffix, or frame_000042."""
        return self.captured.name

    @property
    def index(self) -> int:
        """Number of the frame in its source, from 0."""
        return self.captured.index

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their ids."""
        return tuple(c.name for c in self.classes)

    @cached_property
    def fractions(self) -> dict[str, float]:
        """Share of the frame, in [0, 1], by class name."""
        return dict(zip(self.names, class_fractions(self.labels, len(self.classes)), strict=True))

    @property
    def obstacles(self) -> tuple[Obstacle, ...]:
        """What stands in the water, nearest first; () where there is no marine layer."""
        return () if self.scene is None else self.scene.obstacles

    def named(self, name: str) -> "Result":
        """The same, with another name."""
        return replace(self, captured=replace(self.captured, name=name))

    def draw(self, opacity: float | None = None, *, legend: bool = True) -> Frame:
        """Draw the classes over the frame, with what the marine layer found.

        Args:
            opacity: of the colours, 0 to 1; None for `self.opacity`. legend: names, shares and frame rate.
        Returns:
            a new BGR picture (H, W, 3) of the frame's own size.
        """
        opacity = self.opacity if opacity is None else opacity
        picture = overlay.blend(self.frame, self.labels, self.classes, opacity)
        if self.scene is not None:
            overlay.draw_scene(picture, self.scene)
        if legend:
            overlay.draw_legend(picture, self.classes, self.fractions, self.fps)
        return picture

    @cached_property
    def overlay(self) -> Frame:
        """The picture of `draw`, made once for all sinks that want it. Not to be written to."""
        return self.draw()

    def save(self, path: str | Path) -> Path:
        """Write the picture of `draw`; the suffix of `path` chooses the format. Returns the path.

        Raises:
            UserError: no image format has this suffix, the file cannot be written, or it is the image itself.
        """
        path = Path(path)
        protect([path], [] if self.file is None else [self.file], advice="choose another name")
        try:
            write_image(path, self.overlay)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None
        return path

    @cached_property
    def record(self) -> dict[str, Any]:
        """The JSON object of the frame, as in the JSONL."""
        times = {"position_s": self.captured.position_s, "recorded": self.captured.recorded}
        return {
            "type": "frame",
            "index": self.index,
            "name": self.name,
            **{k: round(v, 6) for k, v in times.items() if v is not None},
            "captured": round(self.captured.unix, 6),
            "done": round(self.done, 6),
            "latency_ms": {k: round(v, 3) for k, v in self.latency_ms.items()},
            "classes": {k: round(v, 6) for k, v in self.fractions.items()},
            "dropped": self.dropped,
            "fps": round(self.fps, 2),
            **({"blind": self.blind} if self.blind is not None else {}),
            **({"unlike": round(self.unlike, 4)} if self.unlike is not None else {}),
            **({"marine": self.scene.to_dict()} if self.scene is not None else {}),
        }

    def to_coco(self) -> list[dict[str, Any]]:
        """The classes as COCO annotations with compressed run lengths, one for each class in the frame.

        Returns:
            dictionaries with category_id (the class id), category, segmentation, area and bbox.
        Raises:
            UserError: pycocotools is not installed.
        """
        try:
            from pycocotools import mask as coco
        except ImportError:
            raise UserError("COCO run lengths need pycocotools (pip install 'il2vseg[interop]')") from None
        annotations = []
        for class_id, mask in self._masks():
            rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
            annotations.append(
                {
                    "category_id": class_id,
                    "category": self.names[class_id],
                    "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
                    "area": int(coco.area(rle)),
                    "bbox": [float(v) for v in coco.toBbox(rle)],
                    "iscrowd": 0,
                }
            )
        return annotations

    def to_supervision(self) -> "supervision.Detections":
        """The classes as `supervision.Detections`, one mask for each class in the frame.

        Raises:
            UserError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise UserError("supervision is not installed (pip install 'il2vseg[interop]')") from None
        found = self._masks()
        if not found:
            return supervision.Detections.empty()
        ids = np.array([class_id for class_id, _ in found])
        masks = np.stack([mask for _, mask in found])
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks).astype(np.float32),
            mask=masks,
            class_id=ids,
            data={"class_name": np.array([self.names[i] for i in ids])},
        )

    def _masks(self) -> list[tuple[int, NDArray[np.bool_]]]:
        """Id and mask (H, W) of every class that is in the frame."""
        masks = ((i, self.labels == i) for i in range(len(self.classes)))
        return [(i, mask) for i, mask in masks if mask.any()]

    def __repr__(self) -> str:
        height, width = self.labels.shape
        shares = sorted(self.fractions.items(), key=lambda item: -item[1])
        parts = [", ".join(f"{100 * share:.0f} % {name}" for name, share in shares if share)]
        if self.scene is not None:
            count = len(self.scene.confirmed)
            parts.append(f"{count} obstacle{'' if count == 1 else 's'}")
        return f"Result({self.name}, {width}x{height}: {'; '.join(parts)})"

    def _repr_png_(self) -> bytes:
        """The picture, for notebooks."""
        return encode_image(".png", self.overlay)


def class_fractions(labels: Labels, classes: int) -> list[float]:
    """Return the share of each of `classes` classes, in [0, 1], of what is of a class in labels (H, W)."""
    counts = np.ravel(cv2.calcHist([labels], [0], None, [classes], [0, classes]))
    return [float(n) for n in counts / max(1.0, float(counts.sum()))]
