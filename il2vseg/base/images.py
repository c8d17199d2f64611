"""Frames as OpenCV delivers them: read, resized and written in one way everywhere."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.base.files import UNREAD_SUFFIXES, write_bytes
from il2vseg.base.media.structure import picture_fault, refuse_picture_container

_PNG_HEADER = 33
"""Bytes of a PNG's signature and its first chunk."""

_MARK = b"tEXtSoftware\0il2vseg labels"

Frame = NDArray[np.uint8]
"""BGR image (H, W, 3), uint8."""

Labels = NDArray[np.uint8]
"""Class id of every pixel (H, W), uint8."""


_DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras write into 16."""


def _decode(path: str | Path, flags: int) -> NDArray[np.generic]:
    path = Path(path)
    if path.suffix.lower() in UNREAD_SUFFIXES:
        kind = path.suffix[1:].upper()
        raise UserError(f"{path}: {kind} images are not supported; convert them to JPEG or PNG")
    # Not cv2.imread, which warns on standard error about a missing file and says the same of any failure.
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    refuse_picture_container(path, data)
    # Decoders fill what a cut file lacks with grey, and say nothing.
    if fault := picture_fault(data):
        raise UserError(f"{path}: not a readable image ({fault})")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:
        image = None
    if image is None:
        raise UserError(f"{path}: not a readable image")
    return np.asarray(image)


def eight_bits(deep: NDArray[np.uint16], at_least: int = 8) -> tuple[NDArray[np.uint8], int]:
    """Scale 16-bit samples of which fewer are used (10, 12 or 14 bits of a camera) to 8 bits.

    Args:
        at_least: bits that are known to be used.
    Returns:
        the samples, and how many bits of them are used: 8, 10, 12, 14 or 16.
    """
    needed = max(at_least, int(deep.max(initial=0)).bit_length())
    bits = next(depth for depth in _DEPTHS if depth >= needed)
    return (deep >> (bits - 8)).astype(np.uint8), bits


def read_picture(path: str | Path) -> tuple[Frame, int]:
    """Read an image file as BGR (H, W, 3) uint8, turned as its EXIF orientation says.

    Of 16-bit samples those bits are taken that the image uses, since cameras write 10 to 14 bits into 16.

    Returns:
        the frame, and how many bits a sample had: 8, or those that are used of 16.
    Raises:
        UserError: the file is missing, cut off, or not an image that OpenCV can decode.
    """
    image, bits = _decode(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH), 8
    if image.dtype == np.uint16:
        image, bits = eight_bits(np.asarray(image, np.uint16))
    if image.dtype != np.uint8:
        raise UserError(f"{path}: samples of {image.dtype}; convert it to 8 or 16 bits")
    return np.asarray(image, dtype=np.uint8), bits


def read_frame(path: str | Path) -> Frame:
    """Read an image file as `read_picture` does, and return the frame alone."""
    return read_picture(path)[0]


def read_labels(path: str | Path) -> Labels:
    """Read a single-channel label image as (H, W) uint8.

    Raises:
        UserError: the file is missing, unreadable or not single-channel 8-bit.
    """
    labels = _decode(path, cv2.IMREAD_UNCHANGED)
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise UserError(
            f"{path}: a label image has one 8-bit channel, this one is {labels.shape} {labels.dtype}"
        )
    return np.asarray(labels, dtype=np.uint8)


def encode_image(suffix: str, image: NDArray[np.uint8]) -> bytes:
    """Encode an image; its suffix (".png") names the format.

    Raises:
        UserError: no image format has this suffix, or it cannot hold such an image.
    """
    try:
        ok, data = cv2.imencode(suffix, image)
    except cv2.error:
        ok = False
    if not ok:
        raise UserError(f"OpenCV cannot write such an image as '{suffix}'")
    return bytes(data.tobytes())


def encode_labels(labels: Labels) -> bytes:
    """Encode class ids (H, W) as a single-channel PNG that says who made it; see `is_label_image`."""
    data = encode_image(".png", labels)
    chunk = struct.pack(">I", len(_MARK) - 4) + _MARK + struct.pack(">I", zlib.crc32(_MARK))
    return data[:_PNG_HEADER] + chunk + data[_PNG_HEADER:]


def is_label_image(path: Path) -> bool:
    """Whether a file is a label image that this program wrote, by its mark."""
    try:
        with path.open("rb") as file:
            head = file.read(_PNG_HEADER + 4 + len(_MARK))
    except OSError:
        return False
    return head[_PNG_HEADER + 4 :] == _MARK


def encode_jpeg(frame: Frame, quality: int) -> bytes:
    """Encode a BGR frame (H, W, 3) as JPEG; `quality` is between 0 and 100."""
    return bytes(cv2.imencode(".jpg", frame, (cv2.IMWRITE_JPEG_QUALITY, quality))[1].tobytes())


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Encode a picture, or class ids (H, W), as PNG at the fastest of its compressions."""
    return bytes(cv2.imencode(".png", image, (cv2.IMWRITE_PNG_COMPRESSION, 1))[1].tobytes())


def decode_frame(data: bytes) -> Frame:
    """Decode what `encode_jpeg` made: BGR (H, W, 3)."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), dtype=np.uint8)


def decode_labels(data: bytes) -> Labels:
    """Decode what `encode_png` made of class ids (H, W)."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), dtype=np.uint8)


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image atomically; the suffix of `path` chooses the format.

    Raises:
        UserError: no image format has this suffix, or it cannot hold such an image.
        OSError: it cannot be written (full disk, no permission).
    """
    try:
        data = encode_image(path.suffix, image)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    write_bytes(path, data)


def fitting_size(frame_size: tuple[int, ...], width: int, multiple: int) -> tuple[int, int]:
    """Input size for frames of `frame_size` (H, W): about so wide, of their aspect, in whole multiples.

    >>> fitting_size((360, 640), 512, 32)
    (288, 512)
    """
    w = max(1, round(width / multiple))
    h = max(1, round(width * frame_size[0] / frame_size[1] / multiple))
    return h * multiple, w * multiple


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
