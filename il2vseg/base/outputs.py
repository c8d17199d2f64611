"""Output files: never over an input, never two under one name, and recognised later.

`protect` refuses, before anything is written, an output that would replace an input. `frame_names` gives
every file a name of its own on any file system. A `Ledger` knows what this program wrote into a folder: the
disk quota deletes nothing else.
"""

import json
import os
import stat
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path

from il2vseg.base.errors import UserError
from il2vseg.base.files import FOOTAGE_SUFFIXES, is_clip_file, list_files, write_bytes

MODEL_SUFFIXES = frozenset({".safetensors", ".yaml", ".onnx", ".data", ".engine", ".xml", ".bin"})
RUN_NAME = "metrics.jsonl"
"""A file in the output folder of every training."""

LEDGER_NAME = ".il2vseg-recordings"

CLOCK_S = 2.0
"""Two times of a file that differ by less are one: FAT keeps even seconds."""

UNFINISHED_S = 86_400.0
"""A recording that was never finished (power cut) was written to within so many seconds of its beginning."""


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file that a path names, None if there is none."""
    with suppress(OSError, ValueError):
        status = path.stat()
        return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
    return None


def key_of(name: str) -> str:
    """What a name is compared by: some file systems ignore case, some the form of accents."""
    return unicodedata.normalize("NFC", name).casefold()


def protect(
    outputs: Iterable[Path], inputs: Iterable[Path], *, advice: str = "choose another output"
) -> None:
    """Make sure that no output is a file that is read, nor the place of another output.

    Files are told apart by what they are, so that links, case and the spelling of a path hide nothing.

    Raises:
        UserError: an output would replace an input, or two outputs are one file.
    """
    places: dict[str, Path] = {}
    existing: dict[tuple[int, int], Path] = {}
    for output in outputs:
        if output.exists() and not output.is_file():
            continue  # a device such as /dev/null loses nothing
        place = key_of(os.path.realpath(output))
        identity = _identity(output)
        other = places.get(place) or (existing.get(identity) if identity else None)
        if other is not None:
            raise UserError(f"{output} and {other} are one file; two outputs cannot share it")
        places[place] = output
        if identity is not None:
            existing[identity] = output
    if not existing:
        return  # what does not exist cannot be replaced
    for path in inputs:
        if (replaced := existing.get(_identity(path) or (-1, -1))) is not None:
            link = "" if str(replaced) == str(path) else f"is {path}, which "
            raise UserError(f"{replaced}: {link}is read by this run and would be overwritten; {advice}")


def footage_files(*roots: Path | None) -> Iterator[Path]:
    """Every image and clip at or below some paths; paths that do not exist hold none."""
    for root in roots:
        if root is not None and root.is_dir():
            yield from list_files(root, FOOTAGE_SUFFIXES)
        elif root is not None and root.exists():
            yield root


def model_files(folder: Path | None) -> list[Path]:
    """The files that the model or checkpoint in a folder consists of; a model's file stands for itself."""
    if folder is None or not folder.is_dir():
        return [] if folder is None else [folder]
    return [
        path for path in folder.iterdir() if path.suffix in MODEL_SUFFIXES or path.name == "manifest.json"
    ]


def protect_run(
    out: Path, names: Iterable[str], root: Path | None, others: Iterable[Path | None] = ()
) -> None:
    """Make sure that what a command writes into a folder replaces neither footage nor other inputs.

    Args:
        names: of the files that it writes. root: the footage. others: further files that it reads.
    Raises:
        UserError: one of them would. What an earlier run wrote to the same folder is replaced, also where
            that lies below the footage.
    """
    written = {out / name for name in names}
    again = (out / RUN_NAME).is_file() and root is not None and out.resolve() != root.resolve()
    ours = {path.resolve() for path in written if again and path.exists()}
    footage = (path for path in footage_files(root) if not (ours and path.resolve() in ours))
    inputs = (path for path in chain(footage, others) if path is not None)
    protect(sorted(written), inputs, advice="choose another --out")


def require_only(folder: Path, patterns: Sequence[str]) -> None:
    """Make sure that a folder may be deleted: it holds nothing but files with such names, or does not exist.

    Raises:
        UserError: it holds something else.
    """
    for path in folder.rglob("*"):
        if not path.is_dir() and not any(fnmatch(path.name, pattern) for pattern in patterns):
            raise UserError(f"{path}: {folder} is to be replaced, and this is no earlier output; move it")


