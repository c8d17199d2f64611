"""Waits for the network that another thread, or the end of the process, cuts short.

PyAV waits in FFmpeg, which asks it every 100 ms whether the limit has passed; PyAV then asks the `time` of
its own module, and offers no other way in. Here that clock leaps ahead for threads that nobody waits for any
more. A thread still in FFmpeg while the interpreter ends would crash the process at its next question.
"""

import atexit
import itertools
import threading
import time
from typing import Any

_YEAR_S = 3.2e7
_EXIT_S = 2.0
"""Seconds that the end of the process waits for its readers; a driver may hang for longer."""

_readers: frozenset[threading.Thread] = frozenset()
_interrupted: frozenset[threading.Thread] = frozenset()
_lock = threading.Lock()


class _Clock:
    """The module `time`, but for interrupted threads a year passes between two questions."""

    _years = itertools.count(1)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        me = threading.get_ident()  # used again after a thread ends
        interrupted = any(t.ident == me and t.is_alive() for t in _interrupted)
        return time.monotonic() + (_YEAR_S * next(self._years) if interrupted else 0.0)


def watch_this_thread() -> None:
    """Make the waits of this thread in PyAV interruptible; the end of the process ends them, too."""
    global _readers
    import av.container.core as core

    with _lock:
        _readers = frozenset(t for t in _readers if t.is_alive()) | {threading.current_thread()}
        if not isinstance(vars(core).get("time"), _Clock):
            vars(core)["time"] = _Clock()


def interrupt(thread: threading.Thread) -> None:
    """End the wait that a watched thread is in, if it is in one."""
    global _interrupted
    with _lock:
        _interrupted = frozenset(t for t in _interrupted if t.is_alive()) | {thread}


@atexit.register
def _end_readers() -> None:
    for thread in _readers:
        interrupt(thread)
    end = time.monotonic() + _EXIT_S
    for thread in _readers - {threading.current_thread()}:
        thread.join(max(0.0, end - time.monotonic()))
