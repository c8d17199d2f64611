"""Records and events on an MQTT broker. Needs the extra `mqtt`."""

import json
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from il2vseg.base.errors import UserError
from il2vseg.runtime.events import Event, ignore
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sources.base import Report

MAX_QUEUED = 200
"""Messages kept while the broker is away; frames are sent only while it is there."""

ANSWER_S = 5.0
"""Seconds after which a broker that says nothing counts as away."""

_MAX_PAUSE_S = 5
_ADDRESS = re.compile(
    # A password may hold any character: the last @ ends it.
    r"mqtt://(?:(?P<user>[^:@]*)(?::(?P<password>.*))?@)?"
    r"(?P<host>[^/:@\[\]\s]+|\[[0-9A-Fa-f:.%]+\])(?::(?P<port>\d{1,5}))?(?:/(?P<prefix>[^@+#?]*))?",
    re.DOTALL,
)


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
        """Read mqtt://[USER:PASSWORD@]HOST[:PORT][/PREFIX]; the password may be percent-encoded.

        Raises:
            UserError: it is not such an address.
        """
        found = _ADDRESS.fullmatch(url)
        if found is None or not 0 < int(found["port"] or 1883) < 65536:
            raise UserError("--mqtt: mqtt://[USER:PASSWORD@]HOST[:PORT][/PREFIX] is needed")
        user, password = (None if v is None else unquote(v) for v in found.group("user", "password"))
        prefix = (found["prefix"] or "").strip("/") or "il2vseg"
        return cls(found["host"].strip("[]"), int(found["port"] or 1883), prefix, user, password)


class MqttSink(Sink):
    """Publishes every record and event as JSON. A broker that is away is waited for in the background.

    PREFIX/status is "online", and "offline" after the end or when the connection breaks (retained).
    Events reported: mqtt_connected, and mqtt_lost once for every time that the broker is away, refuses, or
    does not answer, the start included.
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
        self._where = f"{broker.host}:{broker.port}"
        self._report = report
        self._away = False  # and reported
        self._answer_by: float | None = time.monotonic() + ANSWER_S
        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        if broker.user is not None:
            client.username_pw_set(broker.user, broker.password)
        client.will_set(f"{self._prefix}/status", "offline", qos=1, retain=True)
        client.max_queued_messages_set(MAX_QUEUED)
        client.reconnect_delay_set(1, _MAX_PAUSE_S)
        client.on_connect = self._connected
        client.on_connect_fail = lambda _client, _data: self._lost("cannot be reached")
        client.on_disconnect = self._disconnected
        self._client = client
        self._closing = False
        client.connect_async(broker.host, broker.port, keepalive=15)
        client.loop_start()

    def _connected(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason.is_failure:
            self._lost(f"refuses the connection ({reason})")
            return
        client.publish(f"{self._prefix}/status", "online", qos=1, retain=True)
        self._away, self._answer_by = False, None
        self._report("mqtt_connected", "connected to the MQTT broker")

    def _disconnected(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        self._lost(f"is away ({reason})")

    def _lost(self, what: str) -> None:
        """Report that the broker is away, unless that is known."""
        if not self._away and not self._closing:
            self._away = True
            self._report("mqtt_lost", f"the MQTT broker {self._where} {what}; trying again")

    def write(self, result: Result) -> None:
        if self._answer_by is not None and time.monotonic() > self._answer_by:
            self._answer_by = None
            self._lost("does not answer")
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
