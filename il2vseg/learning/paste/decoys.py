"""What looks like an obstacle and is water, or road: glitter, the sun's lane, foam, wakes, mirrored banks,
shadows, and at night the streaks of lamps."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Frame
from il2vseg.learning.noise import smooth_noise

Weight = NDArray[Any]
"""Coverage (h, w), floats from 0 to 1."""

Decoy = Callable[[np.random.Generator, Frame, Weight, int], None]
"""Draws into a frame, on its ground, whose far edge is at a row."""


def _blend(frame: Frame, colour: NDArray[Any] | float, weight: Weight) -> None:
    """Mix a grey, a colour (3,) or a picture (h, w, 3) into a frame."""
    rows = np.flatnonzero(weight.any(1))
    if not len(rows):
        return
    some = slice(rows[0], rows[-1] + 1)
    target = colour[some] if isinstance(colour, np.ndarray) and colour.ndim == 3 else colour
    part = frame[some].astype(np.float32)
    part += (target - part) * weight[some, :, None]
    frame[some] = part.clip(0, 255)


def _noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]) -> NDArray[np.float32]:
    """Smooth normal noise (h, w) with so many cells down and across, four or more."""
    return smooth_noise(rng, size, (max(4, cells[0]), max(4, cells[1])))


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


def lane(rng: np.random.Generator, frame: Frame, water: Weight, edge: int) -> None:
    """The lane of the sun: dense glints, wider towards the bottom, that run together in white patches."""
    h, w = water.shape
    depth = ((np.arange(h) - edge) / max(1, h - edge)).clip(0, 1).astype(np.float32)[:, None]
    spread = w * (rng.uniform(0.03, 0.2) + rng.uniform(0.05, 0.4) * depth)
    lit = np.exp(-(((np.arange(w) - rng.uniform(0, w)) / spread) ** 2)).astype(np.float32)
    waves = _noise(rng, (h, w), (h // int(rng.integers(3, 9)), w // int(rng.integers(8, 30))))
    waves = waves + 0.6 * _noise(rng, (h, w), (h // 2, w // 5))
    weight = ((waves + 1.6 * lit - rng.uniform(1.6, 2.6)) * 2.5).clip(0, 1) * lit
    _blend(frame, rng.uniform((190, 225, 245), 255), weight * water * np.float32(rng.uniform(0.6, 1.0)))


def foam(rng: np.random.Generator, frame: Frame, water: Weight, edge: int) -> None:
    """Patches of white water, torn and flat."""
    h, w = water.shape
    rows = max(4, (h - edge) // int(rng.integers(2, 8)))
    noise = _noise(rng, (h, w), (rows, w // int(rng.integers(8, 40))))
    noise = noise + 0.7 * _noise(rng, (h, w), (h // 2, w // 4))
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


def gaps(rng: np.random.Generator, frame: Frame, water: Weight, edge: int) -> None:
    """Patches of sky, or of something dark, among mirrored branches: upright, sharp in places, torn aside by
    waves."""
    h, w = water.shape
    across, down = rng.uniform(6, 40), rng.uniform(12, 70)
    field = _noise(rng, (h, w), (round(h / down), round(w / across)))
    field = field + 0.5 * _noise(rng, (h, w), (round(2.5 * h / down), round(2.5 * w / across)))
    where = _noise(rng, (h, w), (4, 5))  # in some places alone
    swing = rng.uniform(0.0, 3.0) * _noise(rng, (h, w), (h // int(rng.integers(2, 7)), 4))
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    torn = cv2.remap(field, x + swing.astype(np.float32), y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    shape = ((torn - rng.uniform(0.2, 1.2)) * rng.uniform(1.5, 6.0)).clip(0, 1)
    weight = shape * (where + rng.uniform(0.0, 1.0)).clip(0, 1) * np.float32(rng.uniform(0.2, 0.75))
    bright = frame.mean(2).max() * rng.uniform(0.5, 0.95)
    tint = rng.uniform(0.95, 1.05, 3)
    colour = bright * tint if rng.random() < 0.65 else rng.uniform(0, 60) * tint
    _blend(frame, colour, (weight * water).astype(np.float32))


def shadow(rng: np.random.Generator, frame: Frame, water: Weight, edge: int) -> None:
    """Smooth dark and bright areas: gusts, clouds, depths."""
    h, w = water.shape
    field = smooth_noise(rng, (h, w), (int(rng.integers(3, 9)), int(rng.integers(2, 6))), 0.5)
    _blend(frame, frame * np.exp(field)[..., None], water)


DECOYS: tuple[Decoy, ...] = (glitter, lane, foam, wake, mirror, gaps, shadow)
ROAD_DECOYS: tuple[Decoy, ...] = (wake, shadow)
"""A wake's lines are markings, kerbs and seams there."""


def night(rng: np.random.Generator, frame: Frame, water: Weight) -> None:
    """Darken a whole frame, light lamps along the water's edge and draw their streaks on the water.

    Args:
        water: coverage (h, w) by water that nothing hides.
    """
    h, w = water.shape
    light = rng.uniform(0.1, 0.45) * np.array((1.15, 1.0, 0.9)) * rng.uniform(0.9, 1.1, 3)
    frame[:] = (frame * light).clip(0, 255)
    lamps, streaks = np.zeros_like(frame), np.zeros_like(frame)
    for x in rng.integers(w, size=int(rng.integers(0, 9))).tolist():
        wet = np.flatnonzero(water[:, x] > 0.5)
        if not len(wet):
            continue
        edge, up = int(wet[0]), int(h * rng.uniform(0.01, 0.12))
        colour = rng.uniform((60, 110, 200), 255) if rng.random() < 0.8 else rng.uniform(0, 255, 3)
        cv2.circle(lamps, (x, edge - up), int(rng.integers(1, 4)), colour.tolist(), -1, cv2.LINE_AA)
        top, below = edge + int(up * rng.uniform(0, 1)), int(h * rng.uniform(0.05, 0.6))
        dimmer = (colour * rng.uniform(0.3, 1.0)).tolist()
        cv2.line(streaks, (x, top), (x, top + below), dimmer, int(rng.integers(1, 6)), cv2.LINE_AA)
    glow = lamps + _torn(rng, streaks) * water[..., None]
    soft = cv2.GaussianBlur(glow, (0, 0), rng.uniform(0.5, 1.5))
    halo = cv2.GaussianBlur(glow, (0, 0), 6.0)
    frame[:] = (frame + soft + rng.uniform(0, 0.8) * halo).clip(0, 255)


def _torn(rng: np.random.Generator, picture: Frame) -> NDArray[np.float32]:
    """A picture (h, w, 3) in waves: shifted aside and, most often, interrupted."""
    h, w = picture.shape[:2]
    waves = _noise(rng, (h, w), (h // int(rng.integers(2, 9)), w // 24))
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    swing = np.float32(rng.uniform(0, 2.5))
    moved = cv2.remap(picture, x + swing * waves, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    gaps = (1.0 + rng.uniform(0, 1.5) * waves).clip(0, 1.3).astype(np.float32)
    return np.asarray(moved * gaps[..., None], dtype=np.float32)
