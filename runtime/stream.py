"""Results of a source, one after another, for a `for` loop."""

import threading
from collections.abc import Iterator
from pathlib import Path

from il2vseg.runtime.channel import Channel
from il2vseg.runtime.meter import Meter
from il2vseg.runtime.model import Model
from il2vseg.runtime.result import Result
from il2vseg.runtime.sources import Captured, Source, open_source

QUEUED = 4
"""Frames of a recording that are read ahead."""


def stream(source: str | Path | Source, model: Model, *, max_frames: int | None = None) -> Iterator[Result]:
    """Segment a source frame after frame; the source is closed at the end, or when the loop is left.

    Raises:
        UserError: the source cannot be opened, or breaks off.
    """
    opened = source if isinstance(source, Source) else open_source(source)
    return _results(opened, model, max_frames)


def _results(source: Source, model: Model, max_frames: int | None) -> Iterator[Result]:
    meter = Meter(source)
    with source, _Reader(source) as frames:
        for captured in frames:
            begun = meter.take(captured)
            yield meter.complete(model.engine(captured.frame), captured, begun, model.analyse)
            if meter.frames == max_frames:
                return


class _Reader:
    """Reads a source in a thread of its own, so that the engine need not wait for frames."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._frames: Channel[Captured] = Channel(1 if source.live else QUEUED, newest=source.live)
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._read, name="capture", daemon=True)

    def _read(self) -> None:
        try:
            while (captured := self._source.read()) is not None and self._frames.put(captured):
                pass
        except Exception as error:
            self._failure = error
        self._frames.close()

    def __iter__(self) -> Iterator[Captured]:
        while (captured := self._frames.get()) is not None:
            yield captured
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> "_Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._source.interrupt()
        self._frames.close()
        self._thread.join()
