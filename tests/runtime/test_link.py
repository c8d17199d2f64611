"""The line to an autopilot or a plotter: addresses, what waits and what is forgotten."""

import socket

import pytest

from il2vseg.runtime.sinks.link import Address, Link
from tests.waiting import eventually

from . import servers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("udp:10.0.0.7:14550", ("udp", "10.0.0.7", 14550)),
        ("udpout:boat:14550", ("udp", "boat", 14550)),
        ("udp://[::1]:14550", ("udp", "::1", 14550)),
        ("udpin:14550", ("udpin", "0.0.0.0", 14550)),
        ("tcp:127.0.0.1:5760", ("tcp", "127.0.0.1", 5760)),
        ("serial:/dev/ttyACM0:57600", ("serial", "/dev/ttyACM0", 57600)),
        ("serial:COM3:4800", ("serial", "COM3", 4800)),
    ],
)
def test_addresses(text: str, expected: tuple[str, str, int]) -> None:
    assert tuple(vars(Address.parse("mavlink", text)).values()) == expected


def test_what_was_true_while_nobody_was_there_is_not_sent() -> None:
    port, events = servers.free_port(), []
    line = Link("nmea", f"tcp:127.0.0.1:{port}", lambda kind, message: events.append(kind))
    line.start()
    try:
        eventually(lambda: events == ["nmea_lost"])
        line.send(b"old")
        with socket.create_server(("127.0.0.1", port)) as server:
            connection, _ = server.accept()
            eventually(lambda: events[1:] == ["nmea_connected"])
            line.send(b"new")
            assert connection.recv(100) == b"new"
            connection.close()
    finally:
        line.close()


def test_a_slow_line_forgets_the_oldest() -> None:
    line = Link("mavlink", "udp:127.0.0.1:9")
    for i in range(1000):
        line.send(bytes([i % 256]))
    assert len(line._queue) == 256
