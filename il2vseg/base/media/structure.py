"""The outermost structure of a file: a file that was cut off announces more bytes than it has."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from il2vseg.base.errors import UserError

_PICTURES = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"
)
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_SYNC = 0x47
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a length."""


def picture_container(start: bytes) -> str | None:
    """Return HEIC or AVIF when a file begins like one; their tiles are not put together here."""
    return _PICTURES.get(start[8:12]) if start[4:8] == b"ftyp" else None


def refuse_picture_container(path: Path, start: bytes) -> None:
    """Refuse HEIC and AVIF, whatever the name says.

    Raises:
        UserError: it is one.
    """
    if kind := picture_container(start):
        raise UserError(f"{path}: {kind} images are not supported; convert them to JPEG or PNG")


def missing_bytes(path: Path) -> int:
    """Return how many bytes a clip (MP4, MOV, AVI, WAV, Matroska) lacks at its end; 0 where none is known."""
    size = os.path.getsize(path)
    with path.open("rb") as file:
        start = file.read(12)
        if start[:4] == b"RIFF":
            # Beyond 2 GiB AVI goes on in further RIFF chunks, each with its own size.
            return max(0, _end_of_riff(file, size) - size)
        if start[:4] == _EBML:
            return max(0, _end_of_segment(file) - size)
        if start[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
            return max(0, _end_of_boxes(file, size) - size)
    return 0


def damaged_packets(path: Path) -> int:
    """Return how many packets of an MPEG transport stream do not begin as they must; of other files 0."""
    size = os.path.getsize(path)
    for length, start in ((188, 0), (192, 4)):
        if size < 2 * length:
            continue
        data = np.memmap(path, np.uint8, "r")
        firsts = data[start::length]
        if firsts[0] == _SYNC and np.count_nonzero(firsts == _SYNC) > len(firsts) // 2:
            return int(np.count_nonzero(firsts != _SYNC))
    return 0


def _end_of_riff(file: BinaryIO, size: int) -> int:
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8 or head[:4] != b"RIFF":
            break
        length = int.from_bytes(head[4:], "little")
        if length in (0, 0xFFFFFFFF):  # never finished: says nothing
            return 0
        position += 8 + length + length % 2
    return position - 1  # the padding of the last chunk is often left out


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(16)
        if len(head) < 8:
            return position + 8
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length == 0:  # to the end of the file
            return size
        if length < 8:
            return size  # not a box: whatever follows, it is not cut off
        position += length
    return position


def _end_of_segment(file: BinaryIO) -> int:
    file.seek(4)
    header = _ebml_size(file)
    if header is None:
        return 0
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return 0
    length = _ebml_size(file)
    return 0 if length is None else file.tell() + length


def _ebml_size(file: BinaryIO) -> int | None:
    """Read a size of variable length; None where it is unknown, as in recordings that were never finished."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    mask = (1 << (7 - extra)) - 1
    value = int.from_bytes(bytes([first[0] & mask]) + file.read(extra), "big")
    return None if value == (1 << 7 * (extra + 1)) - 1 else value


def picture_fault(data: bytes) -> str | None:
    """Say what is wrong with the bytes of a picture that decoders pass over; None where nothing is known."""
    if data[:8] == _PNG:
        return _png_fault(data)
    if data[:2] == _JPEG:
        return None if _jpeg_ends(data) else "it is cut off"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "it is cut off" if int.from_bytes(data[4:8], "little") + 8 > len(data) else None
    if data[:2] == b"BM" and len(data) > 14:
        return _bmp_fault(data)
    return None


def _bmp_fault(data: bytes) -> str | None:
    size, compression = int.from_bytes(data[2:6], "little"), int.from_bytes(data[30:34], "little")
    return "it is cut off" if len(data) < size and compression in (0, 3) else None


def _png_fault(data: bytes) -> str | None:
    position = 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 8 + length
        if end + 4 > len(data):
            break
        kind = data[position + 4 : position + 8]
        critical = not kind[0] & 0x20
        if critical and zlib.crc32(memoryview(data)[position + 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            return f"its part {kind.decode('ascii', 'replace')} is damaged"
        if kind == b"IEND":
            return None
        position = end + 4
    return "it is cut off"


def _markers(data: bytes) -> Iterator[int]:
    """Yield the markers of a JPEG in order, without those inside other segments such as a thumbnail."""
    position = 2
    while 0 <= (position := data.find(b"\xff", position)) < len(data) - 1:
        marker = data[position + 1]
        if marker in (0x00, 0xFF):  # an escaped byte of the picture, or padding
            position += 2 - (marker == 0xFF)
            continue
        yield marker
        position += 2
        if marker not in _JPEG_ALONE:
            position += int.from_bytes(data[position : position + 2], "big")


def _jpeg_ends(data: bytes) -> bool:
    return any(marker == 0xD9 for marker in _markers(data))
