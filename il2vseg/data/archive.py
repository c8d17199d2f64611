"""Archives of footage on any file system that Arrow knows: local folders, s3://, gs://, hdfs://."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from il2vseg.base.errors import UserError
from il2vseg.base.files import FOOTAGE_SUFFIXES, is_clip_file, list_files, write_bytes
from il2vseg.base.redact import redacted, scrubbed


@dataclass(frozen=True)
class Place:
    """A folder on a file system. It can be sent to other processes.

        place = Place.of("s3://fleet/2026?region=eu-west-1")
        place.put("labels/0001.png", data)

    Attributes:
        filesystem: of pyarrow.fs. root: the folder on it, without a slash at its end.
    """

    filesystem: Any
    root: str

    @classmethod
    def of(cls, where: str) -> "Place":
        """Open a path or a URI; nothing has to exist there.

        Raises:
            UserError: no file system answers to such a URI.
        """
        import pyarrow
        from pyarrow import fs

        if "://" not in where:
            return cls(fs.LocalFileSystem(), Path(where).absolute().as_posix())
        try:
            filesystem, root = fs.FileSystem.from_uri(where)
        except (pyarrow.ArrowException, ValueError, OSError) as error:
            raise UserError(f"{redacted(where)}: {scrubbed(_one_line(error), [where])}") from None
        return cls(filesystem, root.rstrip("/"))

    @property
    def local(self) -> bool:
        """Whether the folder is in the file tree of this machine."""
        return bool(self.filesystem.type_name == "local")

    def path(self, name: str) -> str:
        """Return the file system's path of a file below the folder."""
        return f"{self.root}/{name}" if name else self.root

    def real(self, name: str) -> str:
        """Return the path of a file below the folder without links, where it has some."""
        return os.path.realpath(self.path(name)) if self.local else self.path(name)

    def names(self, folder: str = "") -> list[str]:
        """List the files below `folder`, at any depth, relative to this place; none if it does not exist.

        Raises:
            UserError: the file system does not answer, or refuses.
        """
        from pyarrow import fs

        selector = fs.FileSelector(self.path(folder), allow_not_found=True, recursive=True)
        try:
            found = self.filesystem.get_file_info(selector)
        except OSError as error:
            raise UserError(f"{self.path(folder)}: {_one_line(error)}") from None
        return sorted(i.path.removeprefix(f"{self.root}/") for i in found if i.type == fs.FileType.File)

    def is_file(self, name: str = "") -> bool:
        """Whether there is such a file; without a name, whether the place itself is a file."""
        from pyarrow import fs

        try:
            kind = self.filesystem.get_file_info(self.path(name)).type
        except OSError as error:
            raise UserError(f"{self.path(name)}: {_one_line(error)}") from None
        return bool(kind == fs.FileType.File)

    def get(self, name: str) -> bytes:
        """Read a file.

        Raises:
            OSError: it cannot be read.
        """
        with self.filesystem.open_input_stream(self.path(name)) as file:
            data: bytes = file.read()
        return data

    def put(self, name: str, data: bytes) -> None:
        """Write a file that appears whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        if self.local:
            write_bytes(Path(self.path(name)), data)
            return
        # An object store shows an object when its upload is complete.
        with self.filesystem.open_output_stream(self.path(name)) as file:
            file.write(data)

    def delete_folder(self, name: str) -> None:
        """Delete a folder with all that is in it, if it exists."""
        from pyarrow import fs

        if self.filesystem.get_file_info(self.path(name)).type == fs.FileType.Directory:
            self.filesystem.delete_dir(self.path(name))

    @contextmanager
    def on_disk(self, name: str) -> Iterator[Path]:
        """Yield a local path of a file: its own, or that of a temporary copy.

        Raises:
            OSError: it cannot be read.
        """
        if self.local:
            yield Path(self.path(name))
            return
        with tempfile.NamedTemporaryFile(suffix=PurePosixPath(name).suffix) as copy:
            with self.filesystem.open_input_stream(self.path(name)) as file:
                while chunk := file.read(1 << 22):
                    copy.write(chunk)
            copy.flush()
            yield Path(copy.name)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def list_footage(where: str) -> tuple[Place, list[str]]:
    """List the images and clips of a folder, a pattern (`*` within a name, `**` across folders) or one file.

    Files and folders whose names begin with a dot are left out.

    Returns:
        the place that names are relative to (of a pattern: the folder before its first star), and the names
        in order.
    Raises:
        UserError: nothing is there, or the file system does not answer.
    """
    pattern = None
    if "*" in where:
        # A URI's options follow a question mark.
        head, _, options = where.partition("?") if "://" in where else (where, "", "")
        fixed = head.partition("*")[0]
        folder, slash, _ = fixed.rpartition("/")
        pattern = _matcher(head[len(folder + slash) :])
        folder = folder or slash or "."
        place = Place.of(f"{folder}?{options}" if options else folder)
    else:
        place = Place.of(where)
        if place.is_file():
            folder, _, name = place.root.rpartition("/")
            place, pattern = Place(place.filesystem, folder), re.compile(re.escape(name))
    names = [
        name
        for name in _footage(place)
        if not any(part.startswith(".") for part in name.split("/"))
        and (pattern is None or pattern.fullmatch(name))
    ]
    if not names:
        raise UserError(f"{redacted(where)}: no image and no clip there")
    return place, names


def _footage(place: Place) -> list[str]:
    """List what looks like an image or a clip; on this machine links are followed."""
    if place.local and os.path.isdir(place.root):
        root = Path(place.root)
        return sorted(path.relative_to(root).as_posix() for path in list_files(root, FOOTAGE_SUFFIXES))
    return [name for name in place.names() if PurePosixPath(name).suffix.lower() in FOOTAGE_SUFFIXES]


def is_clip(name: str) -> bool:
    """Whether a file is a clip, by its suffix."""
    return is_clip_file(PurePosixPath(name))


def _matcher(pattern: str) -> re.Pattern[str]:
    """Translate a pattern: `**/` any folders or none, `**` anything, `*` anything but a slash."""
    parts = re.split(r"(\*\*/|\*\*|\*)", pattern)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    return re.compile("".join(known.get(part, re.escape(part)) for part in parts))
