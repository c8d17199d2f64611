"""A line to an autopilot or a chart plotter, UDP, TCP or serial, kept up by a thread of its own.

udp:HOST:PORT or udpout:HOST:PORT   send there         udpin:[HOST:]PORT   wait there for the other side
tcp:HOST:PORT                       connect to it      serial:DEVICE:BAUD  a serial port
"""

import re
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from il2vseg.base.errors import UserError
from il2vseg.runtime.events import ignore
from il2vseg.runtime.sources.base import Report

MAX_QUEUED = 256
"""Pieces that wait for a slow line; of more, the oldest are forgotten."""

TICK_S = 0.05
_TIMEOUT_S = 3.0
_PAUSES_S = (0.25, 4.0)
_PROOF_S = 0.3  # a port at which nobody listens refuses within this time
_MAX_BAUD = 4_000_000
_NETWORK = re.compile(r"(udp|udpout|udpin|tcp):(?://)?(?:([^/:@\[\]\s]+|\[[0-9A-Fa-f:.%]+\]):)?(\d{1,5})")
_SERIAL = re.compile(r"serial:([^@\s]+?):(\d{3,7})")


@dataclass(frozen=True)
class Address:
    """One end of a line: kind (udp, udpin, tcp or serial), host or device, port or baud rate."""

    kind: str
    place: str
    number: int

    @classmethod
    def parse(cls, flag: str, text: str) -> "Address":
        """Read an address as it stands behind a flag.

        Raises:
            UserError: it is none.
        """
        if (serial := _SERIAL.fullmatch(text)) and 300 <= int(serial[2]) <= _MAX_BAUD:
            return cls("serial", serial[1], int(serial[2]))
        network = _NETWORK.fullmatch(text)
        if (
            network is None
            or not 0 < int(network[3]) < 65536
            or (network[2] is None) > (network[1] == "udpin")
        ):
            raise UserError(
                f"--{flag}: udp:HOST:PORT, udpin:[HOST:]PORT, tcp:HOST:PORT or serial:DEVICE:BAUD is needed"
            )
        kind = "udp" if network[1] == "udpout" else network[1]
        return cls(kind, (network[2] or "0.0.0.0").strip("[]"), int(network[3]))

    def __str__(self) -> str:
        return f"{self.kind}:{self.place}:{self.number}"


def listen_address(flag: str, text: str) -> tuple[str, int]:
    """Split the [HOST:]PORT behind a flag; without a host only this machine is served.

    Raises:
        UserError: there is no valid port.
    """
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise UserError(f"--{flag} {text}: [HOST:]PORT is needed, such as 8080 or 0.0.0.0:8080")
    return host.strip("[]") or "127.0.0.1", int(port)


