"""A channel between two threads."""

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """A bounded queue that can be closed.

    With `newest`, a full channel forgets its oldest item instead of making the producer wait: the
    consumer of a live source then always works on the newest frame.
    """

    def __init__(self, capacity: int, *, newest: bool = False) -> None:
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._newest = newest
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T, timeout: float | None = None) -> bool:
        """Put an item in; wait for room if no item may be lost.

        Returns:
            False when the channel is closed, or still full after `timeout` seconds.
        """
        with self._changed:
            if self._newest:
                while len(self._items) >= self._capacity:
                    self._items.popleft()
            elif not self._changed.wait_for(
                lambda: self._closed or len(self._items) < self._capacity, timeout
            ):
                return False
            if self._closed:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self, timeout: float | None = None) -> T | None:
        """Take the oldest item; None after `timeout` seconds, or when the channel is closed and empty."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._items and not self._closed:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Accept no more items. Items inside can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether the channel is closed."""
        with self._changed:
            return self._closed

    @property
    def drained(self) -> bool:
        """Whether the channel is closed and empty."""
        with self._changed:
            return self._closed and not self._items
