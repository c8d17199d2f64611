"""Files: atomic writes, hashes, and what counts as an image or a clip."""

import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from il2vseg.base.errors import UserError


def _suffixes(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


IMAGE_SUFFIXES = _suffixes("jpg jpeg jpe jfif png bmp dib tif tiff webp ppm pgm pbm pnm jp2")
CLIP_SUFFIXES = _suffixes(
    "mp4 m4v mov avi divx mkv webm ts m2ts mts mpg mpeg m2v vob wmv asf flv f4v 3gp 3g2 mxf ogv y4m gif "
    "mjpg mjpeg h264 264 hevc h265 265"
)
UNREAD_SUFFIXES = _suffixes("heic heif hif avif jxl dng cr2 cr3 nef arw rw2 orf raf")
"""Pictures that are not read: they are listed with the others, so that they are refused by name."""

FOOTAGE_SUFFIXES = IMAGE_SUFFIXES | CLIP_SUFFIXES | UNREAD_SUFFIXES


def is_clip_file(path: PurePath) -> bool:
    """Whether a file is to be read as a clip: by its suffix, one that nobody knows included."""
    return path.suffix.lower() not in IMAGE_SUFFIXES | UNREAD_SUFFIXES


def cache_home() -> Path:
    """The folder of everything cached: $IL2VSEG_CACHE, else ~/.cache/il2vseg."""
    return Path(os.environ.get("IL2VSEG_CACHE") or Path.home() / ".cache" / "il2vseg")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same suffix); rename it over `path` only on success.

    A reader sees the old file or the whole new one, and a failure leaves nothing behind.

    Raises:
        OSError: it cannot be written (full disk, no permission); its `filename` is `path`.
    """
    temporary = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Created here, so that two writers never share it and the umask decides who may read the result.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        temporary.replace(path)
    except OSError as error:
        # A failed write (disk full) names no file, a failed open names one that nobody knows.
        if error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically, as indented JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_writable_dir(path: Path) -> Path:
    """Make sure that `path` is a folder that can be written, before long work starts.

    Raises:
        UserError: it is a file, or cannot be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(
            f"{path}: cannot write here ({error.strerror}); choose another output folder"
        ) from None
    return path


def _natural_key(path: Path) -> tuple[list[int | str], str]:
    # Odd parts are the digits. The path itself decides between frame_1 and frame_01.
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], str(path)


def list_files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """List the files below `folder` with one of the `suffixes`, in natural order (frame_2 before frame_10).

    Links to files and folders are followed; one that leads nowhere is listed, so that whoever reads it says
    so. Hidden files and those in hidden folders (.thumbnails, .ipynb_checkpoints) are left out.

    Raises:
        UserError: `folder`, or a folder in it, does not exist, is no folder or may not be read.
    """
    if not folder.exists():
        raise UserError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file, but a folder is needed")
    return sorted(_walk(folder, suffixes, ()), key=_natural_key)


def _walk(folder: Path, suffixes: frozenset[str], above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    try:
        status = folder.stat()
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UserError(f"{folder}: this folder cannot be read ({error.strerror})") from None
    own = (status.st_dev, status.st_ino)
    if own in above:  # a link to a folder that it lies in
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(folder / entry.name, suffixes, (*above, own))
        elif Path(entry.name).suffix.lower() in suffixes and (entry.is_file() or entry.is_symlink()):
            yield folder / entry.name
