"""Messages of ROS 2 on a running one, through its rclpy.

rclpy comes with ROS 2 and not from a package index: start il2vseg-run with the Python of a sourced ROS 2.
"""

from importlib import import_module
from typing import Any

from il2vseg.base.errors import UserError
from il2vseg.runtime.events import Event
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sinks.newest import Newest
from il2vseg.runtime.sinks.ros2.messages import DIAGNOSTICS, LOG, OBSTACLES, TOPICS, Messages, log

_RELIABLE = frozenset({OBSTACLES, DIAGNOSTICS, LOG})
_DEPTH = 10


class Ros2Sink(Sink):
    """Publishes the topics of `messages` as the node il2vseg; pictures as sensor data (best effort).

    It has a context of its own, so it stands beside other nodes of the process and leaves signals alone. Only
    what somebody subscribes to is encoded, in a thread of its own; a fast source loses frames there.
    """

    name = "ros2"

    def __init__(self) -> None:
        """Create the node.

        Raises:
            UserError: rclpy, or one of the packages of messages, is not installed.
        """
        try:
            rclpy = import_module("rclpy")
            qos, signals = import_module("rclpy.qos"), import_module("rclpy.signals")
            self._context: Any = import_module("rclpy.context").Context()
            kinds = {topic: _class(kind) for topic, kind in TOPICS.items()}
        except ImportError as error:
            raise UserError(
                f"--ros2 needs rclpy and vision_msgs of a ROS 2 whose setup.bash was sourced ({error}); "
                "without one there are --mcap FILE --mcap-schema ros2 and --foxglove PORT"
            ) from None
        rclpy.init(context=self._context, signal_handler_options=signals.SignalHandlerOptions.NO)
        self._rclpy = rclpy
        self._node = rclpy.create_node("il2vseg", context=self._context)
        self._publishers = {
            topic: self._node.create_publisher(
                kind, topic, _DEPTH if topic in _RELIABLE else qos.qos_profile_sensor_data
            )
            for topic, kind in kinds.items()
        }
        self._messages = Messages()
        self._worker: Newest[Result] = Newest(self._send, "ros2")

    def write(self, result: Result) -> None:
        self._worker.put(result)

    def event(self, event: Event) -> None:
        self._publishers[LOG].publish(log(event, event.time))

    def close(self) -> None:
        self._worker.close()
        self._node.destroy_node()
        self._rclpy.shutdown(context=self._context)

    def _send(self, result: Result) -> None:
        def wanted(topic: str) -> bool:
            return bool(self._publishers[topic].get_subscription_count())

        for topic, data in self._messages(result, result.captured.unix, wanted):
            self._publishers[topic].publish(data)  # bytes are published as they are


def _class(kind: str) -> Any:
    package, _, name = kind.partition("/msg/")
    return getattr(import_module(f"{package}.msg"), name)
