"""Files: atomic writes, hashes, and what counts as an image or a clip."""

import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from il2vseg.base.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
CLIP_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".webm", ".mov", ".ts", ".m4v", ".mpg"})


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

    Hidden files and those in hidden folders (.thumbnails, .ipynb_checkpoints) are left out.

    Raises:
        UserError: `folder` does not exist or is no folder.
    """
    if not folder.exists():
        raise UserError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file, a folder is needed")

    def wanted(path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        return path.suffix.lower() in suffixes and not hidden and path.is_file()

    return sorted(filter(wanted, folder.rglob("*")), key=_natural_key)
