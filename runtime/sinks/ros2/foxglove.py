"""Messages of ROS 2, live, for Foxglove: a WebSocket server. Needs the extra `foxglove`."""

import foxglove

from il2vseg.base.errors import UserError
from il2vseg.runtime.events import Event
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sinks.link import listen_address
from il2vseg.runtime.sinks.newest import Newest
from il2vseg.runtime.sinks.ros2.messages import LOG, TOPICS, Messages, log
from il2vseg.runtime.sinks.ros2.types import schema

BACKLOG = 64
"""Messages that wait for a slow viewer; of more, the oldest are forgotten."""


class FoxgloveSink(Sink):
    """Serves the topics of `messages`; only what somebody looks at is encoded, in a thread of its own.

    Viewers come and go. A slow one, or a fast source, gets the newest frames.
    """

    name = "foxglove"

    def __init__(self, address: str) -> None:
        """Start to serve.

        Args:
            address: [HOST:]PORT; without a host for this machine only. Port 0 takes a free one.
        Raises:
            UserError: it is no address, or cannot be served at.
        """
        host, port = listen_address("foxglove", address)
        self._context = context = foxglove.Context()  # the server does not keep it alive
        try:
            self._server = foxglove.start_server(
                name="il2vseg", host=host, port=port, context=context, message_backlog_size=BACKLOG
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"--foxglove {address}: cannot serve there ({error})") from None
        self._channels = {
            topic: foxglove.Channel(
                topic,
                schema=foxglove.Schema(name=kind, encoding="ros2msg", data=schema(kind).encode()),
                message_encoding="cdr",
                context=context,
            )
            for topic, kind in TOPICS.items()
        }
        self.url = f"ws://{host}:{self._server.port}"
        self._messages = Messages()
        self._worker: Newest[Result] = Newest(self._send, "foxglove")

    def write(self, result: Result) -> None:
        self._worker.put(result)

    def event(self, event: Event) -> None:
        self._channels[LOG].log(log(event, event.time), log_time=round(1e9 * event.time))

    def close(self) -> None:
        self._worker.close()
        self._server.stop()

    def _send(self, result: Result) -> None:
        unix = result.captured.unix
        for topic, data in self._messages(result, unix, lambda topic: self._channels[topic].has_sinks()):
            self._channels[topic].log(data, log_time=round(1e9 * unix))
