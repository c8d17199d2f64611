"""Silhouettes and their textures: random ones, and pieces cut out of footage."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Frame

Mask = NDArray[np.uint8]
"""Coverage (h, w), 0 to 255."""


@dataclass(frozen=True)
class Cutout:
    """A picture of a thing: colours BGR (h, w, 3) and coverage (h, w)."""

    picture: Frame
    mask: Mask


def _polygon(mask: Mask, points: NDArray[np.float64]) -> None:
    """Fill a polygon given in units of the mask: (x, y) in [0, 1], y down."""
    h, w = mask.shape
    fixed = np.round(points * (w, h) * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, 4)


def _ellipse(x: float, y: float, rx: float, ry: float) -> NDArray[np.float64]:
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    return np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], 1)


def ellipse(rng: np.random.Generator, mask: Mask) -> None:
    """A ball, cut off at the bottom by the water."""
    _polygon(mask, _ellipse(0.5, rng.uniform(0.5, 0.8), 0.48, rng.uniform(0.5, 0.75)))


def polygon(rng: np.random.Generator, mask: Mask) -> None:
    """A star-shaped polygon."""
    turn = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 10))))
    radius = rng.uniform(0.25, 0.55, len(turn))
    _polygon(mask, 0.5 + radius[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1))


def hull(rng: np.random.Generator, mask: Mask) -> None:
    """A hull with what stands on it: cabin, people, mast, sail."""
    top = rng.uniform(0.55, 0.85)
    rake = rng.uniform(0.0, 0.2, 2)
    _polygon(mask, np.array([(0, top), (1, top - rng.uniform(0, 0.1)), (1 - rake[0], 1), (rake[1], 1)]))
    for _ in range(int(rng.integers(0, 4))):
        x, width = rng.uniform(0.1, 0.8), rng.uniform(0.04, 0.4)
        height = rng.uniform(0.1, 0.5)
        box = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * (width, height + 0.05) + (x, top - height)
        box[:2, 0] += rng.uniform(-0.05, 0.05, 2)
        _polygon(mask, box)
    if rng.random() < 0.4:
        x, half = rng.uniform(0.2, 0.8), rng.uniform(0.006, 0.02)
        _polygon(mask, np.array([(x - half, 0), (x + half, 0), (x + half, top), (x - half, top)]))
        if rng.random() < 0.4:
            _polygon(mask, np.array([(x, 0.03), (x + rng.uniform(-0.5, 0.5), top), (x, top)]))


def bird(rng: np.random.Generator, mask: Mask) -> None:
    """A body with a neck and a head, or without."""
    _polygon(mask, _ellipse(0.45, 0.78, 0.42, rng.uniform(0.2, 0.3)))
    x, top = rng.uniform(0.7, 0.88), rng.uniform(0.08, 0.5)
    half = rng.uniform(0.03, 0.07)
    _polygon(mask, np.array([(x - half, top), (x + half, top), (0.8 + half, 0.8), (0.68 - half, 0.8)]))
    _polygon(mask, _ellipse(x + 0.02, top, rng.uniform(0.06, 0.1), rng.uniform(0.05, 0.09)))


def upright(rng: np.random.Generator, mask: Mask) -> None:
    """A post, a buoy, a person: narrow, with or without a head."""
    half = rng.uniform(0.08, 0.45)
    lean = rng.uniform(-0.15, 0.15)
    top = rng.uniform(0.0, 0.3)
    waist = half * rng.uniform(0.4, 1.1)
    points = [(0.5 + lean - waist, top), (0.5 + lean + waist, top), (0.5 + half, 1), (0.5 - half, 1)]
    _polygon(mask, np.array(points).clip(0, 1))
    if rng.random() < 0.5:
        _polygon(mask, _ellipse(0.5 + lean, max(0.1, top), min(0.4, 0.9 * waist + 0.05), 0.12))


def blob(rng: np.random.Generator, mask: Mask) -> None:
    """Smooth noise above a threshold, the middle rather than the rim."""
    h, w = mask.shape
    noise = rng.normal(0, 1, (int(rng.integers(3, 7)), int(rng.integers(3, 7)))).astype(np.float32)
    noise = np.asarray(cv2.resize(noise, (w, h), interpolation=cv2.INTER_CUBIC), dtype=np.float32)
    y, x = np.mgrid[-1 : 1 : complex(0, h), -1 : 1 : complex(0, w)]
    mask[noise + 1.2 - 2.2 * (x**2 + y**2) > 0] = 255


def several(rng: np.random.Generator, mask: Mask) -> None:
    """Things side by side: a flock, a raft of buoys."""
    h, w = mask.shape
    for _ in range(int(rng.integers(2, 5))):
        width = max(3, int(w * rng.uniform(0.15, 0.4)))
        height = max(3, int(h * rng.uniform(0.3, 1.0)))
        left = int(rng.integers(0, max(1, w - width)))
        part = np.zeros((height, width), np.uint8)
        SHAPES[int(rng.integers(len(SHAPES)))][0](rng, part)
        view = mask[h - height :, left : left + width]
        np.maximum(view, part[:, : view.shape[1]], out=view)


SHAPES = (
    (ellipse, (0.7, 1.6)),
    (polygon, (0.5, 2.0)),
    (hull, (1.2, 3.5)),
    (hull, (0.5, 1.4)),
    (bird, (1.0, 1.6)),
    (upright, (0.2, 0.9)),
    (blob, (0.6, 3.0)),
)
"""Silhouettes, each with its range of width / height."""


def silhouette(rng: np.random.Generator, size: float) -> Mask:
    """Draw a silhouette (h, w) whose longer side is about `size` pixels."""
    if rng.random() < 0.12 and size > 16:
        shape, aspects = several, (1.5, 4.0)
    else:
        shape, aspects = SHAPES[int(rng.integers(len(SHAPES)))]
    aspect = float(np.exp(rng.uniform(*np.log(aspects))))
    h, w = (size / aspect, size) if aspect > 1 else (size, size * aspect)
    mask = np.zeros((max(3, round(h)), max(3, round(w))), np.uint8)
    shape(rng, mask)
    return mask[:, ::-1].copy() if rng.random() < 0.5 else mask


def fill(rng: np.random.Generator, shape: tuple[int, int], texture: Frame | None, light: float) -> Frame:
    """Colour a silhouette: flat with a little shading, often white; or a texture, often in other colours.

    Args:
        shape: (h, w). texture: a patch of something solid in other footage, of any size; None for flat alone.
        light: brightness of white in the scene, 0 to 255.
    """
    h, w = shape
    if texture is None or rng.random() < 0.5:
        kind = rng.random()
        if kind < 0.4:
            colour = np.full(3, rng.uniform(0.75, 1.0)) * (1 + rng.uniform(-0.06, 0.06, 3))
        elif kind < 0.6:
            colour = np.full(3, rng.uniform(0.03, 0.3)) * (1 + rng.uniform(-0.2, 0.2, 3))
        else:
            colour = rng.uniform(0.05, 1.0, 3)
        shade = _shade(rng, (h, w), 0.3)
        picture = colour * light * shade[..., None] + rng.normal(0, 4, (h, w, 1))
    else:
        picture = cv2.resize(texture, (w, h), interpolation=cv2.INTER_AREA).astype(np.float64)
        if rng.random() < 0.6:
            picture = picture * rng.uniform(0.5, 1.7, 3)
        if rng.random() < 0.3:
            picture = picture * 0.5 + rng.uniform(0, 128, 3)
    if rng.random() < 0.35 and h > 6:  # a stripe: a boot top, a deck, a band of a buoy
        top = int(rng.integers(0, h - 2))
        stripe = slice(top, top + max(1, int(h * rng.uniform(0.1, 0.4))))
        picture[stripe] = picture[stripe] * 0.2 + 0.8 * rng.uniform(0, light, 3)
    return picture.clip(0, 255).astype(np.uint8)


def _shade(rng: np.random.Generator, shape: tuple[int, int], amount: float) -> NDArray[np.float64]:
    """Smooth light and shadow around 1."""
    coarse = (1 + rng.uniform(-amount, amount, (3, 3))).astype(np.float32)
    return np.asarray(
        cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), dtype=np.float64
    )


def cut_out(
    frame: Frame, mask: NDArray[np.bool_], boxes: Sequence[tuple[int, int, int, int]], limit: int = 8
) -> list[Cutout]:
    """Cut things out of a frame.

    Args:
        mask: pixels (H, W) of the things. boxes: left, top, width, height of each, the first `limit` count.
    """
    found = []
    for left, top, w, h in boxes[:limit]:
        where = (slice(top, top + h), slice(left, left + w))
        found.append(Cutout(frame[where].copy(), mask[where].astype(np.uint8) * 255))
    return found