class Endpoint(Protocol):
    """An open line. Everything raises OSError when it is lost."""

    def send(self, data: bytes) -> None:
        """Send a piece; may wait for a few seconds."""
        ...

    def receive(self) -> bytes:
        """Return what has come, without waiting."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Link:
    """Sends pieces of bytes without ever making its user wait, and hears what comes back.

    While the line is away nothing is kept: what was true then is not any more. Events reported, for a link
    named mavlink: mavlink_connected, and mavlink_lost once for every time that nobody is there, the start
    included. Over UDP somebody is there who does not refuse; with `silence_s`, who is `heard`.
    """

    def __init__(
        self,
        name: str,
        address: str,
        report: Report = ignore,
        *,
        hear: Callable[[bytes], bool] | None = None,
        tick: Callable[[], None] = lambda: None,
        silence_s: float | None = None,
    ) -> None:
        """Prepare; `start` connects.

        Args:
            name: of the flag, and of the events.
            hear: told of what comes in; True if this shows that the other side is there.
            tick: called about every TICK_S, also while nobody is there.
            silence_s: how long the other side may say nothing; None where it never says anything.
        Raises:
            UserError: it is no address. ImportError: a serial port, and pyserial is not installed.
        """
        self._address = Address.parse(name, address)
        if self._address.kind == "serial":
            import serial  # noqa: F401
        self._name, self._report = name, report
        self._hear, self._tick, self._silence_s = hear, tick, silence_s
        self._queue: deque[bytes] = deque(maxlen=MAX_QUEUED)
        self._wake, self._closing = threading.Event(), threading.Event()
        self._up: bool | None = None
        self._heard = time.monotonic()
        self._sent: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"{name} link", daemon=True)
        self._pause = _PAUSES_S[0]

    def start(self) -> None:
        """Start to connect."""
        self._thread.start()

    def send(self, data: bytes) -> None:
        """Send a piece, if somebody is there."""
        self._queue.append(data)
        self._wake.set()

    def close(self) -> None:
        """Send what waits, and end."""
        self._closing.set()
        self._wake.set()
        self._thread.join(_TIMEOUT_S)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                with closing(_open(self._address)) as endpoint:
                    self._queue.clear()
                    self._sent = None
                    if self._address.kind in ("tcp", "serial"):
                        self._connected(heard=False)
                    self._serve(endpoint)
            except OSError as error:
                self._lost(_reason(error))
                until = time.monotonic() + self._pause
                while time.monotonic() < until and not self._closing.wait(TICK_S):
                    self._tick()
                self._pause = min(2 * self._pause, _PAUSES_S[1])

    def _serve(self, endpoint: Endpoint) -> None:
        while True:
            self._wake.wait(TICK_S)
            self._wake.clear()
            ending = self._closing.is_set()
            self._tick()
            while self._queue:
                endpoint.send(self._queue.popleft())
                self._sent = self._sent or time.monotonic()
            if ending:
                return
            if (data := endpoint.receive()) and self._hear is not None and self._hear(data):
                self._heard = time.monotonic()
                self._connected(heard=True)
            now = time.monotonic()
            if self._sent is not None and now - self._sent > _PROOF_S:
                self._connected(heard=False)
            if self._silence_s is not None and now - self._heard > self._silence_s:
                self._lost("says nothing")

    def _connected(self, *, heard: bool) -> None:
        if self._up or (self._silence_s is not None and not heard):
            return
        self._up, self._pause = True, _PAUSES_S[0]
        self._report(f"{self._name}_connected", f"{self._name}: connected ({self._address})")

    def _lost(self, what: str) -> None:
        if self._up is not False and not self._closing.is_set():
            self._up = False
            self._report(f"{self._name}_lost", f"{self._name}: {self._address} {what}; trying again")


def _reason(error: OSError) -> str:
    return f"is away ({error.strerror or ' '.join(str(error).split())[:100] or type(error).__name__})"


def _open(address: Address) -> Endpoint:
    """Open a line; OSError where that fails."""
    if address.kind == "serial":
        return _Serial(address.place, address.number)
    return (_Tcp if address.kind == "tcp" else _Udp)(address)


class _Udp:
    """Datagrams to a place, or to whoever spoke last."""

    def __init__(self, address: Address) -> None:
        self._waits = address.kind == "udpin"
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.place, address.number, type=socket.SOCK_DGRAM
        )[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._peer: Any = None
        if self._waits:
            self._socket.bind(place)
        else:
            self._socket.connect(place)

    def send(self, data: bytes) -> None:
        try:
            if not self._waits:
                self._socket.send(data)
            elif self._peer is not None:
                self._socket.sendto(data, self._peer)
        except BlockingIOError:
            return  # the network is slower than we are: a datagram may be lost

    def receive(self) -> bytes:
        heard = b""
        try:
            while len(heard) < 65536:
                data, self._peer = self._socket.recvfrom(4096)
                heard += data
        except BlockingIOError:
            pass
        return heard

    def close(self) -> None:
        self._socket.close()


class _Tcp:
    """A connection that we make."""

    def __init__(self, address: Address) -> None:
        self._socket = socket.create_connection((address.place, address.number), _TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> bytes:
        if not select.select([self._socket], [], [], 0)[0]:
            return b""
        if not (data := self._socket.recv(65536)):
            raise ConnectionResetError("it hung up")
        return data

    def close(self) -> None:
        self._socket.close()


class _Serial:
    """A serial port, 8N1."""

    def __init__(self, device: str, baud: int) -> None:
        import serial

        try:
            self._port = serial.Serial(device, baud, timeout=0, write_timeout=_TIMEOUT_S)
        except ValueError as error:
            raise OSError(str(error)) from None

    def send(self, data: bytes) -> None:
        self._port.write(data)

    def receive(self) -> bytes:
        waiting: int = self._port.in_waiting
        return bytes(self._port.read(waiting)) if waiting else b""

    def close(self) -> None:
        self._port.close()
