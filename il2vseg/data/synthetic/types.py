"""What the modules of the renderer share: arrays, colours, classes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASS_NAMES = ("obstacle", "water", "sky")
PALETTE = ((247, 195, 37), (41, 167, 224), (90, 75, 164))
OBSTACLE, WATER, SKY = 0, 1, 2


Picture = NDArray[np.uint8]
"""BGR (rows, columns, 3) uint8 of any part of the canvas."""

Floats = NDArray[np.float32]
Bgr = tuple[float, float, float]
Points = list[tuple[float, float]]


def mix(low: NDArray[Any] | Bgr, high: NDArray[Any] | Bgr, weight: Floats | float) -> Floats:
    start = np.asarray(low, np.float32)
    return np.asarray(start + (np.asarray(high, np.float32) - start) * weight, dtype=np.float32)
