"""An MCAP file of ROS 2 messages, which ROS 2, rosbags and Foxglove open. Needs the extra `mcap`."""

from mcap.writer import CompressionType

from il2vseg.runtime.events import Event
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.mcap import McapSink
from il2vseg.runtime.sinks.ros2.messages import LOG, OVERLAY, TOPICS, Messages, log
from il2vseg.runtime.sinks.ros2.types import schema


class Ros2McapSink(McapSink):
    """Writes the topics of `messages` but for the overlay; class ids shrink to nothing by Zstandard."""

    profile = "ros2"
    compression = CompressionType.ZSTD
    encodings = ("ros2msg", "cdr")
    channels = {  # noqa: RUF012
        topic: (kind, schema(kind)) for topic, kind in TOPICS.items() if topic != OVERLAY
    }
    _messages: Messages | None = None

    def _frame(self, result: Result, unix: float) -> None:
        self._messages = self._messages or Messages()
        for topic, data in self._messages(result, unix, self.channels.__contains__):
            self._add(topic, unix, data)

    def _event(self, event: Event, unix: float) -> None:
        self._add(LOG, unix, log(event, unix))
