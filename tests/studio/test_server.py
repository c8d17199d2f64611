"""The studio over HTTP: token, other pages, two tabs, and no file but the footage."""

import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from il2vseg.base.images import decode_frame, decode_labels

pytest.importorskip("uvicorn", reason="uvicorn is not installed (pip install 'il2vseg[web]')")

from il2vseg.runtime.web.server import open_door
from il2vseg.studio.server import make_server, own_path
from il2vseg.studio.studio import Studio

from .conftest import FRAMES

TOKEN = "open sesame"


@dataclass
class Page:
    """A studio that is served."""

    studio: Studio
    port: int

    def ask(
        self, method: str, path: str, body: Any = None, token: str | None = TOKEN, **headers: str
    ) -> tuple[int, bytes, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {k.replace("_", "-"): v for k, v in headers.items()}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        answer = response.status, response.read(), response.headers
        connection.close()
        return answer

    def get(self, path: str) -> Any:
        status, body, _ = self.ask("GET", path)
        assert status == 200, body
        return json.loads(body)

    def act(self, revision: int, **action: Any) -> tuple[int, str]:
        status, body, _ = self.ask("POST", "/api/act", {"revision": revision, "action": action})
        return status, body.decode()


@pytest.fixture
def page(studio: Studio) -> Iterator[Page]:
    door = open_door("127.0.0.1:0", TOKEN)
    server = make_server(studio, door.access)
    thread = threading.Thread(target=lambda: server.run(sockets=[door.socket]), daemon=True)
    thread.start()
    yield Page(studio, int(str(urlsplit(door.url).port)))
    server.should_exit = True
    thread.join(10)


def test_the_page_needs_nothing_from_elsewhere(page: Page) -> None:
    text = b""
    for path in ("/", "/page.css", "/page.js", "/viewer.js", "/naming.js", "/steps.js"):
        status, body, headers = page.ask("GET", path)
        assert status == 200
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        text += body
    assert b"http://" not in text
    assert b"https://" not in text
    assert b"<script>" not in text
    assert b" style=" not in text


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/api/state", "/api/clusters", "/media/frame/0.jpg?width=100", "/api/act"]
)
def test_everything_needs_the_token(page: Page, path: str) -> None:
    method, body = (
        ("POST", {"revision": 0, "action": {"do": "undo"}}) if path == "/api/act" else ("GET", None)
    )
    for token in (None, "wrong", ""):
        status, said, _ = page.ask(method, path, body, token=token)
        assert status == 401
        assert b"il2vseg studio" in said


@pytest.mark.parametrize(
    "path",
    [
        "/media/frame/../../studio.json?width=100",
        "/media/frame/..%2f..%2fstudio.jpg?width=100",
        "/media/frame/%2e%2e/%2e%2e/etc/passwd.jpg?width=100",
        "/media/frame/-1.jpg?width=100",
        "/media/frame/99.jpg?width=100",
        "/media/frame/0x1.jpg?width=100",
        "/media/frame//etc/passwd?width=100",
        "/media/labels/99.png",
        "/media/exemplars/77.jpg",
        "/media/heat/1e9.png",
        "/media/picture/passwd.png",
        "/media/picture/..%2f..%2fstudio.png",
        "/media/trial/7.mjpg",
        "/media/trial/%2fetc%2fpasswd.mjpg",
        "/studio.json",
        "/../studio.json",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/page.html",
        "/server.py",
        "/api/clusters?like=../../x",
        "/api/clusters?like=99",
        "/api/nothing",
        "/api/command/rm",
        "/api/command/try?settings=%7B%22clip%22:99%7D",
        "/api/command/try?settings=%7B%22clip%22:%22/etc/passwd%22%7D",
        "/api/command/train?settings=[1]",
        "/api/command/train?settings=%7B",
        "/api/command/train?settings=%7B%22steps%22:%227;rm%22%7D",
    ],
)
def test_no_path_leads_to_another_file(page: Page, path: str) -> None:
    status, body, _ = page.ask("GET", path)
    assert status in (400, 404)
    assert b"root:" not in body
    assert b"token" not in body


