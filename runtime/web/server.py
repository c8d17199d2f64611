"""The server: a page, streams, numbers. Read-only, and nothing of the file system but three fixed files."""

import asyncio
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Iterable
from importlib.resources import files

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from il2vseg.base.errors import UserError
from il2vseg.runtime.events import Event
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.web.broadcast import Broadcaster, Closed, Encode, encode_bundle, encode_overlay
from il2vseg.runtime.web.guard import MAX_HEADERS, Access, Guard, is_loopback
from il2vseg.runtime.web.state import State

MAX_VIEWERS = 16
MAX_CONNECTIONS = 64
GONE_AFTER_MS = 20_000
"""A viewer that takes nothing for so long is gone: phones leave a network without a word."""

_SNAPSHOT_WAIT_S = 5.0
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
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise UserError(f"--serve {text}: [HOST:]PORT is needed, such as 8080 or 0.0.0.0:8080")
    return host.strip("[]") or "127.0.0.1", int(port)


def build_app(state: State, broadcaster: Broadcaster, access: Access) -> Starlette:
    """Put the routes together."""
    viewers = 0

    async def static(request: Request) -> Response:
        name, kind = _STATIC[request.url.path]
        return Response((files(__package__) / name).read_bytes(), media_type=kind)

    async def stream(encode: Encode, head: bytes, media_type: str) -> Response:
        nonlocal viewers
        if viewers >= MAX_VIEWERS:
            return PlainTextResponse("too many viewers", 503, {"Retry-After": "10"})

        async def body() -> AsyncIterator[bytes]:
            nonlocal viewers
            viewers += 1
            number = 0
            try:
                while True:
                    # The server waits here until the viewer took the last frame: a slow viewer skips frames.
                    number, data = await broadcaster.next(encode, number)
                    yield head % len(data) + data if head else data
            except Closed:
                return
            finally:
                viewers -= 1

        return StreamingResponse(body(), media_type=media_type)

    async def bundles(request: Request) -> Response:
        return await stream(encode_bundle, b"", "application/octet-stream")

    async def mjpeg(request: Request) -> Response:
        head = b"\r\n--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
        return await stream(encode_overlay, head, "multipart/x-mixed-replace; boundary=frame")

    async def snapshot(request: Request) -> Response:
        try:
            _, data = await asyncio.wait_for(broadcaster.next(encode_overlay), _SNAPSHOT_WAIT_S)
        except (TimeoutError, Closed):
            return PlainTextResponse("no frame yet", 503, {"Retry-After": "1"})
        return Response(data, media_type="image/jpeg")

    async def status(request: Request) -> Response:
        return JSONResponse(state.status() | {"viewers": viewers})

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(state.metrics(viewers), media_type="text/plain; version=0.0.4")

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok" if state.healthy() else "no frames", 200 if state.healthy() else 503)

    routes = [Route(path, static) for path in _STATIC]
    routes += [
        Route("/stream", bundles),
        Route("/stream.mjpg", mjpeg),
        Route("/snapshot.jpg", snapshot),
        Route("/api/status", status),
        Route("/metrics", metrics),
        Route("/healthz", health),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, access=access)])


class WebSink(Sink):
    """Serves the page from a thread of its own; the pipeline only leaves the newest frame with it."""

    name = "web"

    def __init__(
        self, address: str, state: State, *, token: str | None = None, names: Iterable[str] = ()
    ) -> None:
        """Bind and start to serve.

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
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            raise UserError(f"--serve {address}: cannot listen there ({error.strerror})") from None
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_AFTER_MS)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}/" + (f"?token={token}" if token else "")
        self._state = state
        self._access = Access.bound_to(host, token, names)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="web", daemon=True)
        self._thread.start()
        self._ready.wait()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._broadcaster = Broadcaster()
        config = uvicorn.Config(
            build_app(self._state, self._broadcaster, self._access),
            log_level="error",
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_HEADERS,
            http="h11",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
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
