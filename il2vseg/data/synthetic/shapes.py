"""Polygons in picture and mask alike."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.data.synthetic.types import Picture, Points


def fill(
    picture: Picture, mask: NDArray[np.uint8], points: NDArray[Any], color: NDArray[Any], value: int
) -> None:
    """Fill the polygon `points` (n, 2), to a sixteenth of a pixel, in the picture and in the mask alike."""
    fixed = np.round(points * 16).astype(np.int32)
    cv2.fillPoly(picture, [fixed], color.tolist(), cv2.LINE_8, 4)
    cv2.fillPoly(mask, [fixed], value, cv2.LINE_8, 4)


def box(x: float, y: float, half_width: float, half_height: float) -> Points:
    return [
        (x - half_width, y - half_height),
        (x + half_width, y - half_height),
        (x + half_width, y + half_height),
        (x - half_width, y + half_height),
    ]
