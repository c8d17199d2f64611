"""Obstacles and alarms on a Signal K server, for chart plotters and instruments. Needs the extra `signalk`.

What a server gets for a camera called bow, in SI units and radians:

    notifications.navigation.obstacle.bow    alarm: in the danger zone; warn: will be there; normal
    notifications.sensors.camera.bow         warn: lost or blind; alert: unlike the training; normal
    environment.obstacles.bow.nearest.*      distance, bearings, approach; null where unknown
    environment.obstacles.bow.list           the same of all obstacles, nearest first
"""

import json
import logging
import math
import re
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.error import URLError

from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from il2vseg.base.errors import UserError
from il2vseg.base.files import cache_home
from il2vseg.runtime.events import Event, ignore
from il2vseg.runtime.marine.scene import Obstacle
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sinks.own_ship import OwnShip
from il2vseg.runtime.sinks.signalk_access import ANSWER_S, Access, NotYetError, RefusedError
from il2vseg.runtime.sinks.signalk_values import Notice, describe, meta, notification, obstacle_values
from il2vseg.runtime.sources.base import Report

PERIOD_S = 0.2
"""Seconds between two messages about obstacles; a change of an alarm is sent at once."""

COURSE_S = 3.0
"""Seconds for which an obstacle on collision course may be out of sight before its warning ends."""

_TICK_S = 0.05
_PAUSES_S = (0.5, 4.0)
_ASK_S = 2.0
_END_S = 2.0
_PING_S = 4.0
_ADDRESS = re.compile(
    r"(?P<scheme>wss?)://(?P<host>[^/:@\[\]\s?#]+|\[[0-9A-Fa-f:.%]+\])(?::(?P<port>\d{1,5}))?"
    r"(?:/signalk/v1/stream)?(?:/(?P<name>[A-Za-z0-9_/-]*))?"
)
_TROUBLES = {"source_lost": "warn", "blind": "warn", "unlike_training": "alert"}
_OVER = {"source_back": "source_lost", "like_training": "unlike_training"}


@dataclass(frozen=True)
class Server:
    """Where a server is, and what it shall call the camera."""

    secure: bool
    host: str
    port: int
    name: str

    @classmethod
    def parse(cls, url: str) -> "Server":
        """Read ws[s]://HOST[:PORT][/NAME]; without a NAME it is camera.

        Raises:
            UserError: it is not such an address.
        """
        found = _ADDRESS.fullmatch(url)
        if found is None:
            raise UserError("--signalk: ws://HOST[:PORT][/NAME] is needed, or wss:// (no user, no password)")
        secure = found["scheme"] == "wss"
        port = int(found["port"] or (443 if secure else 3000))
        if not 0 < port < 65536:
            raise UserError("--signalk: there is no such port")
        name = (found["name"] or "").strip("/").replace("/", "-")  # a dot would divide paths
        return cls(secure, found["host"], port, name or "camera")

    @property
    def where(self) -> str:
        """Host and port, for messages."""
        return f"{self.host}:{self.port}"

    def url(self, scheme: str) -> str:
        """The address under "ws" or "http", with an s where the server is secure."""
        return f"{scheme}{'s' if self.secure else ''}://{self.where}"


class _IgnoredError(OSError):
    """The server takes the connection, and nothing that is sent."""


