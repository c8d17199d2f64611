"""Pasting: where things float or stand, how large they look there, and their images in the water."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.classes import ROAD, WATER
from il2vseg.base.images import Frame
from il2vseg.learning.paste.decoys import DECOYS, ROAD_DECOYS, Decoy, Weight, night
from il2vseg.learning.paste.shapes import Cutout, Mask, fill, silhouette


@dataclass(frozen=True)
class Pasting:
    """How much is pasted; shares are probabilities per crop."""

    share: float = 0.8
    """Crops with something pasted."""
    most: int = 6
    smallest: float = 6.0
    largest: float = 140.0
    """Pixels along the longer side, of things at the bottom of a crop."""
    cutouts: float = 0.3
    """Things that are cut out of footage, where there are cut-outs."""
    decoys: float = 0.5
    """Crops with something that only looks like an obstacle."""
    night: float = 0.12
    """Crops at night, with lamps and their streaks on the water."""
    boost: float = 4.0
    """How much more the smallest piece's pixels count than those of the largest: pieces count, not pixels."""
    decoy_kinds: tuple[Decoy, ...] = DECOYS
    mirrored: float = 0.7
    """Things with their mirror image below them."""


PASTINGS = {WATER: Pasting(), ROAD: Pasting(night=0.0, decoy_kinds=ROAD_DECOYS, mirrored=0.1)}
"""What is pasted on each of `base.classes.GROUNDS`. A road is a mirror after rain."""


@dataclass(frozen=True)
class Pasted:
    """A crop with things on its ground.

    Attributes:
        frame: BGR (h, w, 3). solid: coverage (h, w) in [0, 255] by what was pasted.
        weight: (h, w) float32 ≥ 1, how much a pixel counts.
    """

    frame: Frame
    solid: Mask
    weight: NDArray[np.float32]


MIN_GROUND = 0.03
"""Share of the crop that must be ground before anything is pasted."""


def paste(
    rng: np.random.Generator,
    frame: Frame,
    ground: Weight,
    textures: Sequence[Frame] = (),
    cutouts: Sequence[Cutout] = (),
    settings: Pasting = Pasting(),
) -> Pasted:
    """Paste random things on the ground of a crop.

    Args:
        frame: BGR (h, w, 3), not changed. ground: probability (h, w) that a pixel is water, or
            road: what things stand on.
        textures: patches of solid things. cutouts: things of other frames.
    """
    h, w = ground.shape
    out = frame.copy()
    solid = np.zeros((h, w), np.uint8)
    weight = np.ones((h, w), np.float32)
    free = ground > 0.7
    if free.mean() < MIN_GROUND:
        return Pasted(out, solid, weight)
    rows = np.flatnonzero(free.mean(1) > 0.05)
    edge = int(rows[0]) if len(rows) else 0
    if rng.random() < settings.decoys:
        for _ in range(int(rng.integers(1, 3))):
            kinds = settings.decoy_kinds
            kinds[int(rng.integers(len(kinds)))](rng, out, ground, edge)
    if rng.random() < settings.share:
        _populate(rng, out, solid, weight, ground, edge, textures, cutouts, settings)
    if rng.random() < settings.night:
        night(rng, out, np.where(solid > 0, 0, ground).astype(np.float32))
    return Pasted(out, solid, weight)


def _populate(
    rng: np.random.Generator,
    out: Frame,
    solid: Mask,
    weight: NDArray[np.float32],
    ground: Weight,
    edge: int,
    textures: Sequence[Frame],
    cutouts: Sequence[Cutout],
    settings: Pasting,
) -> None:
    """Place a few things on the ground below the row `edge`, the farthest first."""
    h = len(ground)
    feet = np.argwhere(ground > 0.7)
    count = int(rng.integers(1, settings.most + 1))
    chosen = feet[rng.integers(len(feet), size=count)]
    light = float(np.percentile(out[::4, ::4], 98)) * rng.uniform(0.8, 1.05)
    # What is nearer covers what is farther.
    for y, x in sorted(chosen.tolist()):
        depth = (y - edge) / max(1, h - edge)
        thing = _thing(rng, depth, textures, cutouts, light, settings)
        place(rng, out, solid, weight, ground, thing, (y, x), settings)


