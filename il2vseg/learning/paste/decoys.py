"""What looks like an obstacle and is water: glitter, foam, wakes, mirrored banks, shadows."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Frame

Weight = NDArray[Any]
"""Coverage (h, w), floats from 0 to 1."""


def _blend(frame: Frame, colour: NDArray[Any] | float, weight: Weight) -> None:
    """Mix a colour, or a picture (h, w, 3), into a frame."""
    rows = np.flatnonzero(weight.any(1))
    if not len(rows):
        return
    some = slice(rows[0], rows[-1] + 1)
    target = colour if isinstance(colour, float) else colour[some]
    part = frame[some].astype(np.float32)
    part += (target - part) * weight[some, :, None]
    frame[some] = part.clip(0, 255)


def glitter(rng: np.random.Generator, frame: Frame, water: Weight, edge: int) -> None:
    """Short bright strokes that grow towards the bottom."""
    h, w = water.shape
    mask = np.zeros((h, w), np.uint8)
    count = int(rng.uniform(20, 250))
    centre, spread = rng.uniform(0, w), rng.uniform(0.05, 0.4) * w
    for depth, x in zip(rng.random(count), rng.normal(centre, spread, count), strict=True):
        y = int(edge + depth * (h - edge))
        half = int(rng.uniform(0.5, 1 + 8 * depth))
        cv2.line(mask, (int(x) - half, y), (int(x) + half, y), 255, 1 + int(depth * rng.random() * 3))
    soft = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.4, 1.0)).astype(np.float32) / 255
    _blend(frame, 255.0, soft * water * np.float32(rng.uniform(0.4, 1.0)))


def foam(rng: np.random.Generator, frame: Frame, water: Weight, edge: int) -> None:
    """Patches of white water, torn and flat."""
    h, w = water.shape
    rows = max(4, (h - edge) // int(rng.integers(2, 8)))
    noise: NDArray[Any] = rng.normal(0, 1, (rows, max(4, w // int(rng.integers(8, 40))))).astype(np.float32)
    noise = cv2.resize(noise, (w, h), interpolation=cv2.INTER_CUBIC)
    fine = rng.normal(0, 0.7, (h // 2 + 1, w // 4 + 1)).astype(np.float32)
    noise = noise + cv2.resize(fine, (w, h), interpolation=cv2.INTER_LINEAR)
    weight = ((noise - rng.uniform(1.4, 2.4)) * 1.5).clip(0, 1).astype(np.float32)
    _blend(frame, rng.uniform(190, 255), weight * water * np.float32(rng.uniform(0.3, 0.9)))


def wake(rng: np.random.Generator, frame: Frame, water: Weight, edge: int) -> None:
    """Two or three bright or dark lines that come together far away."""
    h, w = water.shape
    mask = np.zeros((h, w), np.uint8)
    apex = (int(rng.uniform(0, w)), int(edge + rng.uniform(0.02, 0.5) * (h - edge)))
    for _ in range(int(rng.integers(1, 4))):
        end = (int(rng.uniform(-0.5, 1.5) * w), int(rng.uniform(apex[1], h)))
        cv2.line(mask, apex, end, 255, int(rng.integers(1, 6)), cv2.LINE_AA)
    soft = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.6, 2.5)).astype(np.float32) / 255
    ripples = 0.6 + 0.4 * rng.random((h, 1)).astype(np.float32)
    colour = rng.uniform(180, 255) if rng.random() < 0.6 else rng.uniform(0, 60)
    _blend(frame, colour, soft * ripples * water * np.float32(rng.uniform(0.2, 0.7)))


def mirror(rng: np.random.Generator, frame: Frame, water: Weight, edge: int) -> None:
    """The mirror image of what stands above the water's edge, blurred and torn by waves."""
    h, w = water.shape
    if edge < 8:
        return
    y = np.arange(h, dtype=np.float32)[:, None].repeat(w, 1)
    x = np.arange(w, dtype=np.float32)[None].repeat(h, 0)
    depth = (y - edge).clip(0)
    swing = rng.uniform(0.5, 4) * np.sin(depth * rng.uniform(0.3, 1.5) + rng.uniform(0, 6))
    source = (edge - depth * rng.uniform(0.5, 1.3)).clip(0).astype(np.float32)
    aside = (x + swing).astype(np.float32)
    image = cv2.remap(frame, aside, source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    image = cv2.GaussianBlur(image, (0, 0), sigmaX=rng.uniform(0.5, 2), sigmaY=rng.uniform(0.5, 5))
    strength = np.float32(rng.uniform(0.3, 0.8)) * np.exp(-depth / (h * rng.uniform(0.15, 0.6)))
    image = image.astype(np.float32) * np.float32(rng.uniform(0.6, 1.0))
    _blend(frame, image, (water * strength).astype(np.float32))


def shadow(rng: np.random.Generator, frame: Frame, water: Weight, edge: int) -> None:
    """Smooth dark and bright areas: gusts, clouds, depths."""
    h, w = water.shape
    coarse = rng.normal(0, 0.5, (int(rng.integers(3, 9)), int(rng.integers(2, 6)))).astype(np.float32)
    field = np.asarray(cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC), dtype=np.float32)
    _blend(frame, frame * np.exp(field)[..., None], water)


DECOYS = (glitter, foam, wake, mirror, shadow)