class SignalKSink(Sink):
    """Tells a Signal K server of obstacles and alarms. One that is away is waited for in the background.

    Events reported, each once until another one comes: signalk_connected, when the server has been seen to
    take what is sent; signalk_lost; signalk_waiting, while its owner has not granted access.
    """

    name = "signalk"

    def __init__(
        self,
        server: Server | str,
        report: Report = ignore,
        *,
        token: str | None = None,
    ) -> None:
        """Start to connect.

        Args:
            server: where to, or its address as `Server.parse` reads it.
            token: to connect with; None to ask for one where the server wants it.
        Raises:
            UserError: it is not such an address.
        """
        self._server = server = Server.parse(server) if isinstance(server, str) else server
        self._report = report
        host = re.sub(r"[^A-Za-z0-9.-]", "_", server.host)
        memory = cache_home() / f"signalk-{host}-{server.port}-{server.name}.json"
        self._access = Access(server.url("http"), f"il2vseg {server.name}", memory, token)
        self._own = OwnShip()
        self._told: str | None = None
        self._lock = threading.Lock()
        self._scene: tuple[float, Sequence[Obstacle]] | None = None  # not sent yet
        self._yaw = 0.0
        self._notices = {"obstacle": Notice("normal", "no obstacle is near"), "camera": self._watching({})}
        self._changed = set(self._notices)
        self._troubles: dict[str, str] = {}
        self._course: tuple[int, str, float] | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="signalk", daemon=True)
        self._thread.start()

    def write(self, result: Result) -> None:
        with self._lock:
            self._trouble("blind", result.blind and f"the camera shows nothing ({result.blind})")
            if result.scene is not None:
                self._scene = result.captured.unix, result.scene.confirmed
                self._yaw = 0.0 if result.scene.camera is None else result.scene.camera.yaw
                self._judge(result)

    def event(self, event: Event) -> None:
        with self._lock:
            if event.kind in _TROUBLES:
                self._trouble(event.kind, event.message)
            elif event.kind in _OVER:
                self._trouble(_OVER[event.kind], None)
            elif event.kind == "collision_course":
                self._course = int(event.data["track"]), event.message, math.inf

    def _judge(self, result: Result) -> None:
        """Set the notification about obstacles."""
        scene, now = result.scene, result.captured.moment
        assert scene is not None
        if self._course is not None:
            track, message, seen = self._course
            coming = any(o.track == track and o.nearest_m is not None for o in scene.obstacles)
            seen = now if coming else min(seen, now)
            self._course = None if now - seen > COURSE_S else (track, message, seen)
        danger = next((o for o in scene.confirmed if o.danger), None)
        if scene.alarm:
            self._notify("obstacle", Notice("alarm", describe(danger), danger))
        elif self._course is not None:
            track, message, _ = self._course
            about = next((o for o in scene.obstacles if o.track == track), None)
            self._notify("obstacle", Notice("warn", message, about))
        else:
            self._notify("obstacle", Notice("normal", "no obstacle is near"))

    def _trouble(self, kind: str, message: str | None) -> None:
        """Note that something keeps the camera from seeing, or, without a message, does no more."""
        if message:
            self._troubles[kind] = message
        else:
            self._troubles.pop(kind, None)
        self._notify("camera", self._watching(self._troubles))

    def _watching(self, troubles: dict[str, str]) -> Notice:
        for kind, state in _TROUBLES.items():
            if kind in troubles:
                return Notice(state, troubles[kind])
        return Notice("normal", "the camera is watching")

    def _notify(self, what: str, notice: Notice) -> None:
        """Send a notification if its state is a new one: who silenced an alarm shall not hear it again."""
        if notice.state != self._notices[what].state:
            self._notices[what] = notice
            self._changed.add(what)

    def close(self) -> None:
        with self._lock:
            self._notify("obstacle", Notice("normal", "the camera is not watching any more"))
            self._notices["camera"] = Notice("normal", "the camera is not watching any more")
            self._changed.add("camera")
            self._scene = time.time(), ()
        self._closing.set()
        self._thread.join(_END_S)

    # --- the thread that talks to the server ---

    def _run(self) -> None:
        pause = _PAUSES_S[0]
        while not self._closing.is_set():
            try:
                self._converse()
            except NotYetError:
                ask = f"to 'il2vseg {self._server.name}' under Security, Access Requests"
                self._tell("signalk_waiting", f"the Signal K server {self._server.where}: grant access {ask}")
                pause = _ASK_S
            except RefusedError as error:
                self._lost(f"{error}; nothing is sent to it in this run")
                return
            except (OSError, WebSocketException, ValueError) as error:
                pause = _PAUSES_S[0] if self._told == "signalk_connected" else min(2 * pause, _PAUSES_S[1])
                self._lost(f"{_reason(error)}; trying again")
            self._closing.wait(pause)

    def _tell(self, kind: str, message: str) -> None:
        if kind != self._told and not self._closing.is_set():
            self._told = kind
            self._report(kind, message)

    def _lost(self, what: str) -> None:
        self._tell("signalk_lost", f"the Signal K server {self._server.where} {what}")

    def _converse(self) -> None:
        """Connect, and talk until the connection breaks or the sink is closed."""
        try:
            connection = _connect(self._server, self._access.token())
        except InvalidStatus as error:
            if error.response.status_code not in (401, 403):
                raise
            self._access.rejected()
            raise NotYetError from None
        with connection as socket:
            self._own.hello(_object(socket.recv(timeout=ANSWER_S)))
            obstacle = self._path("obstacle")
            paths = ("navigation.position", "navigation.headingTrue", obstacle)
            wanted = [{"path": path, "policy": "instant"} for path in paths]
            _send(socket, {"context": "vessels.self", "subscribe": wanted})
            _send(socket, {"updates": [{"$source": self._source, "meta": meta(self._server.name)}]})
            with self._lock:
                self._changed = set(self._notices)  # whoever comes back has forgotten them
            self._talk(socket, obstacle)

    def _talk(self, socket: ClientConnection, echo: str) -> None:
        """Send what is due, and hear own position and heading; what was sent comes back as `echo`."""
        due, by, sent = 0.0, time.monotonic() + ANSWER_S, ""
        while True:
            ending = self._closing.is_set()
            now = time.monotonic()
            late = ending or now >= due
            values = self._due(late)
            if values:
                due = now + PERIOD_S if late else due
                sent = sent or values["timestamp"]  # the first message has all notifications
                _send(socket, {"updates": [{"$source": self._source, **values}]})
            if ending:
                return
            try:
                heard = self._own.take(_object(socket.recv(timeout=_TICK_S)))
            except TimeoutError:
                heard = {}
            if heard.get(echo) == sent:
                by = math.inf
                self._tell(
                    "signalk_connected", f"the Signal K server {self._server.where} takes what is sent"
                )
            elif now > by:
                raise _IgnoredError("ignores what is sent: its owner must grant the access read/write")

    @property
    def _source(self) -> str:
        return f"il2vseg.{self._server.name}"

    def _path(self, what: str) -> str:
        group = {"obstacle": "navigation.obstacle", "camera": "sensors.camera"}[what]
        return f"notifications.{group}.{self._server.name}"

    def _due(self, scenes: bool) -> dict[str, Any]:
        """Return time and values that wait to be sent, {} if none do. `scenes`: obstacles may go now."""
        with self._lock:
            notices = {what: self._notices[what] for what in sorted(self._changed)}
            self._changed.clear()
            scene = self._scene if scenes else None
            if scene is not None:
                self._scene = None
        fix = self._own.fix(self._yaw)
        values = [{"path": self._path(w), "value": notification(n, fix)} for w, n in notices.items()]
        if scene is not None:
            values += obstacle_values(self._server.name, scene[1], fix)
        if not values:
            return {}
        when = datetime.fromtimestamp(scene[0] if scene else time.time(), UTC)
        return {"timestamp": when.isoformat(timespec="milliseconds")[:-6] + "Z", "values": values}


