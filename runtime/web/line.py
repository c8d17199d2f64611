"""How far a viewer's line is behind: what the kernel still holds for it, and how fast that leaves.

A send buffer takes megabytes, which are tens of seconds of a slow line. So the next frame waits until the
last ones are nearly through, and is then the newest; a line too slow for large pictures gets small ones.
"""

import math
import socket
import struct
import sys
import time
from collections.abc import Callable

SEND_BUFFER = 256 << 10
"""Bytes that the kernel may hold for a viewer (it doubles them for its own needs)."""

MAX_QUEUED_S = 0.25
"""Seconds of a line's own speed that may be under way when the next frame is sent."""

_MEMORY_S = 1.5
"""Over how long the speed is averaged: a receiver opens its window in large steps."""

_ENOUGH_S = 0.3


def prepare(listening: socket.socket, gone_after_ms: int) -> None:
    """Set what accepted connections inherit: small buffers, and an end for viewers that take nothing."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, gone_after_ms)


def queued_bytes(connection: socket.socket) -> int:
    """Bytes that were sent and did not arrive yet; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    import fcntl
    import termios

    try:
        answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except (OSError, ValueError):
        return 0  # closed meanwhile
    return int(struct.unpack("i", answer)[0])


class Line:
    """The speed of one viewer's line, measured while the next frame waits for it."""

    def __init__(self, queued: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        queued: bytes under way now. clock: seconds.
        """
        self._queued = queued
        self._clock = clock
        self._last: tuple[float, int] | None = None  # time, and bytes under way then
        self._bytes = self._seconds = 0.0

    @property
    def rate(self) -> float | None:
        """Bytes per second, None while it is unknown: the line never kept anything waiting for long."""
        return self._bytes / self._seconds if self._seconds >= _ENOUGH_S else None

    def sent(self) -> None:
        """Note that more was handed to the kernel; to be called before `behind`."""
        self._last = None

    def behind(self) -> float:
        """Seconds until what is under way will have arrived; infinity while that cannot be told."""
        queued, now = self._queued(), self._clock()
        if self._last is not None and self._last[1]:
            passed = now - self._last[0]
            keep = math.exp(-passed / _MEMORY_S)
            self._bytes = keep * self._bytes + max(0, self._last[1] - queued)
            self._seconds = keep * self._seconds + passed
        self._last = now, queued
        if not queued:
            return 0.0
        return queued / self.rate if self.rate else math.inf

    def seconds_for(self, count: int) -> float:
        """Seconds that so many bytes will take, roughly from the first ones on; 0 if none ever waited."""
        return count * self._seconds / self._bytes if self._bytes else 0.0