def _thing(
    rng: np.random.Generator,
    depth: float,
    textures: Sequence[Frame],
    cutouts: Sequence[Cutout],
    light: float,
    settings: Pasting,
) -> Cutout:
    """Draw something of a size that fits its depth: 0 at the ground's far edge, 1 at the bottom."""
    reach = 0.25 + 0.75 * depth
    largest = max(settings.smallest, settings.largest * reach)
    size = float(np.exp(rng.uniform(np.log(settings.smallest), np.log(largest))))
    if cutouts and rng.random() < settings.cutouts:
        chosen = cutouts[int(rng.integers(len(cutouts)))]
        ratio = float(np.clip(size / max(chosen.mask.shape), 0.25, 1.6))
        shape = [max(3, round(s * ratio)) for s in chosen.mask.shape]
        picture = cv2.resize(chosen.picture, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
        mask = cv2.resize(chosen.mask, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
        if rng.random() < 0.5:
            picture, mask = picture[:, ::-1], mask[:, ::-1]
        if rng.random() < 0.5:
            picture = (picture * rng.uniform(0.6, 1.5, 3)).clip(0, 255)
        return Cutout(np.ascontiguousarray(picture, np.uint8), np.ascontiguousarray(mask, np.uint8))
    mask = silhouette(rng, size)
    texture = textures[int(rng.integers(len(textures)))] if textures else None
    return Cutout(fill(rng, (mask.shape[0], mask.shape[1]), texture, light), mask)


def place(
    rng: np.random.Generator,
    out: Frame,
    solid: Mask,
    weight: NDArray[np.float32],
    ground: Weight,
    thing: Cutout,
    foot: tuple[int, int],
    settings: Pasting,
) -> None:
    """Draw a thing whose lowest row is at `foot` (row, column), and perhaps its mirror image below."""
    th, tw = thing.mask.shape
    y, x = foot
    soft = rng.uniform(0.3, 1.0)
    mask = np.pad(thing.mask, 2)
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), soft), dtype=np.uint8)
    mask[th + 2 :] = 0  # the ground cuts sharply
    picture = np.pad(thing.picture, ((2, 2), (2, 2), (0, 0)), mode="edge")
    if rng.random() < settings.mirrored:
        _reflect(rng, out, ground, picture[2 : th + 2], mask[2 : th + 2], (y + 1, x - tw // 2 - 2))
    top, left = y - th - 1, x - tw // 2 - 2
    window = _window(top, left, mask.shape, solid.shape)
    if window is None:
        return
    there, here = window
    cover = mask[here].astype(np.float32)[..., None] / 255
    out[there] = (out[there] + (picture[here].astype(np.float32) - out[there]) * cover).astype(np.uint8)
    np.maximum(solid[there], mask[here], out=solid[there])
    area = max(1.0, float((thing.mask > 127).sum()))
    extra = np.float32(np.clip(settings.boost * np.sqrt(60.0 / area), 1.0, settings.boost))
    grown = cv2.dilate(mask, np.ones((7, 7), np.uint8))
    np.maximum(weight[there], np.where(grown[here] > 127, extra, 1), out=weight[there])


def _reflect(
    rng: np.random.Generator, out: Frame, ground: Weight, picture: Frame, mask: Mask, at: tuple[int, int]
) -> None:
    """Draw the mirror image of a thing below it: darker, squashed, blurred, torn. It is ground."""
    h, w = mask.shape
    tall = max(2, round(h * rng.uniform(0.4, 1.1)))
    image: NDArray[Any] = cv2.resize(picture[::-1], (w, tall), interpolation=cv2.INTER_AREA).astype(
        np.float32
    )
    cover: NDArray[Any] = cv2.resize(mask[::-1], (w, tall), interpolation=cv2.INTER_AREA) / np.float32(255)
    y, x = np.mgrid[0:tall, 0:w].astype(np.float32)
    x += (0.3 + 0.05 * y) * np.sin(y * rng.uniform(0.5, 2.0) + rng.uniform(0, 6)).astype(np.float32)
    cover = cv2.remap(cover, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    blur = rng.uniform(0.5, 2.5)
    image, cover = (cv2.GaussianBlur(i, (0, 0), sigmaX=blur, sigmaY=1.5 * blur) for i in (image, cover))
    window = _window(at[0], at[1], (tall, w), ground.shape)
    if window is None:
        return
    there, here = window
    strength = (cover[here] * ground[there] * rng.uniform(0.2, 0.8))[..., None]
    image = image[here] * rng.uniform(0.4, 0.95)
    out[there] = (out[there] + (image - out[there]) * strength).clip(0, 255).astype(np.uint8)


_Window = tuple[slice, slice]


def _window(
    top: int, left: int, shape: tuple[int, ...], frame: tuple[int, ...]
) -> tuple[_Window, _Window] | None:
    """Where a patch at (top, left) overlaps a frame: slices of the frame and of the patch."""
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(frame[0], top + shape[0]), min(frame[1], left + shape[1])
    if y0 >= y1 or x0 >= x1:
        return None
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
