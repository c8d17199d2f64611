"""Representative frames: those that differ most, not the first N of a clip where every frame is alike."""

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame, resize_frame
from il2vseg.data import open_dataset

POOL = 400
"""Frames looked at, spread evenly over the source."""

FLAT = 2.0
"""Grey levels of standard deviation below which a frame (lens cap, no signal) says nothing of a scene."""


def descriptor(frame: Frame) -> NDArray[np.float32]:
    """Describe a frame by where its brightness and colours are: an 8x8 Lab thumbnail, (192,)."""
    small = cv2.resize(frame, (8, 8), interpolation=cv2.INTER_AREA)
    return np.divide(cv2.cvtColor(small, cv2.COLOR_BGR2LAB).ravel(), 255, dtype=np.float32)


def farthest_points(points: NDArray[np.float32], count: int) -> list[int]:
    """Choose points that cover a set: each next one is the farthest from all that were chosen.

    Args:
        points: (n, d). count: how many; at most n are chosen, equal points only once.
    Returns:
        indices in the order of choice; the first is the point nearest the mean.
    """
    if count < 1 or len(points) == 0:
        return []
    chosen = [int(np.linalg.norm(points - points.mean(0), axis=1).argmin())]
    distance = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < count and distance.max() > 0:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen


def representative_frames(source: Path | None, size: tuple[int, int], count: int) -> list[tuple[str, Frame]]:
    """Choose up to `count` frames that represent a folder or clip.

    Args:
        source: folder of images or clips, or one clip; None for the synthetic scenes.
        size: (H, W) that the frames are resized to.
    Returns:
        (name, BGR uint8 (H, W, 3)), most typical first.
    Raises:
        UserError: the source is missing, or has no frame that is readable and not blank.
    """
    name = "synthetic" if source is None else "folder"
    # Rendering a scene costs more than reading an image, and the scenes differ by construction.
    data = open_dataset(name, source, "train", limit=POOL if source else 2 * count)
    usable, descriptors = [], []
    for index, sample in enumerate(data):
        if sample.frame.std() >= FLAT:
            usable.append(index)
            descriptors.append(descriptor(sample.frame))
    if not usable:
        raise UserError(
            f"{source}: no usable frame (all are unreadable or blank); pass a folder or clip of the scene"
        )
    order = [usable[i] for i in farthest_points(np.stack(descriptors), count)]
    wanted = set(order)
    # A second pass instead of all frames in memory: 400 of 1280x720 would be a gigabyte.
    frames = {i: (s.name, resize_frame(s.frame, size)) for i, s in enumerate(data) if i in wanted}
    if note := data.skipped_note():
        print(note, file=sys.stderr)
    return [frames[i] for i in order]
