"""Trying the export on a clip: frames with the result drawn in, one stream at a time."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from il2vseg.base.errors import UserError
from il2vseg.base.files import CLIP_SUFFIXES, list_files, sha256_file, write_text
from il2vseg.studio.footage import small
from il2vseg.studio.project import Footage

WIDTH = 960
MIN_PERIOD_S = 1 / 15
RENDERED = "synthetic:frames=300"


def clips(footage: Footage, more: Sequence[Path] = ()) -> list[tuple[str, str]]:
    """What can be tried: (title, source of `il2vseg run`).

    Args:
        more: clips or folders that were given to be tried; they come first.
    """
    found = [(path.name, str(path)) for path in more]
    root = footage.root
    if root is None:
        return [*found, ("rendered clip", RENDERED)]
    found.append((f"all of {root.name}", str(root)))
    if root.is_dir():
        found += [(path.relative_to(root).as_posix(), str(path)) for path in list_files(root, CLIP_SUFFIXES)]
    return found


class Trial:
    """The stream that is shown, and its numbers.

    Attributes:
        status: number of the stream, its state (none, running, stopped, done or failed, then with its
            error) and the last frame that was shown: name, index, classes with their shares in [0, 1], and
            ms, how long it took.
    """

    def __init__(self, note: Path) -> None:
        """Args:
        note: file that remembers which export was tried.
        """
        self._note = note
        self._lock = threading.Lock()
        self._number = 0
        self.status: dict[str, Any] = {"number": 0, "state": "none"}

    def stop(self) -> int:
        """End the stream that is shown; return the number of the next one."""
        with self._lock:
            self._number += 1
            if self.status["state"] == "running":
                self.status = self.status | {"state": "stopped"}
            return self._number

    def tried(self, export: Path) -> bool:
        """Whether this very export was shown."""
        try:
            return self._note.read_text(encoding="utf-8").strip() == sha256_file(export / "manifest.json")
        except OSError:
            return False

    def frames(self, export: Path, source: str) -> Iterator[bytes]:
        """Yield JPEGs of a source, as a camera would be seen; ends when another stream begins.

        The shares are not drawn in: the page shows them beside the picture. What is wrong with the export or
        the source is told by `status`.
        """
        number = self.stop()
        try:
            yield from self._frames(number, export, source)
        except UserError as error:
            self._end(number, state="failed", error=str(error))
        finally:
            self._end(number, state="stopped")

    def _end(self, number: int, **how: str) -> None:
        """Say how a stream ended, unless another one is shown or that was said."""
        with self._lock:
            own = self.status if self.status["number"] == number else {"number": number, "state": "running"}
            if number == self._number and own["state"] == "running":
                self.status = own | how

    def _frames(self, number: int, export: Path, source: str) -> Iterator[bytes]:
        from il2vseg.api import load, stream

        with load(export) as model:
            shown, noted = time.monotonic(), False
            for result in stream(source, model):
                shares, times = result.fractions, result.latency_ms
                status = {
                    "number": number,
                    "state": "running",
                    "name": result.name,
                    "index": result.index,
                    # Frames wait here, since they are shown no faster than people can see.
                    "ms": round(times["total"] - times["wait"], 1),
                    "classes": [
                        {"name": c.name, "color": list(c.color), "share": round(shares[c.name], 4)}
                        for c in result.classes
                    ],
                }
                with self._lock:
                    if number != self._number:
                        return
                    self.status = status
                yield small(result.draw(legend=False), WIDTH)
                if not noted:
                    noted = True
                    write_text(self._note, sha256_file(export / "manifest.json") + "\n")
                time.sleep(max(0.0, shown + MIN_PERIOD_S - time.monotonic()))
                shown = time.monotonic()
        self._end(number, state="done")
