"""Tell systemd that the service is ready and alive (the protocol of sd_notify)."""

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Talks to the service manager named by the environment; without one, does nothing."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        usec = environment.get("WATCHDOG_USEC", "")
        owner = environment.get("WATCHDOG_PID", str(os.getpid()))
        watched = usec.isdigit() and owner == str(os.getpid())
        self.watchdog_s = int(usec) / 1e6 if watched else None
        self._next = 0.0

    def send(self, state: str) -> None:
        """Send a state such as READY=1. A manager that does not listen is no reason to stop."""
        if not self._address:
            return
        # A leading @ stands for the null byte of an abstract address.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
            try:
                s.connect(address)
                s.sendall(state.encode())
            except OSError:
                self._address = ""

    def alive(self) -> None:
        """Feed the watchdog, as often as it needs. To be called only while all is well."""
        now = time.monotonic()
        if self.watchdog_s is not None and now >= self._next:
            self._next = now + self.watchdog_s / 3
            self.send("WATCHDOG=1")
