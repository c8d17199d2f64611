"""Frames as OpenCV delivers them: read, resized and written in one way everywhere."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.errors import UserError
from il2vseg.files import atomic_path

Frame = NDArray[np.uint8]
"""BGR image (H, W, 3), uint8."""

Labels = NDArray[np.uint8]
"""Class id of every pixel (H, W), uint8."""


def read_frame(path: Path) -> Frame:
    """Read an image file as BGR (H, W, 3) uint8.

    Raises:
        UserError: the file is missing or is not an image that OpenCV can decode.
    """
    frame = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if frame is None:
        raise UserError(f"{path}: not a readable image")
    return np.asarray(frame, dtype=np.uint8)


def read_labels(path: Path) -> Labels:
    """Read a single-channel label image as (H, W) uint8.

    Raises:
        UserError: the file is missing, unreadable or not single-channel 8-bit.
    """
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None:
        raise UserError(f"{path}: not a readable image")
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise UserError(
            f"{path}: a label image has one 8-bit channel, this one is {labels.shape} {labels.dtype}"
        )
    return np.asarray(labels, dtype=np.uint8)


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image atomically; the suffix of `path` chooses the format.

    Raises:
        OSError: it cannot be written (full disk, no permission).
    """
    with atomic_path(path) as temporary:
        ok, data = cv2.imencode(path.suffix, image)
        if not ok:
            raise UserError(f"{path}: OpenCV cannot encode {path.suffix} images")
        temporary.write_bytes(data.tobytes())


def resize_frame(frame: Frame, size: tuple[int, int]) -> Frame:
    """Resize a frame to (height, width), averaging areas when it shrinks."""
    height, width = size
    if frame.shape[:2] == (height, width):
        return frame
    shrinks = height * width < frame.shape[0] * frame.shape[1]
    return np.asarray(
        cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR),
        dtype=np.uint8,
    )


def resize_labels(labels: Labels, size: tuple[int, int]) -> Labels:
    """Resize class ids to (height, width) by nearest neighbour."""
    height, width = size
    if labels.shape == (height, width):
        return labels
    return np.asarray(
        cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8
    )
