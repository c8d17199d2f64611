"""Metrics of unsupervised segmentation: one confusion matrix for a whole split, clusters matched to classes.

Percentages are 0-100. Mean IoU is over the ground-truth classes that occur in the split: a class that no
mask holds has no IoU, though predicting it costs the classes it is predicted on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.classes import is_unsure
from il2vseg.base.images import Labels

IGNORE = 255
UNASSIGNED = -1
"""The class of a cluster that stands for none: its pixels are wrong wherever they are."""

Counts = NDArray[np.int64]
"""Pixels of cluster k on class c: (K, C)."""

Assignment = NDArray[np.int64]
"""The class of every cluster (K,), or UNASSIGNED."""


class Confusion:
    """Counts of predicted clusters against true classes, over as many images as it is given."""

    def __init__(self, num_clusters: int, num_classes: int):
        self.counts: Counts = np.zeros((num_clusters, num_classes), np.int64)

    def update(self, predicted: Labels, truth: Labels) -> None:
        """Add an image.

        Args:
            predicted: cluster ids below num_clusters, any shape.
            truth: class ids below num_classes, or 255 = ignore; the same shape.
        Raises:
            ValueError: the shapes differ, or an id is out of range.
        """
        if predicted.shape != truth.shape:
            raise ValueError(f"prediction {predicted.shape} and truth {truth.shape} differ in shape")
        clusters, classes = self.counts.shape
        counted = truth != IGNORE
        k, c = predicted[counted].astype(np.int64), truth[counted].astype(np.int64)
        if k.size and (k.max() >= clusters or c.max() >= classes):
            raise ValueError(f"ids {k.max()} and {c.max()} do not fit {clusters} clusters, {classes} classes")
        self.counts += np.bincount(k * classes + c, minlength=self.counts.size).reshape(clusters, classes)


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix amounts to under one assignment.

    Attributes:
        accuracy: % of counted pixels whose cluster stands for their class.
        miou: mean over the classes that occur, %.
        per_class_iou: %; None where the class does not occur.
        unassigned: % of counted pixels whose cluster stands for no class.
    """

    accuracy: float
    miou: float
    per_class_iou: tuple[float | None, ...]
    unassigned: float = 0.0


def hungarian(counts: Counts) -> Assignment:
    """Match clusters to classes one to one, so that most pixels are right.

    With more clusters than classes the clusters left over are UNASSIGNED; with fewer, some classes get none.

    Args:
        counts: (K, C).
    Returns:
        the class of every cluster (K,).
    """
    from scipy.optimize import linear_sum_assignment

    clusters, classes = linear_sum_assignment(counts, maximize=True)
    assignment = np.full(len(counts), UNASSIGNED, np.int64)
    assignment[clusters] = classes
    return assignment


def many_to_one(counts: Counts) -> Assignment:
    """Give every cluster the class that it covers most; UNASSIGNED for a cluster that covers nothing.

    Args:
        counts: (K, C).
    Returns:
        the class of every cluster (K,).
    """
    return np.where(counts.any(1), counts.argmax(1), UNASSIGNED).astype(np.int64)


def score(counts: Counts, assignment: Assignment) -> Scores:
    """Score a confusion matrix (K, C) under an assignment (K,).

    IoU of a class = right / (all pixels of the class + pixels given that class elsewhere).
    """
    classes = counts.shape[1]
    by_class = np.zeros((classes, classes), np.int64)  # (given, true)
    for given in range(classes):
        by_class[given] = counts[assignment == given].sum(0)
    right = np.diag(by_class)
    occurring = counts.sum(0)
    union = occurring + by_class.sum(1) - right
    ious = [float(100 * r / u) if n else None for r, u, n in zip(right, union, occurring, strict=True)]
    present = [iou for iou in ious if iou is not None]
    total = int(occurring.sum())
    return Scores(
        accuracy=float(100 * right.sum() / total) if total else 0.0,
        miou=float(np.mean(present)) if present else 0.0,
        per_class_iou=tuple(ious),
        unassigned=float(100 * counts[assignment == UNASSIGNED].sum() / total) if total else 0.0,
    )


def transfer(assignment: Sequence[int], source: Sequence[str], target: Sequence[str]) -> Assignment:
    """Carry an assignment over to a data set with other classes, by name.

    A class that `target` does not have becomes its "not X" class where X is another name: with targets
    "not water" and "water", all but water is "not water". Otherwise, and where it is named unsure, it is
    UNASSIGNED.

    Args:
        assignment: class of every cluster as an index into `source`, or UNASSIGNED.
        source: class names that it was found with.
        target: class names to score against.
    """
    moved = []
    for class_id in assignment:
        name = source[class_id] if class_id != UNASSIGNED else None
        if name is not None and is_unsure(name):
            moved.append(UNASSIGNED)
            continue
        others = [i for i, t in enumerate(target) if t.startswith("not ") and t.removeprefix("not ") != name]
        moved.append(target.index(name) if name in target else others[0] if others else UNASSIGNED)
    return np.array(moved, np.int64)


