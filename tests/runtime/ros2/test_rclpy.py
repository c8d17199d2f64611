"""Messages of ROS 2 from a node."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from il2vseg.runtime.events import Event
from il2vseg.runtime.sinks.ros2 import messages
from tests.waiting import eventually

from .conftest import seen


class FakeRclpy:
    """The part of rclpy's interface that is used; rclpy itself is on no package index."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.published: list[tuple[str, str, Any, bytes]] = []
        self.subscribers: dict[str, int] = {}
        self.calls: list[str] = []
        fake = self

        class Publisher:
            def __init__(self, kind: type, topic: str, quality: Any) -> None:
                self.kind, self.topic, self.quality = kind, topic, quality

            def get_subscription_count(self) -> int:
                return fake.subscribers.get(self.topic, 0)

            def publish(self, message: Any) -> None:
                fake.published.append((self.topic, self.kind.__name__, self.quality, message))

        class Node:
            def create_publisher(self, kind: type, topic: str, quality: Any) -> Publisher:
                return Publisher(kind, topic, quality)

            def destroy_node(self) -> None:
                fake.calls.append("destroy_node")

        def create_node(name: str, *, context: Any) -> Node:
            fake.calls.append(f"create_node {name}")
            return Node()

        def init(*, context: Any, signal_handler_options: str) -> None:
            fake.calls.append(f"init {signal_handler_options}")

        def shutdown(*, context: Any) -> None:
            fake.calls.append("shutdown")

        modules: dict[str, dict[str, Any]] = {
            "rclpy": {"init": init, "create_node": create_node, "shutdown": shutdown},
            "rclpy.qos": {"qos_profile_sensor_data": "sensor"},
            "rclpy.signals": {"SignalHandlerOptions": types.SimpleNamespace(NO="no signals")},
            "rclpy.context": {"Context": object},
        }
        for kind in messages.TOPICS.values():
            package, _, name = kind.partition("/msg/")
            modules.setdefault(f"{package}.msg", {})[name] = type(name, (), {})
        for name, content in modules.items():
            module = types.ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)


def test_a_node_publishes_what_is_subscribed_to(monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    from il2vseg.runtime.sinks.ros2.node import Ros2Sink

    ros = FakeRclpy(monkeypatch)
    ros.subscribers = {"/il2vseg/obstacles": 1, "/il2vseg/labels": 2}
    sink = Ros2Sink()
    assert ros.calls == ["init no signals", "create_node il2vseg"]
    sink.write(seen())
    sink.event(Event("alarm", "boat"))
    sink.close()
    assert ros.calls[2:] == ["destroy_node", "shutdown"]
    by_topic = {topic: rest for topic, *rest in ros.published}
    assert by_topic.keys() == {"/il2vseg/obstacles", "/il2vseg/labels", "/rosout"}
    kind, quality, data = by_topic["/il2vseg/obstacles"]
    assert (kind, quality, type(data)) == ("Detection2DArray", 10, bytes)
    assert store.deserialize_cdr(data, "vision_msgs/msg/Detection2DArray").detections[0].id == "7"
    assert by_topic["/il2vseg/labels"][1] == "sensor"


def test_a_node_that_fails_is_an_error_of_the_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    from il2vseg.runtime.sinks.ros2.node import Ros2Sink

    ros = FakeRclpy(monkeypatch)
    sink = Ros2Sink()

    def fail() -> int:
        raise RuntimeError("the context is invalid")

    sink._publishers["/il2vseg/labels"].get_subscription_count = fail
    with pytest.raises(OSError, match="the context is invalid"):
        eventually(lambda: sink.write(seen()))
    assert ros.published == []
    sink.close()


def test_without_ros_2_there_is_one_line(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from il2vseg.runtime.cli import main

    arguments = ["--model", str(model), "--provider", "cpu", "--source", "synthetic:size=48x64,frames=1"]
    assert main([*arguments, "--ros2"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--ros2 needs rclpy and vision_msgs" in error
    assert "--mcap-schema ros2" in error
