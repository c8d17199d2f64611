"""The server: a page, streams, numbers. Read-only, and nothing of the file system but three fixed files."""

import asyncio
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from il2vseg.base.errors import UserError
from il2vseg.runtime.events import Event
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sinks.link import listen_address
from il2vseg.runtime.web.broadcast import (
    LARGE,
    SMALL,
    Broadcaster,
    Closed,
    Encode,
    Scale,
    encode_bundle,
    encode_overlay,
)
from il2vseg.runtime.web.guard import MAX_HEADERS, Access, Guard, is_loopback
from il2vseg.runtime.web.line import MAX_QUEUED_S, Line, prepare, queued_bytes
from il2vseg.runtime.web.state import State

MAX_VIEWERS = 16
MAX_CONNECTIONS = 64
GONE_AFTER_MS = 20_000
"""A viewer that takes nothing for so long is gone: phones leave a network without a word."""

_SNAPSHOT_WAIT_S = 5.0
_LOOK_AGAIN_S = 0.02
_SLOW_FRAME_S = 1.0
"""A viewer to whom a large picture takes longer gets small ones."""
_LARGER = 6
"""How many times as many bytes a large picture has, until the first one was sent."""

Part = Callable[[bytes, bool], bytes]
"""Frames a picture in a stream; told whether it is the first."""

_STATIC = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}


def parse_address(text: str) -> tuple[str, int]:
    """Split [HOST:]PORT; without a host only this machine is served.

    Raises:
        UserError: there is no valid port.
    """
    return listen_address("serve", text)


def _reachable(host: str) -> str:
    """An address under which a browser reaches a server that is bound to `host`.

    A server bound to all addresses is reached under the one that this machine has in its network.
    """
    family, outside = (socket.AF_INET6, "2001:db8::1") if ":" in host else (socket.AF_INET, "192.0.2.1")
    if host in ("0.0.0.0", "::"):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((outside, 9))  # looks up the route; nothing is sent
                host = str(probe.getsockname()[0])
            except OSError:
                host = "::1" if ":" in host else "127.0.0.1"
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True)
class Door:
    """Where a page is served: the socket that listens, who may come in, and the address to open."""

    socket: socket.socket
    access: Access
    url: str


def open_door(address: str, token: str | None, names: Iterable[str] = ()) -> Door:
    """Listen at an address.

    Args:
        address: [HOST:]PORT; port 0 takes a free one. names: further host names to answer to.
        token: asked of viewers; None makes one up unless bound to loopback.
    Raises:
        UserError: the address cannot be bound.
    """
    host, port = parse_address(address)
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(12)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"--serve {address}: cannot listen there ({error.strerror})") from None
    port = listening.getsockname()[1]
    url = f"http://{_reachable(host)}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")
    return Door(listening, Access.bound_to(host, token, names, port=port), url)


def server_of(app: Starlette, connections: int, http: Any = "h11") -> uvicorn.Server:
    """A server that says nothing of itself, to be run on the socket of a `Door`.

    Args:
        connections: at once; more are refused. http: uvicorn's protocol, or a class of it.
    """
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        lifespan="off",
        server_header=False,
        limit_concurrency=connections,
        h11_max_incomplete_event_size=MAX_HEADERS,
        http=http,
        proxy_headers=False,  # they would hide which connection a request came by
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


async def _frames(broadcaster: Broadcaster, encode: Encode, line: Line, first: Scale) -> AsyncIterator[bytes]:
    """Yield the newest frame as often as a line takes one, smaller where large ones take too long.

    Args:
        first: of the first frame; a small one is soon there on any line, and tells how fast the line is.
    """
    number, large, scale = 0, 0, first
    while True:
        number, data = await broadcaster.next(encode, number, scale)
        large = len(data) if scale is LARGE else large or _LARGER * len(data)
        yield data
        line.sent()
        # A frame that waits here is skipped for a newer one; in the kernel's buffer it would become old.
        while line.behind() > MAX_QUEUED_S and not broadcaster.closed:
            await asyncio.sleep(_LOOK_AGAIN_S)
        scale = SMALL if line.seconds_for(large) > _SLOW_FRAME_S else LARGE


def build_app(
    state: State, broadcaster: Broadcaster, access: Access, queued: Callable[[Any], int] = lambda _: 0
) -> Starlette:
    """Put the routes together.

    Args:
        queued: bytes under way to a client, (host, port).
    """
    pages = _Pages(state, broadcaster, queued)
    routes = [Route(path, pages.static) for path in _STATIC]
    routes += [
        Route("/stream", pages.bundles),
        Route("/stream.mjpg", pages.mjpeg),
        Route("/snapshot.jpg", pages.snapshot),
        Route("/api/status", pages.status),
        Route("/metrics", pages.metrics),
        Route("/healthz", pages.health),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, access=access)])


