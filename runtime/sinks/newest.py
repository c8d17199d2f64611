"""The newest of many values, for who is slower than they come."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from il2vseg.runtime.channel import Channel

T = TypeVar("T")


class Newest(Generic[T]):
    """Calls a function in a thread of its own with one value after another, but for those that come too fast.

    An OSError or RuntimeError of the function is raised by the next `put`.
    """

    def __init__(self, use: Callable[[T], None], name: str) -> None:
        self._use = use
        self._channel: Channel[T] = Channel(1, newest=True)
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, value: T) -> None:
        """Hand over a value; never waits."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise OSError(str(failure)) from failure
        self._channel.put(value)

    def close(self) -> None:
        """Use what waits, and end."""
        self._channel.close()
        self._thread.join(5.0)

    def _run(self) -> None:
        while (value := self._channel.get()) is not None:
            try:
                self._use(value)
            except (OSError, RuntimeError) as error:
                self._failure = error