def _nearest_labelled(truth: Labels) -> tuple[Labels, NDArray[np.float32]]:
    """Give ignored pixels the class of the nearest labelled one; also return how far that is, in pixels."""
    import cv2

    ignored = (truth == IGNORE).astype(np.uint8)
    if not ignored.any() or ignored.all():
        return truth, np.where(ignored, np.float32(np.inf), np.float32(0))
    distance, index = cv2.distanceTransformWithLabels(
        ignored, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    classes = np.zeros(int(index.max()) + 1, np.uint8)
    labelled = ignored == 0
    classes[index[labelled]] = truth[labelled]
    return classes[index], np.asarray(distance, dtype=np.float32)


def boundary(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a region (H, W) with one of their four neighbours outside it.

    The border of the image is no boundary.
    """
    edge = np.zeros_like(region)
    edge[:, :-1] |= ~region[:, 1:]
    edge[:, 1:] |= ~region[:, :-1]
    edge[:-1] |= ~region[1:]
    edge[1:] |= ~region[:-1]
    return edge & region


def _distance_to(pixels: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the Euclidean distance of every pixel to the nearest of `pixels`; infinite without any."""
    import cv2

    if not pixels.any():
        return np.full(pixels.shape, np.inf, np.float32)
    # The precise mask: the 5x5 one is off by up to 2 %.
    away = cv2.distanceTransform((~pixels).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away, dtype=np.float32)


class BoundaryScore:
    """Boundary F of every class over a split: do predicted class outlines lie near the true ones?

    Outline pixels within the tolerance (Euclidean, in pixels of the masks) of the other outline are matched;
    F is the harmonic mean of the matched shares of both, counted over the whole split.

    Ignored pixels take the nearest true class, so that a thin ignored seam between two classes still has
    an outline in its middle; outlines deeper inside an ignored area than the tolerance do not count.
    """

    def __init__(self, num_classes: int, tolerances: Sequence[float] = (2, 5)):
        self.num_classes = num_classes
        self.tolerances = tuple(tolerances)
        self.counts: Counts = np.zeros((len(self.tolerances), num_classes, 4), np.int64)
        """For each tolerance and class: predicted outline matched, in all; true outline matched, in all."""

    def update(self, predicted: Labels, truth: Labels) -> None:
        """Add an image: class ids (H, W) of both (predicted may hold ids >= C, which are no class)."""
        filled, depth = _nearest_labelled(truth)
        for class_id in range(self.num_classes):
            region, true_region = predicted == class_id, filled == class_id
            if not region.any() and not true_region.any():
                continue
            mine, true = boundary(region), boundary(true_region)
            to_true, to_mine = _distance_to(true), _distance_to(mine)
            for i, tolerance in enumerate(self.tolerances):
                judged, reach = depth <= tolerance, tolerance + 1e-3
                mine_judged, true_judged = mine & judged, true & judged
                self.counts[i, class_id] += (
                    (to_true[mine_judged] <= reach).sum(),
                    mine_judged.sum(),
                    (to_mine[true_judged] <= reach).sum(),
                    true_judged.sum(),
                )

    def per_class(self, tolerance: float) -> tuple[float | None, ...]:
        """Return F of every class in %; None where the truth has no outline of it."""
        scores: list[float | None] = []
        for near_mine, mine, near_true, true in self.counts[self.tolerances.index(tolerance)].tolist():
            precision, recall = near_mine / max(mine, 1), near_true / max(true, 1)
            f = 200 * precision * recall / (precision + recall) if near_mine and near_true else 0.0
            scores.append(f if true else None)
        return tuple(scores)

    def mean(self, tolerance: float) -> float | None:
        """Return the mean F over the classes that have an outline, in %; None without any."""
        present = [f for f in self.per_class(tolerance) if f is not None]
        return float(np.mean(present)) if present else None


def water_edge(water: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the row where the water begins in every column: the top of its longest vertical run.

    The longest run, so that a speck of water in the sky, or a reflection taken for land, does not decide.

    Args:
        water: (H, W), which pixels are water.
    Returns:
        rows (W,); H where the column holds no water.
    """
    height = len(water)
    rows = np.arange(height)[:, None]
    last_dry = np.maximum.accumulate(np.where(water, -1, rows), 0)
    run = rows - last_dry
    end = run.argmax(0)
    top = last_dry[end, np.arange(water.shape[1])] + 1
    return np.where(water.any(0), top, height).astype(np.int64)


@dataclass
class WaterEdge:
    """Root mean square error of the water edge over the columns of a split, in pixels of the masks.

    Columns whose true edge borders on ignored pixels, or that hold no water or nothing else, do not count.
    """

    squares: int = 0
    columns: int = 0

    def update(
        self, predicted: NDArray[np.bool_], truth: NDArray[np.bool_], ignored: NDArray[np.bool_]
    ) -> None:
        """Add an image: which pixels (H, W) are predicted water, true water, and not to be judged."""
        edge = water_edge(truth)
        inside = (edge > 0) & (edge < len(truth))
        x = np.flatnonzero(inside)
        x = x[~ignored[edge[x] - 1, x]]
        error = water_edge(predicted)[x] - edge[x]
        self.squares += int((error**2).sum())
        self.columns += len(x)

    @property
    def rmse(self) -> float | None:
        """The error in pixels; None when no column counted."""
        return float(np.sqrt(self.squares / self.columns)) if self.columns else None


def apply(assignment: Assignment, clusters: Labels, no_class: int = IGNORE - 1) -> Labels:
    """Turn cluster ids (any shape) into class ids; UNASSIGNED clusters become `no_class`."""
    table = np.where(assignment == UNASSIGNED, no_class, assignment).astype(np.uint8)
    return table[clusters]