def _mjpeg_part(data: bytes, first: bool) -> bytes:
    # Chromium shows a picture when the next boundary comes: it is sent with the picture. Safari takes no
    # empty line before the first one.
    head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
    return (b"--frame\r\n" if first else b"") + head + data + b"\r\n--frame\r\n"


class _Pages:
    """What the server answers with, and how many are watching."""

    def __init__(self, state: State, broadcaster: Broadcaster, queued: Callable[[Any], int]) -> None:
        self._state, self._broadcaster, self._queued = state, broadcaster, queued
        self._viewers = 0

    async def static(self, request: Request) -> Response:
        name, kind = _STATIC[request.scope["path"]]
        return Response((files(__package__) / name).read_bytes(), media_type=kind)

    async def bundles(self, request: Request) -> Response:
        return self._stream(request, encode_bundle, "application/octet-stream", lambda data, first: data)

    async def mjpeg(self, request: Request) -> Response:
        kind = "multipart/x-mixed-replace; boundary=frame"
        return self._stream(request, encode_overlay, kind, _mjpeg_part)

    def _stream(self, request: Request, encode: Encode, media_type: str, part: Part) -> Response:
        if request.method == "HEAD":
            return Response(media_type=media_type)
        if self._viewers >= MAX_VIEWERS:
            return PlainTextResponse("too many viewers", 503, {"Retry-After": "10"})
        line = Line(lambda: self._queued(request.scope["client"]))
        return StreamingResponse(self._parts(encode, line, part), media_type=media_type)

    async def _parts(self, encode: Encode, line: Line, part: Part) -> AsyncIterator[bytes]:
        self._viewers += 1
        try:
            first = True
            # Whoever reads MJPEG may rely on the size of the first picture; the page does not.
            scale = SMALL if encode is encode_bundle else LARGE
            async for data in _frames(self._broadcaster, encode, line, scale):
                yield part(data, first)
                first = False
        except Closed:
            return
        finally:
            self._viewers -= 1

    async def snapshot(self, request: Request) -> Response:
        try:
            _, data = await asyncio.wait_for(self._broadcaster.next(encode_overlay), _SNAPSHOT_WAIT_S)
        except (TimeoutError, Closed):
            return PlainTextResponse("no frame yet", 503, {"Retry-After": "1"})
        return Response(data, media_type="image/jpeg")

    async def status(self, request: Request) -> Response:
        return JSONResponse(self._state.status() | {"viewers": self._viewers})

    async def metrics(self, request: Request) -> Response:
        text = self._state.metrics(self._viewers)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def health(self, request: Request) -> Response:
        healthy = self._state.healthy()
        return PlainTextResponse("ok" if healthy else "no frames", 200 if healthy else 503)


class _Connections:
    """The open connections by the address at their other end."""

    def __init__(self) -> None:
        sockets: dict[Any, socket.socket] = {}

        class Protocol(H11Protocol):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                transport.set_write_buffer_limits(0)  # what the kernel does not take yet may be skipped
                sockets[self.client] = transport.get_extra_info("socket")

            def connection_lost(self, exc: Exception | None) -> None:
                sockets.pop(self.client, None)
                super().connection_lost(exc)

        self.protocol = Protocol
        self._sockets = sockets

    def queued(self, client: Any) -> int:
        """Bytes under way to a client, (host, port)."""
        connection = self._sockets.get(client)
        return 0 if connection is None else queued_bytes(connection)


class WebSink(Sink):
    """Serves the page from a thread of its own; the pipeline only leaves the newest frame with it."""

    name = "web"

    def __init__(
        self, address: str, state: State | None = None, *, token: str | None = None, names: Iterable[str] = ()
    ) -> None:
        """Bind and start to serve.

        Args:
            address: [HOST:]PORT; port 0 takes a free one. names: further host names to answer to.
            state: what is known of the run already; None for nothing.
            token: asked of viewers; None makes one up unless bound to loopback.
        Raises:
            UserError: the address cannot be bound.
        """
        door = open_door(address, token, names)
        self._socket, self._access, self.url = door.socket, door.access, door.url
        prepare(self._socket, GONE_AFTER_MS)
        self._state = state or State()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)
        self._thread.start()
        self._ready.wait()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._broadcaster = Broadcaster()
        connections = _Connections()
        app = build_app(self._state, self._broadcaster, self._access, connections.queued)
        self._server = server_of(app, MAX_CONNECTIONS, connections.protocol)
        self._ready.set()
        self._loop.run_until_complete(self._server.serve(sockets=[self._socket]))

    def write(self, result: Result) -> None:
        self._state.frame(result)
        self._loop.call_soon_threadsafe(self._broadcaster.publish, result)

    def event(self, event: Event) -> None:
        self._state.event(event)

    def close(self) -> None:
        def stop() -> None:
            self._broadcaster.close()
            self._server.should_exit = True

        self._loop.call_soon_threadsafe(stop)
        self._thread.join(5.0)
        self._socket.close()
