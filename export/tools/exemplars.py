"""The picture of what every cluster shows: frames of the footage in which it occurs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.ignore import IGNORED, IgnoreMask
from il2vseg.base.images import Frame, Labels, resize_frame, resize_labels, write_image

if TYPE_CHECKING:
    from il2vseg.data import Dataset
    from il2vseg.export.tools.naming import NamedModel

EXEMPLARS = 7
"""Frames shown of each cluster."""

SEEN_SHARE = 0.01
"""Share of a frame that a cluster must cover to be shown in it."""

CELL = 240


@dataclass(frozen=True)
class Survey:
    """Where clusters occur in some footage: shares (N, K) of each of N frames, and the frames."""

    shares: NDArray[np.float64]
    frames: tuple[Frame, ...]
    labels: tuple[Labels, ...]

    def unseen(self) -> list[int]:
        """Clusters that no frame shows."""
        return np.flatnonzero(self.shares.max(0) < SEEN_SHARE).tolist()

    def exemplars(self, cluster: int) -> list[int]:
        """Up to EXEMPLARS frames, in order; each stands for an equal part of the cluster's pixels."""
        seen = np.flatnonzero(self.shares[:, cluster] >= SEEN_SHARE)
        if not len(seen):
            return []
        cumulative = self.shares[seen, cluster].cumsum()
        wanted = (np.arange(EXEMPLARS) + 0.5) / EXEMPLARS * cumulative[-1]
        return [int(i) for i in np.unique(seen[np.searchsorted(cumulative, wanted)])]


def survey(model: "NamedModel", dataset: "Dataset", ignore: IgnoreMask | None = None) -> Survey:
    """Segment the footage and count what occurs where; frames are kept small.

    Args:
        ignore: what belongs to the own vessel in every frame, and shows no cluster.
    """
    shares, frames, labels = [], [], []
    height = round(CELL * model.size[0] / model.size[1])
    if model.clusters is not None:
        model.clusters.begin()
    for i, sample in enumerate(dataset):
        frame = resize_frame(sample.frame, model.size)
        predicted = model.predict(frame)
        if model.clusters is not None:
            model.clusters.look(i, len(dataset), ignore)
        if ignore is not None:
            predicted = np.where(ignore.pixels(predicted.shape), np.uint8(IGNORED), predicted)
        counted = predicted[predicted != IGNORED]
        shares.append(np.bincount(counted, minlength=len(model.names)) / max(1, counted.size))
        frames.append(resize_frame(frame, (height, CELL)))
        labels.append(resize_labels(predicted, (height, CELL)))
    return Survey(np.stack(shares), tuple(frames), tuple(labels))


def write_exemplars(
    path: Path, found: Survey, names: Sequence[str], purity: Sequence[str] | None = None
) -> None:
    """Write one picture: a row per cluster, frames in which it occurs, everything else of them dimmed.

    Args:
        purity: a few words per cluster, comma-separated, one line each in the picture.
    """
    height = found.frames[0].shape[0]
    rows = []
    for cluster, name in enumerate(names):
        row = np.full((height + 4, 120 + EXEMPLARS * (CELL + 4), 3), 255, np.uint8)
        share = f"{100 * found.shares[:, cluster].mean():.1f} %"
        remarks = purity[cluster].split(", ") if purity is not None else []
        for line, text in enumerate((str(cluster), name, share, *remarks)):
            at, size = (8, 20 + 19 * line), 0.5 if line < 3 else 0.4
            cv2.putText(row, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (40, 40, 40), 1, cv2.LINE_AA)
        for i, index in enumerate(found.exemplars(cluster)):
            mask = (found.labels[index] == cluster).astype(np.uint8)
            picture = np.where(mask[..., None] > 0, found.frames[index], found.frames[index] // 4)
            picture = np.ascontiguousarray(picture, dtype=np.uint8)
            outline = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]
            cv2.drawContours(picture, outline, -1, (0, 255, 255), 1)
            left = 120 + i * (CELL + 4)
            row[2 : 2 + height, left : left + CELL] = picture
        rows.append(row)
    write_image(path, np.vstack(rows))
