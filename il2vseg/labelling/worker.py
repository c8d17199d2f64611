"""A process that labels files of the archive with an engine of its own."""

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from il2vseg.base.errors import UserError
from il2vseg.base.images import read_frame
from il2vseg.base.media.clips import Clip, Picture
from il2vseg.data.archive import Place, is_clip
from il2vseg.labelling.index import index_schema
from il2vseg.labelling.writers import WRITERS
from il2vseg.runtime.backends.providers import open_engine
from il2vseg.runtime.engine import Engine
from il2vseg.runtime.manifest import FILE_NAME, Manifest, verify_file
from il2vseg.runtime.result import class_fractions

FATAL = ""
"""Stands in place of a source in a row that ends the whole run."""


@dataclass(frozen=True)
class Job:
    """What every worker is told."""

    model: Place
    archive: Place
    out: Place
    format: str
    provider: str
    threads: int


@contextmanager
def model_folder(model: Place) -> Iterator[Path]:
    """Yield a local folder with the files of an exported model: its own, or that of a temporary copy.

    Raises:
        UserError: there is no model, or it is damaged.
    """
    with ExitStack() as stack:
        folder = Path(model.root)
        if not model.local:
            if not model.is_file(FILE_NAME):
                raise UserError(f"{model.root}: no exported model there (il2vseg-export makes one)")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="il2vseg-model-")))
            for name in (name for name in model.names() if "/" not in name):
                (folder / name).write_bytes(model.get(name))
        for entry in Manifest.load(folder).files:
            verify_file(folder, entry)
        yield folder


class Worker:
    """An engine in a process of its own, called with sources."""

    def __init__(self, job: Job) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._job = job
        self._engine: Engine | None = None

    def __call__(self, table: Any) -> Any:
        """Label the files in the column `source` of an Arrow table; return their rows of the index.

        What ends the whole run (the model does not run here, the disk is full) is the last row, with the
        source FATAL: Ray would wrap an exception in its own.
        """
        import pyarrow as pa

        rows = []
        try:
            for source in table.column("source").to_pylist():
                rows.append(self.label(source))
        except (UserError, OSError) as error:
            rows.append({"source": FATAL, "error": f"{self.name}: {error}"})
        return pa.Table.from_pylist(rows, schema=index_schema())

    @property
    def engine(self) -> Engine:
        """The model, loaded at its first use: Ray starts an actor that fails at its start for ever."""
        if self._engine is None:
            with model_folder(self._job.model) as folder:
                self._engine = open_engine(
                    folder, self._job.provider, threads=self._job.threads, say=lambda _: None
                )
        return self._engine

    def label(self, source: str) -> dict[str, Any]:
        """Label one file; return its row of the index.

        Raises:
            UserError: the model does not run here. OSError: the labels cannot be written.
        """
        engine = self.engine
        started = time.perf_counter()
        row: dict[str, Any] = dict.fromkeys(index_schema().names)
        row |= {
            "source": source,
            "frames": 0,
            "worker": self.name,
            "provider": engine.provider,
        }
        classes = len(engine.manifest.classes)
        sums = np.zeros(classes)
        writer = WRITERS[self._job.format](self._job.out, source)
        notes: list[str] = []
        try:
            for picture in self._pictures(source, notes):
                labels = engine(picture.frame).labels
                writer.add(picture.number, labels, picture.seconds if is_clip(source) else None)
                sums += class_fractions(labels, classes)
                row |= {"frames": row["frames"] + 1, "height": labels.shape[0], "width": labels.shape[1]}
        except _UnreadableError as error:
            return row | {"error": str(error), "frames": 0}
        writer.close()
        return row | {
            "labels": writer.name,
            "fractions": (sums / row["frames"]).tolist(),
            "seconds": time.perf_counter() - started,
            "note": "; ".join(notes) or None,
        }

    def _pictures(self, source: str, notes: list[str]) -> Iterator[Picture]:
        """Yield the frames of a file; what cannot be read is told apart from what cannot be written."""
        try:
            with self._job.archive.on_disk(source) as path:
                if is_clip(source):
                    with Clip(path, lambda kind, message, **_: notes.append(_bare(message))) as clip:
                        yield from clip
                else:
                    yield Picture(read_frame(path), 0, 0.0)
        except (UserError, OSError) as error:
            raise _UnreadableError(_bare(str(error))) from None
        except (cv2.error, MemoryError, ValueError) as error:
            raise _UnreadableError(f"{type(error).__name__}: {error}") from None


def _bare(message: str) -> str:
    """Leave out the name of the file: that of a copy of a remote file says nothing."""
    return message.partition(": ")[2] or message


class _UnreadableError(Exception):
    """A file of the archive cannot be read."""
