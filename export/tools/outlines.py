"""Connected pieces of label images, with outlines along the edges of their pixels."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Labels

MAX_AREA_CHANGE = 0.02
"""Share of a piece's area by which a simpler outline may differ from it."""


@dataclass(frozen=True)
class Region:
    """A connected piece of a class.

    Attributes:
        outline: corners (N, 2) of its outer edge, x before y. A pixel is a square, (0, 0) the upper left
            corner of the image: a piece of one pixel has four corners and an area of 1.
        area: pixels, those of holes not counted. holes: whether it has some, which an outline cannot tell.
        corner, mask: left and top of its box, and its pixels (h, w) in that.
    """

    class_id: int
    outline: NDArray[np.float64]
    area: float
    holes: bool
    corner: tuple[int, int]
    mask: NDArray[np.bool_]

    @property
    def box(self) -> list[float]:
        """Left, top, width and height."""
        height, width = self.mask.shape
        return [float(v) for v in (*self.corner, width, height)]


def regions(labels: Labels, classes: int, min_area: float = 0.0, tolerance: float = 1.0) -> list[Region]:
    """Find all connected pieces, largest first.

    Args:
        labels: class ids (H, W). classes: their number; larger ids are of no class.
        min_area: share of the image that a piece has at least. tolerance: of the outline, in pixels; it is
            not used up where it would change the area, as of a mast of two pixels.
    """
    found = [
        region
        for class_id in range(classes)
        for region in _pieces(labels == class_id, class_id, max(1.0, min_area * labels.size), tolerance)
    ]
    return sorted(found, key=lambda region: -region.area)


def _pieces(mask: NDArray[np.bool_], class_id: int, least: float, tolerance: float) -> Iterator[Region]:
    _, numbers, statistics, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    for number in range(1, len(statistics)):
        left, top, width, height, area = (int(v) for v in statistics[number])
        if area < least:
            continue
        piece = np.asarray(numbers[top : top + height, left : left + width] == number)
        outline, holes = _outline(piece, tolerance, area)
        yield Region(class_id, np.add(outline, (left, top)), float(area), holes, (left, top), piece)


def _outline(piece: NDArray[np.bool_], tolerance: float, area: int) -> tuple[NDArray[np.float64], bool]:
    """The outer edge (N, 2) of a piece (h, w), and whether it has holes.

    OpenCV's contours run through the centres of border pixels. In an image of twice the size every pixel is
    four, and the coordinates tell on which side of it a border lies: even ones are left or upper halves, so
    the edge is at half of them; odd ones are right or lower halves, so it is one further.
    """
    double = np.repeat(np.repeat(piece.view(np.uint8), 2, 0), 2, 1)
    contours, tree = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outer = next(contour for contour, node in zip(contours, tree[0], strict=True) if node[3] < 0)
    edge = (outer + 1) // 2
    simple = cv2.approxPolyDP(edge, tolerance, closed=True)
    filled = cv2.contourArea(edge)
    if len(simple) < 3 or abs(cv2.contourArea(simple) - filled) > MAX_AREA_CHANGE * area:
        simple = cv2.approxPolyDP(edge, 0.0, closed=True)
    return simple[:, 0].astype(np.float64), len(contours) > 1