def test_a_step_tells_its_command_before_it_is_started(page: Page) -> None:
    project = page.studio.project
    asked = "/api/command/train?settings=%7B%22clusters%22:12%7D"
    assert page.get(asked)["command"].startswith("il2vseg train --dataset folder --root ")
    assert page.get(asked)["command"].endswith(f"--out {project.model} --backbone tiny --clusters 12")
    assert page.get("/api/command/name")["command"].endswith(f"--root {project.state.footage.root}")
    assert page.act(page.get("/api/state")["revision"], do="name", clusters=[2], name="own boat")[0] == 200
    told = page.get("/api/command/name")["command"]
    assert told == f"il2vseg name --model {project.model} --set '2=own boat'"
    assert page.get("/api/command/try")["command"] == (
        f"il2vseg run --source {project.state.footage.root} --model {project.export} --save-video overlay.mp4"
    )
    status, said, _ = page.ask("GET", "/api/command/export")
    assert (status, said) == (400, b"distil a student first")


def test_frames_and_labels_come_by_number(page: Page) -> None:
    for number in range(FRAMES):
        status, body, headers = page.ask("GET", f"/media/frame/{number}.jpg?width=64")
        assert (status, headers["Content-Type"]) == (200, "image/jpeg")
        assert decode_frame(body).shape == (48, 64, 3)
    assert decode_labels(page.ask("GET", "/media/labels/0.png")[1]).shape == (96, 128)
    assert decode_frame(page.ask("GET", "/media/exemplars/0.jpg")[1]).shape == (240, 480, 3)


def test_two_tabs_see_one_state_and_the_slower_is_refused(page: Page) -> None:
    one = two = page.get("/api/clusters")["revision"]
    assert page.act(one, do="name", clusters=[0], name="water")[0] == 200
    status, said = page.act(two, do="name", clusters=[0], name="sky")
    assert status == 409
    assert "elsewhere" in said
    shown = page.get("/api/clusters")
    assert shown["clusters"][0]["name"] == "water"
    assert page.act(shown["revision"], do="name", clusters=[0], name="sky")[0] == 200
    assert page.get("/api/state")["named"]["named"] == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 400),
    ],
)
def test_a_page_elsewhere_cannot_act(page: Page, headers: dict[str, str], status: int) -> None:
    body = {
        "revision": page.studio.project.state.revision,
        "action": {"do": "name", "clusters": [0], "name": "x"},
    }
    assert page.ask("POST", "/api/act", body, **headers)[0] == status
    assert page.studio.state()["named"]["named"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"revision": "1", "action": {}}',
        b'{"revision": 1, "action": []}',
        b"[" * 9000,
    ],
)
def test_nonsense_is_refused_in_one_line(page: Page, body: bytes) -> None:
    status, said, _ = page.ask("POST", "/api/act", body)
    assert status == 400
    assert b"Traceback" not in said


def test_a_body_has_a_bound_and_only_one_path_takes_one(page: Page) -> None:
    assert page.ask("POST", "/api/act", b"x" * 70_000)[0] == 413
    assert page.ask("POST", "/api/state", {"a": 1})[0] == 405
    assert page.ask("GET", "/api/act")[0] == 405
    assert page.ask("DELETE", "/media/frame/0.jpg")[0] == 405


@pytest.mark.parametrize(
    "action",
    [
        {"do": "format"},
        {"do": "start", "job": "rm"},
        {"do": "start", "job": "train", "settings": {"clusters": "8; rm"}},
        {"do": "start", "job": "train", "settings": {"clusters": 1}},
        {"do": "start", "job": "train", "settings": [1]},
        {"do": "start", "job": "export", "settings": {"what": "../.."}},
        {"do": "start", "job": "export", "settings": {"what": "model", "precision": "--out"}},
        {"do": "stop", "job": "train"},
        {"do": "stop", "job": None},
        {"do": "like", "model": 99},
        {"do": "click", "frame": "../x", "x": 0.5, "y": 0.5, "name": "a"},
    ],
)
def test_what_cannot_be_done_is_said(page: Page, action: dict[str, Any]) -> None:
    status, said = page.act(page.get("/api/state")["revision"], **action)
    assert status == 400
    assert said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("/boat/api/state", "/api/state"),
        ("/boat/", "/"),
        ("/boat/media/frame/3.jpg", "/media/frame/3.jpg"),
        ("/boat/page.js", "/page.js"),
    ],
)
def test_a_proxy_may_put_a_path_before_it(asked: str, meant: str) -> None:
    assert own_path(asked) == meant


def test_without_a_host_only_this_machine_is_served() -> None:
    door = open_door("0", TOKEN)
    assert door.socket.getsockname()[0] == "127.0.0.1"
    door.socket.close()
