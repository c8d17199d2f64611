"""The files behind a source."""

import glob
import os
import re
from pathlib import Path
from urllib.parse import unquote

from il2vseg.base.errors import UserError
from il2vseg.base.files import FOOTAGE_SUFFIXES, list_files
from il2vseg.base.redact import redacted

_FILE = "file://"


def local_path(source: str) -> str:
    """Return the path that a file:// address names; any other source as it is."""
    if not source.lower().startswith(_FILE) or os.path.lexists(source):
        return source
    path = source[len(_FILE) :]
    # As it stands, or as programs write it: with percent signs.
    return path if os.path.lexists(path) else unquote(path.removeprefix("localhost"))


def list_source(source: str) -> tuple[list[Path], Path]:
    """List the files of a file, folder or pattern.

    Returns:
        the files in order, and the folder that names of frames are relative to.
    Raises:
        UserError: there is nothing that can be read.
    """
    path = Path(local_path(source))
    if path.is_dir():
        files = list_files(path, FOOTAGE_SUFFIXES)
        if not files:
            raise UserError(f"{path}: no images and no clips in this folder")
        return files, path
    if os.path.lexists(path):
        return [path], path.parent
    files = sorted(Path(p) for p in glob.glob(source, recursive=True) if not os.path.isdir(p))
    if not files:
        raise UserError(f"{redacted(source)}: no such file, folder or pattern")
    # Names of frames come from the part of the path that the pattern leaves open.
    return files, Path(re.split(r"[*?\[]", source)[0] + "_").parent