def frame_names(files: Sequence[Path], root: Path) -> list[str]:
    """Name files below `root`, of images and clips alike: the path without its suffix where that is enough.

    a.jpg and a.png in one folder keep their suffixes, A.jpg and a.jpg get a number as well, and a clip whose
    name is that of a folder keeps its suffix, too: its frames are named CLIP/frame_000000.

    >>> frame_names([Path("f/a.jpg"), Path("f/b.jpg"), Path("f/b.png")], Path("f"))
    ['a', 'b.jpg', 'b.png']
    """
    relative = [file.relative_to(root) for file in files]
    folders = {key_of(parent.as_posix()) for path in relative for parent in path.parents}
    clips = [is_clip_file(path) for path in relative]
    level = [0] * len(relative)
    while True:
        names = [
            _name(path, number, deep) for number, (path, deep) in enumerate(zip(relative, level, strict=True))
        ]
        keys = [key_of(name) for name in names]
        counts = Counter(keys)
        clash = [i for i, k in enumerate(keys) if counts[k] > 1 or (clips[i] and k in folders)]
        if not clash:
            return names
        for i in clash:
            level[i] += 1


def _name(path: Path, number: int, level: int) -> str:
    if level == 0:
        return path.with_suffix("").as_posix()
    return path.as_posix() + (f"~{number}" * (level - 1))


@dataclass(frozen=True)
class Entry:
    """A file of a ledger: name below its folder, when it was begun; size and time of its end, None before."""

    name: str
    begun: float
    size: int | None = None
    ended: float | None = None

    @classmethod
    def parse(cls, line: str) -> "Entry | None":
        """Read a line; None of one that was cut or tampered with."""
        with suppress(ValueError, KeyError, TypeError):
            values = json.loads(line)
            name, begun = str(values["name"]), float(values["begun"])
            parts = Path(name).parts
            if not parts or ".." in parts or Path(name).is_absolute():
                return None
            size, ended = values.get("size"), values.get("ended")
            return cls(
                name, begun, None if size is None else int(size), None if ended is None else float(ended)
            )
        return None

    def to_line(self) -> str:
        """Return the entry as one line."""
        return json.dumps({k: v for k, v in vars(self).items() if v is not None})

    def describes(self, status: os.stat_result) -> bool:
        """Whether a file is still what was recorded, and not one that a person put in its place."""
        if self.size is None or self.ended is None:
            return self.begun - CLOCK_S <= status.st_mtime <= self.begun + UNFINISHED_S
        return status.st_size == self.size and abs(status.st_mtime - self.ended) <= CLOCK_S


class Ledger:
    """Which files in a folder this program wrote, oldest first, in FOLDER/.il2vseg-recordings.

    Used by one thread. A file is recorded when it is begun and when it is whole; a copy that keeps its name,
    size and time is still known after the folder moved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / LEDGER_NAME

    def begin(self, path: Path) -> None:
        """Record a file that is about to be written.

        Raises:
            OSError: the ledger cannot be written.
        """
        self._append(Entry(self._name(path), time.time()))

    def record(self, path: Path) -> None:
        """Record a file that is whole. One that vanished meanwhile is no longer ours to know.

        Raises:
            OSError: the ledger cannot be written.
        """
        try:
            status = path.stat()
        except FileNotFoundError:
            return
        self._append(Entry(self._name(path), status.st_mtime, status.st_size, status.st_mtime))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _append(self, entry: Entry) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        data = (entry.to_line() + "\n").encode()
        with self._path.open("ab") as file:
            file.write(data)

    def entries(self) -> Iterator[Entry]:
        """Yield what was recorded, oldest first; of a file recorded twice, both."""
        with suppress(FileNotFoundError), self._path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if (entry := Entry.parse(line)) is not None:
                    yield entry

    def files(self) -> dict[str, os.stat_result]:
        """The recorded files that are still there as they were recorded: name and status."""
        latest = {entry.name: entry for entry in self.entries()}
        root = self.folder.resolve()
        found = {}
        for name, entry in latest.items():
            with suppress(OSError):  # others delete, too
                path = self.folder / name
                status = path.lstat()
                inside = path.parent.resolve().is_relative_to(root)
                if inside and stat.S_ISREG(status.st_mode) and entry.describes(status):
                    found[name] = status
        return found

    def forget(self, gone: Iterable[str]) -> None:
        """Leave files out from now on.

        Raises:
            OSError: the ledger cannot be written.
        """
        names = set(gone)
        kept = {entry.name: entry for entry in self.entries() if entry.name not in names}
        write_bytes(self._path, "".join(entry.to_line() + "\n" for entry in kept.values()).encode())
