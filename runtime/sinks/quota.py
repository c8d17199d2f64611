"""A limit for what recordings take on the disk: the oldest go first."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from il2vseg.runtime.output import Output
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sources.base import Report

SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".avi", ".ts", ".png", ".mcap"})
"""Files that may be deleted; nothing else in the folders is touched."""

CHECK_EVERY_S = 5.0
_FRESH_S = 10.0


class QuotaSink(Sink):
    """Deletes the oldest recordings in some folders when all of them take more than a number of bytes.

    Events reported: quota, with the number of files deleted.
    """

    name = "quota"

    def __init__(self, folders: Sequence[Path], limit: int, report: Report) -> None:
        self._folders = folders
        self._limit = limit
        self._report = report
        self._next = 0.0

    def write(self, output: Output) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + CHECK_EVERY_S
            self.enforce()

    def enforce(self) -> list[Path]:
        """Delete what is too much and return it. Files written to a moment ago are left alone."""
        files = []
        for folder in dict.fromkeys(self._folders):
            for path in folder.rglob("*"):
                with suppress(OSError):  # others delete, too
                    if path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink():
                        status = path.stat()
                        files.append((status.st_mtime, status.st_size, path))
        files.sort()
        excess = sum(size for _, size, _ in files) - self._limit
        deleted = []
        for modified, size, path in files:
            if excess <= 0 or modified > time.time() - _FRESH_S:
                break
            with suppress(OSError):
                path.unlink()
                deleted.append(path)
                excess -= size
        if deleted:
            self._report("quota", f"deleted {len(deleted)} old recordings", files=len(deleted))
        return deleted
