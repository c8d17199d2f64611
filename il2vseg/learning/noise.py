"""Smooth noise: what light, waves, foam and clouds are made of."""

import cv2
import numpy as np
from numpy.typing import NDArray


def smooth_noise(
    rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int], deviation: float = 1.0
) -> NDArray[np.float32]:
    """Normal noise (h, w) that is smooth between so many cells down and across."""
    coarse = rng.normal(0.0, deviation, cells).astype(np.float32)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), dtype=np.float32)
