"""A broker that is not there is an event, once; and an address with any password reaches it."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from il2vseg.base.errors import UserError
from tests.waiting import eventually

from . import servers
from .conftest import needs
from .test_sinks import result

needs("paho", "mqtt")

from il2vseg.runtime.sinks import mqtt  # noqa: E402
from il2vseg.runtime.sinks.mqtt import Broker, MqttSink  # noqa: E402

Log = list[tuple[str, str]]
Open = Callable[[str], Log]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    monkeypatch.setattr(mqtt, "ANSWER_S", 0.2)
    sinks: list[MqttSink] = []

    def start(url: str) -> Log:
        events: Log = []
        sinks.append(
            MqttSink(Broker.parse(url), lambda kind, message, **data: events.append((kind, message)))
        )
        return events

    start.sinks = sinks  # type: ignore[attr-defined]
    yield start
    for sink in sinks:
        sink.close()


def answering(reply: bytes, calls: list[bytes] | None = None) -> int:
    """A server on a free port that answers every connection with these bytes; none: it only listens."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            call = connection.recv(1024)
            if calls is not None:
                calls.append(call)
            connection.sendall(reply)
            if reply:
                connection.close()

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1])


def test_a_broker_that_was_never_there_is_reported(opened: Open) -> None:
    events = opened(f"mqtt://127.0.0.1:{servers.free_port()}/boat")
    eventually(lambda: events)
    assert events[0][0] == "mqtt_lost"
    assert "cannot be reached" in events[0][1]


def test_a_broker_that_accepts_and_says_nothing_is_reported(opened: Open) -> None:
    events = opened(f"mqtt://127.0.0.1:{answering(b'')}/boat")
    (sink,) = opened.sinks  # type: ignore[attr-defined]
    eventually(lambda: sink.write(result(0)) or events)
    assert [kind for kind, _ in events] == ["mqtt_lost"]
    assert "does not answer" in events[0][1]


def test_a_wrong_password_is_reported_once_and_without_it(opened: Open) -> None:
    calls: list[bytes] = []
    refusal = bytes([0x20, 2, 0, 5])
    events = opened(f"mqtt://boat:geh@im/1@127.0.0.1:{answering(refusal, calls)}/boat")
    eventually(lambda: len(calls) == 2)  # paho tries again after a second
    assert b"geh@im/1" in calls[0]
    assert len(events) == 1
    assert events[0][0] == "mqtt_lost"
    assert "refuses" in events[0][1]
    assert "uthori" in events[0][1]
    assert "im/1" not in str(events)


def test_a_run_without_its_broker_says_so_and_goes_on(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from il2vseg.runtime.cli import main

    url = f"mqtt://boat:geheim@127.0.0.1:{servers.free_port()}/boat"
    arguments = ["--source", "synthetic:size=48x64,loop=4", "--max-frames", "10", "--mqtt", url]
    assert main(["--model", str(model), *arguments, "--jsonl", str(tmp_path / "o.jsonl")]) == 0
    assert '"event": "mqtt_lost"' in (tmp_path / "o.jsonl").read_text()
    error = capsys.readouterr().err
    assert "MQTT broker 127.0.0.1" in error
    assert "geheim" not in error


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://boat", ("boat", 1883, "il2vseg", None, None)),
        ("mqtt://boat:1884/a/b/", ("boat", 1884, "a/b", None, None)),
        ("mqtt://u:p@ss/w:o?r#d@boat:1884/bow", ("boat", 1884, "bow", "u", "p@ss/w:o?r#d")),
        ("mqtt://u:p%40ss@boat", ("boat", 1883, "il2vseg", "u", "p@ss")),
        ("mqtt://boat:65535", ("boat", 65535, "il2vseg", None, None)),
        ("mqtt://user@boat", ("boat", 1883, "il2vseg", "user", None)),
        ("mqtt://u:p@[::1]:1884/bow", ("::1", 1884, "bow", "u", "p")),
    ],
)
def test_addresses_of_brokers(url: str, expected: tuple[Any, ...]) -> None:
    assert tuple(vars(Broker.parse(url)).values()) == expected


@pytest.mark.parametrize(
    "url", ["mqtt://u:geheim@boat:0", "mqtt://u:geheim@boat:65536", "mqtts://u:geheim@b"]
)
def test_a_wrong_address_shows_no_password(url: str) -> None:
    with pytest.raises(UserError) as error:
        Broker.parse(url)
    assert "geheim" not in str(error.value)


def test_a_broker_that_stays_away_costs_two_hundred_messages_of_memory(opened: Open) -> None:
    opened(f"mqtt://127.0.0.1:{servers.free_port()}/boat")
    (sink,) = opened.sinks  # type: ignore[attr-defined]
    assert sink._client._max_queued_messages == 200
