"""Signal K servers on loopback: the real one from npm, and a small one that does as it does."""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, Protocol

from .. import servers

ROOT = Path(__file__).parents[2]
_SECRET = "0" * 64
_ENVIRONMENT = dict(os.environ)  # tests have caches of their own
SELF = "vessels.urn:mrn:signalk:uuid:00000000-0000-4000-8000-000000000000"


class SignalK(Protocol):
    """A server that can be killed and started again on the same port; `secure`: it wants a token."""

    url: str

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def value(self, path: str) -> Any:
        """The own ship's value at a path, None where there is none."""
        ...

    def tell(self, path: str, value: Any) -> None:
        """Set a value, as a GPS or a compass does."""
        ...

    def pending(self) -> list[dict[str, Any]]:
        """Access requests that wait: clientId, description, permissions."""
        ...

    def decide(self, client: str, status: str) -> None:
        """Answer a request: approved or denied."""
        ...


def stamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{int(time.time() % 1 * 1000):03d}Z"


class FakeSignalK:
    """Answers as signalk-server 2.23 does, as far as the sink can tell. `ignoring`: it may only read."""

    def __init__(self, *, secure: bool = False, ignoring: bool = False) -> None:
        self.port = servers.free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self.ignoring = ignoring
        self._secure = secure
        self.tokens: set[str] = set()
        self.messages: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._requests: dict[str, dict[str, Any]] = {}
        self._server: Any = None

    def start(self) -> None:
        import uvicorn
        from starlette.applications import Starlette
        from starlette.routing import Route, WebSocketRoute

        self._values: dict[str, tuple[Any, str]] = {}
        self._listeners: list[tuple[Any, set[str]]] = []
        routes = [
            Route("/skServer/loginStatus", self._login),
            Route("/signalk/v1/access/requests", self._request, methods=["POST"]),
            Route("/signalk/v1/requests/{number}", self._state),
            WebSocketRoute("/signalk/v1/stream", self._stream),
        ]
        options = {"log_level": "critical", "lifespan": "off", "timeout_graceful_shutdown": 0}
        config = uvicorn.Config(
            Starlette(routes=routes), "127.0.0.1", self.port, ws="websockets-sansio", **options
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    def kill(self) -> None:
        if self._server is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(5)
            self._server = None
            self._requests.clear()

    async def _login(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        return JSONResponse({"status": "notLoggedIn", "authenticationRequired": self._secure})

    async def _request(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        asked = await request.json()
        if any(
            r["clientId"] == asked["clientId"] and r["state"] == "PENDING" for r in self._requests.values()
        ):
            return JSONResponse({"state": "COMPLETED", "statusCode": 400}, 400)
        number = f"r{len(self._requests)}"
        self._requests[number] = {**asked, "state": "PENDING"}
        reply = {"state": "PENDING", "requestId": number, "href": f"/signalk/v1/requests/{number}"}
        return JSONResponse(reply, 202)

    async def _state(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        found = self._requests.get(request.path_params["number"])
        return JSONResponse({}, 404) if found is None else JSONResponse(found)

    async def _stream(self, socket: Any) -> None:
        from starlette.responses import PlainTextResponse
        from starlette.websockets import WebSocketDisconnect

        self.headers.append(dict(socket.headers))
        token = socket.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            await socket.send_denial_response(PlainTextResponse("", 401))
            return
        await socket.accept()
        await socket.send_json({"name": "fake", "self": SELF, "timestamp": stamp()})
        subscribed: set[str] = set()
        self._listeners.append((socket, subscribed))
        try:
            while True:
                await self._take(socket, subscribed, await socket.receive_json(), bool(token))
        except WebSocketDisconnect:
            self._listeners.remove((socket, subscribed))

    async def _take(self, socket: Any, subscribed: set[str], message: dict[str, Any], known: bool) -> None:
        self.messages.append(message)
        for wanted in message.get("subscribe", ()):
            subscribed.add(wanted["path"])
            if wanted["path"] in self._values:
                await socket.send_json(_delta(wanted["path"], *self._values[wanted["path"]]))
        if self.ignoring or (self._secure and not known):
            return
        for update in message.get("updates", ()):
            for value in update.get("values", ()):
                self._values[value["path"]] = value["value"], update["timestamp"]
                for other, paths in self._listeners:
                    if value["path"] in paths:
                        with contextlib.suppress(Exception):  # who left does not hear it
                            await other.send_json(_delta(value["path"], value["value"], update["timestamp"]))

    def value(self, path: str) -> Any:
        return self._values.get(path, (None, ""))[0]

    def tell(self, path: str, value: Any) -> None:
        from websockets.sync.client import connect

        with connect(f"{self.url}/signalk/v1/stream?subscribe=none", proxy=None) as socket:
            socket.send(json.dumps(_delta(path, value, stamp())))

    def pending(self) -> list[dict[str, Any]]:
        return [r for r in self._requests.values() if r["state"] == "PENDING"]

    def decide(self, client: str, status: str) -> None:
        (request,) = [r for r in self.pending() if r["clientId"] == client]
        answer: dict[str, Any] = {"permission": status.upper()}
        if status == "approved":
            answer["token"] = f"granted-to-{client}"
            self.tokens.add(answer["token"])
        request |= {"state": "COMPLETED", "accessRequest": answer}


def _delta(path: str, value: Any, when: str) -> dict[str, Any]:
    return {"context": SELF, "updates": [{"timestamp": when, "values": [{"path": path, "value": value}]}]}


def installed() -> Path | None:
    """The folder of the real server, as tests/npm-packages.sh left it; None where there is none."""
    script = ROOT / "tests/npm-packages.sh"
    command = ["bash", script, "--where"]
    done = subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True)
    folder = Path(done.stdout.strip())
    return folder if (folder / "done").exists() else None


class RealSignalK:
    """signalk-server from npm."""

    def __init__(self, folder: Path, state: Path, *, secure: bool = False) -> None:
        """`folder`: where it is installed. `state`: where its settings shall be."""
        port = servers.free_port()
        self.url = f"ws://127.0.0.1:{port}"
        self._http = f"http://127.0.0.1:{port}"
        state.mkdir(parents=True)
        interfaces = {"tcp": False, "nmea-tcp": False}
        settings = {"interfaces": interfaces, "mdns": False, "pipedProviders": []}
        users = [{"username": "admin", "type": "admin"}]
        (state / "settings.json").write_text(json.dumps(settings))
        (state / "security.json").write_text(
            json.dumps({"secretKey": _SECRET, "users": users, "allow_readonly": False})
        )
        (state / "security.json").chmod(0o600)
        command = [str(folder / "run-node"), str(folder / "node_modules/signalk-server/bin/signalk-server")]
        environment = os.environ | {"PORT": str(port), "SIGNALK_NODE_CONFIG_DIR": str(state)}
        self._process = servers.Process(
            self.url, [*command, *(["--securityenabled"] if secure else [])], environment=environment
        )

    def start(self) -> None:
        self._process.start()

    def kill(self) -> None:
        self._process.kill()

    def ready(self) -> bool:
        time.sleep(0.1)  # it has enough to do
        try:
            return self._call("/signalk") is not None
        except OSError:
            return False

    def value(self, path: str) -> Any:
        try:
            found = self._call(f"/signalk/v1/api/vessels/self/{path.replace('.', '/')}")
        except OSError:
            return None
        return found["value"] if isinstance(found, dict) else None

    def tell(self, path: str, value: Any) -> None:
        from websockets.sync.client import connect

        with connect(
            f"{self.url}/signalk/v1/stream?subscribe=none", additional_headers=_admin(), proxy=None
        ) as socket:
            delta = _delta(path, value, stamp())
            socket.send(json.dumps(delta | {"context": "vessels.self"}))
            socket.recv()

    def pending(self) -> list[dict[str, Any]]:
        waiting = self._call("/skServer/security/access/requests")
        return [request["clientRequest"]["accessRequest"] for request in waiting]

    def decide(self, client: str, status: str) -> None:
        path = f"/skServer/security/access/requests/{client}/{status}"
        self._call(path, {"permissions": "readwrite", "expiration": "1y"})

    def _call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **_admin()}
        request = urllib.request.Request(self._http + path, data, headers, method="PUT" if body else "GET")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
            text = answer.read()
        try:
            return json.loads(text)
        except ValueError:
            return text


def _admin() -> dict[str, str]:
    """What the server's administrator shows: a token signed with the server's secret."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = part(b'{"alg": "HS256", "typ": "JWT"}') + "." + part(b'{"id": "admin"}')
    signature = hmac.new(_SECRET.encode(), text.encode(), hashlib.sha256).digest()
    return {"Authorization": f"Bearer {text}.{part(signature)}"}
