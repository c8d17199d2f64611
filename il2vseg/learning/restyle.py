"""Regions of a frame in another look: what a student should not learn a class by.

Footage of one place shows one water under one sky, and a student learns their colour and their texture by
heart. Here each class that the teacher sees gets colours of its own, the ground waves, the sky clouds.
Everything is NumPy and OpenCV and a function of its random generator.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Frame
from il2vseg.learning.noise import smooth_noise

Cover = NDArray[np.float32]
"""Coverage (h, w) by a region, from 0 to 1."""

TEXTURE = 128
"""Side of the noise that waves are made of, in pixels.

Beyond them it is mirrored."""


@dataclass(frozen=True)
class Restyling:
    """How much changes; shares are probabilities per crop, of each region by itself."""

    colours: float = 0.4
    """Regions with other colours and another contrast."""
    waves: float = 0.3
    """Ground with waves."""
    clouds: float = 0.3
    """Sky with clouds."""


def restyle(
    rng: np.random.Generator,
    frame: Frame,
    regions: list[Cover],
    ground: int | None,
    sky: int | None,
    settings: Restyling = Restyling(),
) -> Frame:
    """Give every region of a crop a look of its own.

    Args:
        frame: BGR (h, w, 3), not changed. regions: of each class its coverage.
        ground, sky: which of the regions is which; None where there is none.
    """
    out = frame.astype(np.float32)
    for i, cover in enumerate(regions):
        if rng.random() < settings.colours:
            recolour(rng, out, cover)
        if i == ground and rng.random() < settings.waves:
            waves(rng, out, cover)
        if i == sky and rng.random() < settings.clouds:
            clouds(rng, out, cover)
    return np.asarray(out.clip(0, 255), dtype=np.uint8)


def recolour(rng: np.random.Generator, frame: NDArray[np.float32], cover: Cover) -> None:
    """Change a region's mean colour and its contrast."""
    total = float(cover.sum())
    if total < 16:
        return
    mean = np.asarray(cv2.mean(frame, (cover > 0.5).astype(np.uint8))[:3], np.float32)
    gain = math.exp(rng.uniform(-0.6, 0.5)) * np.exp(rng.uniform(-0.3, 0.3, 3))
    contrast = math.exp(rng.uniform(-0.9, 0.7))
    target = (frame - mean) * np.float32(contrast) + (mean * gain).astype(np.float32)
    frame += (target - frame) * cover[..., None]


def waves(rng: np.random.Generator, frame: NDArray[np.float32], water: Cover) -> None:
    """Ripples or a swell, in perspective: small and dense at the far edge, large near the bottom."""
    rows = np.flatnonzero(water.mean(1) > 0.05)
    if not len(rows):
        return
    h, w = water.shape
    edge = int(rows[0]) - 1
    depth = ((np.arange(h) - edge) / max(1, h - edge)).clip(0.02, 1).astype(np.float32)[:, None]
    scale = rng.uniform(0.15, 1.2) * TEXTURE
    across = np.arange(w, dtype=np.float32)[None] / w - np.float32(rng.uniform(-0.5, 1.5))
    aside = across / depth * np.float32(scale * rng.uniform(0.3, 1.0))
    away = np.float32(scale * rng.uniform(0.5, 2.0)) / depth + 0 * aside
    texture = _fractal(rng, (TEXTURE, TEXTURE), 3)
    if rng.random() < 0.5:  # sharp crests
        texture = np.float32(1.0) - np.float32(2.5) * np.abs(texture)
    noise = cv2.remap(texture, aside, away, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    noise *= (depth / (depth + np.float32(0.1))) * np.float32(rng.uniform(0.1, 0.7))
    lit = frame * np.exp(noise)[..., None]
    if rng.random() < 0.5:  # facets that mirror the sky
        light = frame[: max(1, edge)].reshape(-1, 3).mean(0) * np.float32(rng.uniform(0.6, 1.2))
        facets = ((noise * 3 - np.float32(rng.uniform(0, 1))).clip(0, 1))[..., None]
        lit += (light - lit) * facets
    frame += (lit - frame) * water[..., None]


def clouds(rng: np.random.Generator, frame: NDArray[np.float32], sky: Cover) -> None:
    """White or dark clouds, heaped or torn."""
    h, w = sky.shape
    size = (h, w)
    shape = _fractal(rng, size, 4, first=(int(rng.integers(2, 5)), int(rng.integers(2, 6))))
    weight = ((shape - rng.uniform(-0.5, 0.8)) * rng.uniform(0.7, 3.0)).clip(0, 1).astype(np.float32)
    top, bottom = sorted(rng.uniform(90, 255, 2), reverse=True)
    shade = _fractal(rng, size, 3, first=(3, 4)).clip(-1, 1)
    tint = rng.uniform(0.9, 1.1, 3) if rng.random() < 0.8 else np.array((0.7, 0.9, 1.2))
    colour = ((top + bottom) / 2 + (top - bottom) / 2 * shade)[..., None] * tint
    frame += ((colour - frame) * (weight * sky)[..., None]).astype(np.float32)


def _fractal(
    rng: np.random.Generator, size: tuple[int, int], octaves: int, first: tuple[int, int] = (8, 8)
) -> NDArray[np.float32]:
    """Noise (h, w) of about unit variance whose octaves have twice the cells and half the strength."""
    total: NDArray[Any] = np.zeros(size, np.float32)
    for k in range(octaves):
        total += smooth_noise(rng, size, (first[0] << k, first[1] << k)) * np.float32(0.5**k)
    return np.asarray(total, np.float32)
