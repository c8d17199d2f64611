"""Waiting for what another thread or process does, as long as it takes and no longer."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], seconds: float = 30.0, what: str = "it") -> None:
    """Wait until `condition()` holds; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.005)
