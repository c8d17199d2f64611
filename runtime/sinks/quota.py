"""A limit on the disk space of recordings: the oldest are deleted first."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from il2vseg.base.outputs import Ledger
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sources.base import Report

CHECK_EVERY_S = 5.0
_FRESH_S = 10.0
_MAX_LOAD = 0.05
"""Share of the time that looking at the files may take, where there are very many."""


class QuotaSink(Sink):
    """Deletes the oldest recordings in its folders when together they take more than a number of bytes.

    A recording is what the folder's ledger knows and what has not changed since: any other file is a
    person's, neither counted nor touched. Events reported: quota, with the number of files deleted.
    """

    name = "quota"

    def __init__(self, folders: Sequence[Path], limit: int, report: Report) -> None:
        self._folders = folders
        self._limit = limit
        self._report = report
        self._next = 0.0

    def write(self, result: Result) -> None:
        now = time.monotonic()
        if now >= self._next:
            self.enforce()
            took = time.monotonic() - now
            self._next = now + max(CHECK_EVERY_S, took / _MAX_LOAD)

    def enforce(self) -> list[Path]:
        """Delete what is too much and return it. Files written to a moment ago are left alone.

        Raises:
            OSError: a ledger cannot be written.
        """
        ledgers = {folder.resolve(): Ledger(folder) for folder in self._folders}
        files = []
        for ledger in ledgers.values():
            for name, status in ledger.files().items():
                files.append((status.st_mtime, status.st_size, ledger.folder / name, ledger, name))
        files.sort(key=lambda file: file[:3])
        excess = sum(file[1] for file in files) - self._limit
        gone: dict[Ledger, list[str]] = {}
        deleted = []
        for modified, size, path, ledger, name in files:
            if excess <= 0 or modified > time.time() - _FRESH_S:
                break
            with suppress(OSError):  # others delete, too
                path.unlink()
                deleted.append(path)
                gone.setdefault(ledger, []).append(name)
                excess -= size
        for ledger, names in gone.items():
            ledger.forget(names)
        if deleted:
            self._report("quota", f"deleted {len(deleted)} old recordings", files=len(deleted))
        return deleted
