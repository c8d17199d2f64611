"""How far a run is, on standard error."""

import sys
import time

from il2vseg.runtime.pipeline import Pipeline

_TERMINAL_EVERY_S = 0.2
_LOG_EVERY_S = 10.0
_QUIET_S = 2.0


class Progress:
    """One line that is rewritten on a terminal, and a line now and then in a log."""

    def __init__(self, pipeline: Pipeline, total: int | None) -> None:
        self._pipeline = pipeline
        self._total = total
        self._terminal = sys.stderr.isatty()
        self._start = time.monotonic()
        self._next = self._start + _QUIET_S
        self._shown = False

    def update(self) -> None:
        """Show the state if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_TERMINAL_EVERY_S if self._terminal else _LOG_EVERY_S)
        p = self._pipeline
        of = f" of {self._total}" if self._total else ""
        dropped = f", {p.dropped} dropped" if p.dropped else ""
        text = f"{p.frames}{of} frames, {p.frames / (now - self._start):.1f} fps{dropped}"
        if self._terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            self._shown = True
        else:
            print(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the terminal at the start of an empty line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
