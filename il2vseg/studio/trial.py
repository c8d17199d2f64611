"""Trying the export on a clip: frames with the result drawn in, one stream at a time."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from il2vseg.base.errors import UserError
from il2vseg.base.files import CLIP_SUFFIXES, list_files
from il2vseg.studio.footage import small
from il2vseg.studio.project import Footage

WIDTH = 800
MIN_PERIOD_S = 1 / 15
RENDERED = "synthetic:frames=300"


def clips(footage: Footage) -> list[tuple[str, str]]:
    """What can be tried: (title, source of `il2vseg run`); the first is all of the footage."""
    root = footage.root
    if root is None:
        return [("rendered clip", RENDERED)]
    found = [(f"all of {root.name}", str(root))]
    if root.is_dir():
        found += [(path.relative_to(root).as_posix(), str(path)) for path in list_files(root, CLIP_SUFFIXES)]
    return found


class Trial:
    """The stream that is shown, and its numbers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self.status: dict[str, Any] = {"state": "none"}

    def stop(self) -> int:
        """End the stream that is shown; return the number of the next one."""
        with self._lock:
            self._number += 1
            return self._number

    def frames(self, export: Path, source: str) -> Iterator[bytes]:
        """Yield JPEGs of a source, as a camera would be seen; ends when another stream begins.

        Raises:
            UserError: there is no export.
        """
        from il2vseg.api import load, stream

        number = self.stop()
        if not (export / "manifest.json").exists():
            raise UserError("export a model first")
        with load(export) as model:
            shown = time.monotonic()
            for result in stream(source, model):
                if number != self._number:
                    return
                self.status = {
                    "state": "running",
                    "record": result.record,
                    "classes": [{"name": c.name, "color": list(c.color)} for c in result.classes],
                }
                yield small(result.overlay, WIDTH)
                time.sleep(max(0.0, shown + MIN_PERIOD_S - time.monotonic()))
                shown = time.monotonic()
        self.status = self.status | {"state": "done"}
