"""Progress of a run, on standard error."""

import sys
import time
from collections.abc import Sequence

from il2vseg.runtime.pipeline import Pipeline

_TERMINAL_EVERY_S = 0.2
_LOG_EVERY_S = 10.0
_QUIET_S = 2.0


class Progress:
    """One line that is rewritten on a terminal; in a log, a line every few seconds."""

    def __init__(self, pipelines: Sequence[Pipeline], totals: Sequence[int | None]) -> None:
        """Follow pipelines, whose totals are known or None."""
        self._pipelines = list(zip(pipelines, totals, strict=True))
        self._terminal = sys.stderr.isatty()
        self._start = time.monotonic()
        self._next = self._start + _QUIET_S
        self._shown = False

    def update(self) -> None:
        """Show the progress if the last time is long enough ago."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_TERMINAL_EVERY_S if self._terminal else _LOG_EVERY_S)
        text = "; ".join(self._state(p, total, now - self._start) for p, total in self._pipelines)
        if self._terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            self._shown = True
        else:
            print(text, file=sys.stderr)

    @staticmethod
    def _state(pipeline: Pipeline, total: int | None, seconds: float) -> str:
        of = f" of {total}" if total else ""
        dropped = f", {pipeline.dropped} dropped" if pipeline.dropped else ""
        return f"{pipeline.frames}{of} frames, {pipeline.frames / seconds:.1f} fps{dropped}"

    def close(self) -> None:
        """Leave the terminal at the start of an empty line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False
