"""Who may ask, and for how much: host names, token, request size, and headers on every answer.

The rules are those of both pages, the runtime's and that of `il2vseg studio`; `Rules` says where they differ.
"""

import hmac
import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATHS = (
    "/api/status",
    "/stream.mjpg",
    "/stream",
    "/snapshot.jpg",
    "/metrics",
    "/healthz",
    "/page.js",
    "/page.css",
    "/",
)
"""All that is answered, under any prefix: a proxy may show the page below a path of its own."""

MAX_HEADERS = 16_384
"""Bytes of all headers of a request."""

OPEN_PATHS = frozenset({"/healthz"})
"""Answered without a token; they tell nothing."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",  # a proxy that collects an answer before it passes it on shows the past
}


def is_loopback(host: str) -> bool:
    """Whether a name or address to bind to reaches this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        hosts: names under which this machine may be addressed. A page elsewhere whose name was pointed at
            us (DNS rebinding) is refused by this. any_address: numeric addresses are good as well.
        token: what a viewer must know; None asks for none.
        cookie: name of the one that keeps the token. Browsers keep cookies by host, whatever the port.
    """

    hosts: frozenset[str]
    any_address: bool
    token: str | None
    cookie: str = "il2vseg"

    @classmethod
    def bound_to(cls, host: str, token: str | None, names: Iterable[str] = (), *, port: int = 0) -> "Access":
        """Choose the rules for a server bound to `host`; `names` are further names of this machine."""
        hosts = {"localhost", *(n.lower() for n in names)}
        cookie = f"il2vseg-{port}"
        if is_loopback(host):
            return cls(frozenset(hosts | {"127.0.0.1", "::1", host}), False, token, cookie)
        own = socket.gethostname().lower()
        return cls(frozenset(hosts | {own, f"{own}.local", host.lower()}), True, token, cookie)

    def host_allowed(self, header: str) -> bool:
        """Whether a Host header names this machine."""
        name = header.lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name in self.hosts:
            return True
        if not self.any_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def token_matches(self, given: str | None) -> bool:
        """Whether a token is the right one, in a time that tells nothing about it."""
        if self.token is None:
            return True
        return given is not None and hmac.compare_digest(given.encode(), self.token.encode())


def known_path(path: str) -> str:
    """The path that is meant, without what a proxy put before it."""
    return next((known for known in PATHS if path.endswith(known)), path)


@dataclass(frozen=True)
class Rules:
    """What a page answers.

    Attributes:
        program: the command that serves it, for messages.
        path: a path as it was asked for -> one of the page's, without what a proxy put before it.
        posts: paths that take a body of JSON, of at most `max_body` bytes.
    """

    program: str = "il2vseg-run"
    path: Callable[[str], str] = known_path
    posts: frozenset[str] = frozenset()
    max_body: int = 0


class Guard:
    """ASGI middleware that applies `Access` and `Rules`: by default GET and HEAD only, without a body."""

    def __init__(self, app: ASGIApp, access: Access, rules: Rules | None = None) -> None:
        self._app = app
        self._access = access
        self._rules = rules or Rules()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        scope = {**scope, "path": self._rules.path(scope["path"])}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await (self._refusal(scope) or self._app)(scope, receive, send_with_headers)

    def _wrong_request(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        """The refusal of a method or a body."""
        if scope["path"] not in self._rules.posts:
            if scope["method"] not in ("GET", "HEAD"):
                return PlainTextResponse("only GET", 405, {"Allow": "GET, HEAD"})
            if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
                return PlainTextResponse("no body is expected", 413)
            return None
        if scope["method"] != "POST":
            return PlainTextResponse("only POST", 405, {"Allow": "POST"})
        length = headers.get("content-length", "")
        if not length.isdigit() or int(length) > self._rules.max_body:
            return PlainTextResponse(f"at most {self._rules.max_body} bytes", 413)
        # A page elsewhere can post forms to us, but not JSON, and its browser says where it comes from.
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return PlainTextResponse("application/json is expected", 415)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return PlainTextResponse("not from a page elsewhere", 403)
        return None

    def _refusal(self, scope: Scope) -> Response | None:
        if sum(len(k) + len(v) for k, v in scope["headers"]) > MAX_HEADERS:
            return PlainTextResponse("headers too long", 431)
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        if not self._access.host_allowed(headers.get("host", "")):
            program = self._rules.program
            return PlainTextResponse(f"unknown host name; start {program} with --allow-host NAME", 400)
        if refused := self._wrong_request(scope, headers):
            return refused
        if self._access.token is None or scope["path"] in OPEN_PATHS:
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [None])[0]
        if given is not None and scope["path"] == "/" and self._access.token_matches(given):
            # From the address bar into a cookie: the token then shows in no history and no log. Address and
            # cookie are relative to what the browser asked for: only it knows the path before a proxy.
            answer = RedirectResponse("./", 303)
            value, year = quote(given, safe=""), 365 * 24 * 3600
            cookie = self._access.cookie
            answer.set_cookie(cookie, value, year, path=None, httponly=True, samesite="strict")
            return answer
        bearer = headers.get("authorization", "").partition("Bearer ")[2] or None
        candidates = (given, self._kept_token(headers.get("cookie", "")), bearer)
        if any(self._access.token_matches(c) for c in candidates if c is not None):
            return None
        return PlainTextResponse(
            f"a token is needed: open the address that {self._rules.program} printed, with ?token=…", 401
        )

    def _kept_token(self, header: str) -> str | None:
        # Not SimpleCookie, which forgets all cookies where other pages of this host set one that it dislikes.
        for part in header.split(";"):
            name, _, value = part.strip().partition("=")
            if name == self._access.cookie:
                return unquote(value)
        return None
