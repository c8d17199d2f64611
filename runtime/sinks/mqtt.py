"""Records and events on an MQTT broker. Needs the extra `mqtt`."""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from il2vseg.base.errors import UserError
from il2vseg.runtime.events import Event, ignore
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sources.base import Report

MAX_QUEUED = 200
"""Messages kept while the broker is away; frames are sent only while it is there."""

_LONGEST_PAUSE_S = 5


@dataclass(frozen=True)
class Broker:
    """Where to publish: topics are PREFIX/frame, PREFIX/event, PREFIX/status."""

    host: str
    port: int
    prefix: str
    user: str | None
    password: str | None

    @classmethod
    def parse(cls, url: str) -> "Broker":
        """Read mqtt://[USER:PASSWORD@]HOST[:PORT][/PREFIX].

        Raises:
            UserError: it is not such an address.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or 1883
        except ValueError:
            parts, port = urlsplit(""), 0
        prefix = parts.path.strip("/") or "il2vseg"
        wildcards = set("+#?") & set(url.rpartition("@")[2])
        if parts.scheme != "mqtt" or not parts.hostname or wildcards:
            raise UserError("--mqtt: mqtt://[USER:PASSWORD@]HOST[:PORT][/PREFIX] is needed")
        user, password = (None if v is None else unquote(v) for v in (parts.username, parts.password))
        return cls(parts.hostname, port, prefix, user, password)


class MqttSink(Sink):
    """Publishes every record and event as JSON. A broker that is away is waited for in the background.

    PREFIX/status is "online", and "offline" after the end or when the connection breaks (retained).
    Events reported: mqtt_connected, mqtt_lost.
    """

    name = "mqtt"

    def __init__(self, broker: Broker | str, report: Report = ignore) -> None:
        """Start to connect.

        Args:
            broker: where to, or its address as `Broker.parse` reads it.
        Raises:
            UserError: it is not such an address.
        """
        broker = Broker.parse(broker) if isinstance(broker, str) else broker
        self._prefix = broker.prefix
        self._report = report
        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        if broker.user is not None:
            client.username_pw_set(broker.user, broker.password)
        client.will_set(f"{self._prefix}/status", "offline", qos=1, retain=True)
        client.max_queued_messages_set(MAX_QUEUED)
        client.reconnect_delay_set(1, _LONGEST_PAUSE_S)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.connect_async(broker.host, broker.port, keepalive=15)
        client.loop_start()
        self._client = client
        self._closing = False

    def _connected(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason.is_failure:
            self._report("mqtt_lost", f"the MQTT broker refuses the connection ({reason})")
            return
        client.publish(f"{self._prefix}/status", "online", qos=1, retain=True)
        self._report("mqtt_connected", "connected to the MQTT broker")

    def _disconnected(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if not self._closing:
            self._report("mqtt_lost", f"the MQTT broker is away ({reason}); trying again")

    def write(self, result: Result) -> None:
        if self._client.is_connected():
            self._client.publish(f"{self._prefix}/frame", json.dumps(result.record))

    def event(self, event: Event) -> None:
        self._client.publish(f"{self._prefix}/event", json.dumps(event.to_dict()), qos=1)

    def close(self) -> None:
        self._closing = True
        if self._client.is_connected():
            self._client.publish(f"{self._prefix}/status", "offline", qos=1, retain=True).wait_for_publish(
                2.0
            )
        self._client.disconnect()
        self._client.loop_stop()
