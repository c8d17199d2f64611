"""Messages of ROS 2 over Foxglove's WebSocket."""

import contextlib
import json
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.runtime.events import Event
from il2vseg.runtime.sinks.ros2 import messages
from il2vseg.runtime.sinks.ros2.types import schema
from tests.waiting import eventually

from ..conftest import make_result, needs
from .conftest import seen


class Viewer:
    """Speaks Foxglove's protocol, as its app does."""

    def __init__(self, url: str) -> None:
        from websockets.sync.client import connect

        self._stack = contextlib.ExitStack()
        opened = connect(url, subprotocols=["foxglove.sdk.v1"], open_timeout=5)  # type: ignore[list-item]
        self.socket = self._stack.enter_context(opened)
        self.channels: dict[str, dict[str, Any]] = {}
        while len(self.channels) < 7:
            message = self.socket.recv(timeout=5)
            if isinstance(message, str) and (told := json.loads(message))["op"] == "advertise":
                self.channels |= {c["topic"]: c for c in told["channels"]}

    def subscribe(self, number: int, topic: str) -> None:
        wanted = [{"id": number, "channelId": self.channels[topic]["id"]}]
        self.socket.send(json.dumps({"op": "subscribe", "subscriptions": wanted}))

    def receive(self, seconds: float = 0.05) -> tuple[int, int, bytes] | None:
        """Number of the subscription, time and payload of the next message; None if none comes."""
        with contextlib.suppress(TimeoutError):
            while True:
                message = self.socket.recv(timeout=seconds)
                if isinstance(message, bytes) and message[0] == 1:
                    number, time = struct.unpack_from("<IQ", message, 1)
                    return number, time, message[13:]
        return None


@pytest.fixture
def served() -> Iterator[Any]:
    needs("foxglove", "foxglove")
    needs("websockets", "dev")
    from il2vseg.runtime.sinks.ros2.foxglove import FoxgloveSink

    with FoxgloveSink("0") as sink:
        yield sink


def until(viewer: Viewer, write: Callable[[], None]) -> tuple[int, int, bytes]:
    """Write until something comes."""
    found: list[tuple[int, int, bytes]] = []

    def came() -> bool:
        write()
        if (message := viewer.receive()) is not None:
            found.append(message)
        return bool(found)

    eventually(came)
    return found[0]


def test_foxglove_gets_the_topics_with_their_schemas(served: Any, store: Any) -> None:
    viewer = Viewer(served.url)
    assert viewer.channels.keys() == messages.TOPICS.keys()
    channel = viewer.channels["/il2vseg/obstacles"]
    assert (channel["encoding"], channel["schemaEncoding"]) == ("cdr", "ros2msg")
    assert channel["schemaName"] == "vision_msgs/msg/Detection2DArray"
    assert channel["schema"] == schema("vision_msgs/msg/Detection2DArray")
    viewer.subscribe(3, "/il2vseg/obstacles")
    number, time, data = until(viewer, lambda: served.write(seen(2)))
    assert (number, time) == (3, pytest.approx(1_700_000_000_200_000_000, abs=1000))
    assert store.deserialize_cdr(data, "vision_msgs/msg/Detection2DArray").detections[0].id == "7"
    viewer.subscribe(4, "/rosout")

    def event_came() -> bool:
        served.event(Event("alarm", "boat"))
        return bool((message := viewer.receive()) and message[0] == 4)

    eventually(event_came)
    viewer.socket.close()


def test_a_viewer_goes_and_another_comes(served: Any) -> None:
    for _ in range(2):
        viewer = Viewer(served.url)
        viewer.subscribe(0, "/il2vseg/labels")
        until(viewer, lambda: served.write(seen()))
        viewer.socket.socket.close()  # no goodbye
        served.write(seen())


def test_a_viewer_that_takes_nothing_slows_nobody(served: Any) -> None:
    stuck, awake = Viewer(served.url), Viewer(served.url)
    stuck.subscribe(0, "/il2vseg/labels")
    awake.subscribe(0, "/il2vseg/labels")
    large = make_result(np.zeros((720, 1280, 3), np.uint8), np.zeros((720, 1280), np.uint8))
    until(awake, lambda: served.write(seen()))
    while awake.receive():
        pass
    longest = 0.0
    for _ in range(40):  # 37 MB: more than the buffers on the way hold
        begun = time.monotonic()
        served.write(large)
        longest = max(longest, time.monotonic() - begun)
        assert awake.receive(5.0) is not None
    assert longest < 1.0


def test_what_nobody_looks_at_is_not_encoded(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    original = messages.encode
    monkeypatch.setattr(messages, "encode", lambda kind, value: encoded.append(kind) or original(kind, value))
    viewer = Viewer(served.url)
    viewer.subscribe(0, "/il2vseg/labels")
    until(viewer, lambda: served.write(seen()))
    assert set(encoded) == {"sensor_msgs/msg/Image"}
    viewer.socket.close()


def test_an_address_that_is_taken_or_none_is_refused(served: Any) -> None:
    from il2vseg.runtime.sinks.ros2.foxglove import FoxgloveSink

    port = served.url.rpartition(":")[2]
    for address in (port, "nowhere", "99999"):
        with pytest.raises(UserError, match=f"--foxglove {address}"):
            FoxgloveSink(address)