def _connect(server: Server, token: str | None) -> ClientConnection:
    return connect(
        f"{server.url('ws')}/signalk/v1/stream?subscribe=none",
        additional_headers={} if token is None else {"Authorization": f"Bearer {token}"},
        proxy=None,  # the server is aboard
        compression=None,
        open_timeout=ANSWER_S,
        close_timeout=_END_S / 2,
        ping_interval=_PING_S,
        ping_timeout=_PING_S,
        logger=logging.Logger("signalk", logging.CRITICAL),  # websockets logs headers, and so the token
    )


def _object(text: str | bytes) -> dict[str, Any]:
    found = json.loads(text)
    return found if isinstance(found, dict) else {}


def _send(socket: ClientConnection, message: dict[str, Any]) -> None:
    socket.send(json.dumps(message, allow_nan=False))


def _reason(error: Exception) -> str:
    """What happened, as the rest of a sentence."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "shows a certificate that is not trusted (SSL_CERT_FILE names one that is)"
    if isinstance(error, _IgnoredError):
        return str(error)
    if isinstance(cause, TimeoutError):
        return "does not answer"
    if isinstance(cause, ConnectionRefusedError):
        return "cannot be reached"
    if isinstance(error, WebSocketException):
        return "closed the connection" if type(error).__name__.startswith("Conn") else "is no Signal K server"
    if isinstance(error, ValueError):
        return "is no Signal K server"
    return f"is away ({getattr(cause, 'strerror', None) or cause})"
