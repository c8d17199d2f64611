"""The files behind a source."""

import glob
import os
import re
from pathlib import Path

from il2vseg.base.errors import UserError
from il2vseg.base.files import CLIP_SUFFIXES, IMAGE_SUFFIXES, list_files
from il2vseg.base.redact import redacted


def list_source(source: str) -> tuple[list[Path], Path]:
    """List the files of a file, folder or pattern.

    Returns:
        the files in order, and the folder that names of frames are relative to.
    Raises:
        UserError: there is nothing that can be read.
    """
    path = Path(source)
    if path.is_dir():
        files = list_files(path, IMAGE_SUFFIXES) or list_files(path, CLIP_SUFFIXES)
        if not files:
            raise UserError(f"{path}: no images and no clips in this folder")
        return files, path
    if os.path.lexists(path):
        return [path], path.parent
    files = sorted(Path(p) for p in glob.glob(source, recursive=True) if Path(p).is_file())
    if not files:
        raise UserError(f"{redacted(source)}: no such file, folder or pattern")
    # Names of frames come from the part of the path that the pattern leaves open.
    return files, Path(re.split(r"[*?\[]", source)[0] + "_").parent
