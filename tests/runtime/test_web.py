"""The web server without a browser: access, streams, numbers, slow viewers."""

import contextlib
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame
from il2vseg.runtime.events import Event
from il2vseg.runtime.histogram import Latencies
from il2vseg.runtime.result import Result
from tests.waiting import eventually

from .conftest import CLASSES, make_result, needs

needs("uvicorn", "web")

from il2vseg.runtime.web import server  # noqa: E402
from il2vseg.runtime.web.guard import Access, is_loopback  # noqa: E402
from il2vseg.runtime.web.server import MAX_VIEWERS, WebSink, parse_address  # noqa: E402
from il2vseg.runtime.web.state import State  # noqa: E402


def result(index: int, frame: Frame | None = None) -> Result:
    """Half sky, half obstacle."""
    frame = np.full((36, 64, 3), index % 256, np.uint8) if frame is None else frame
    labels = np.zeros(frame.shape[:2], np.uint8)
    labels[: len(labels) // 2] = 2
    made = make_result(frame, labels, index, latency_ms={"total": 12.0}, done=0.0, dropped=3, fps=9.5)
    made = replace(made, captured=replace(made.captured, clock=time.perf_counter()))
    vars(made)["overlay"] = frame
    return made


@pytest.fixture
def state() -> State:
    latencies = Latencies()
    latencies.add({"engine": 7.0})
    return State("threshold", CLASSES, "camera 0", latencies)


@pytest.fixture
def web(state: State) -> Iterator[WebSink]:
    sink = WebSink("0", state)
    yield sink
    sink.close()


@pytest.fixture
def guarded(state: State) -> Iterator[WebSink]:
    sink = WebSink("127.0.0.1:0", state, token="open sesame")
    yield sink
    sink.close()


def connect(sink: WebSink) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", int(str(urlsplit(sink.url).port)), timeout=10)


def get(sink: WebSink, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = connect(sink)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    response.body = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


def body(response: http.client.HTTPResponse) -> str:
    return bytes(response.body).decode()  # type: ignore[attr-defined]


def test_the_page_needs_nothing_from_elsewhere(web: WebSink) -> None:
    page = get(web, "/")
    assert page.status == 200
    assert "default-src 'none'" in str(page.getheader("Content-Security-Policy"))
    text = body(page) + body(get(web, "/page.js")) + body(get(web, "/page.css"))
    assert "http://" not in text
    assert "https://" not in text
    assert "<script>" not in text


@pytest.mark.parametrize(
    "path", ["/../manifest.json", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/page.html"]
)
def test_no_other_file_can_be_reached(web: WebSink, path: str) -> None:
    assert get(web, path).status == 404


def test_only_plain_questions_are_answered(web: WebSink) -> None:
    for method, content, status in (("POST", b"x", 405), ("DELETE", None, 405), ("GET", b"x" * 100, 413)):
        connection = connect(web)
        connection.request(method, "/api/status", body=content)
        assert connection.getresponse().status == status
        connection.close()
    with contextlib.suppress(ConnectionError):  # closed while the rest of it was still being sent
        assert get(web, "/", Cookie="x" * 100_000).status in (400, 431)
    assert get(web, "/").status == 200


def test_names_of_other_machines_are_refused(web: WebSink) -> None:
    for host, status in (("localhost:80", 200), ("127.0.0.1", 200), ("evil.example", 400), ("", 400)):
        assert get(web, "/", Host=host).status == status


def test_every_path_but_health_needs_the_token(guarded: WebSink) -> None:
    for path in (
        "/",
        "/page.js",
        "/stream",
        "/stream.mjpg",
        "/snapshot.jpg",
        "/api/status",
        "/metrics",
        "/x",
    ):
        assert get(guarded, path).status == 401
        assert get(guarded, f"{path}?token=wrong").status == 401
    assert get(guarded, "/healthz").status == 503  # no frames yet, but it answers
    assert get(guarded, "/metrics", Authorization="Bearer open sesame").status == 200


def test_the_token_moves_from_the_address_into_a_cookie(guarded: WebSink) -> None:
    answer = get(guarded, "/?token=open%20sesame")
    assert (answer.status, answer.getheader("Location")) == (303, "./")
    cookie = str(answer.getheader("Set-Cookie"))
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert get(guarded, "/", Cookie=cookie.partition(";")[0]).status == 200


def test_a_token_is_made_up_when_others_can_connect(state: State) -> None:
    sink = WebSink("0.0.0.0:0", state)
    try:
        assert len(sink.url.partition("?token=")[2]) >= 16
        assert get(sink, "/").status == 401
        assert (
            get(sink, "/" + sink.url.partition("/?")[1] and f"/?{sink.url.partition('?')[2]}").status == 303
        )
    finally:
        sink.close()


@given(st.text(max_size=30))
def test_any_host_header_is_answered_without_an_error(header: str) -> None:
    assert isinstance(Access.bound_to("0.0.0.0", "t").host_allowed(header), bool)


def test_addresses_are_good_only_when_bound_to_one() -> None:
    anywhere = Access.bound_to("0.0.0.0", "t", ["boat.example"])
    assert anywhere.host_allowed("192.168.1.7:8080")
    assert anywhere.host_allowed("[fe80::1]:8080")
    assert anywhere.host_allowed("Boat.example:8080")
    assert not anywhere.host_allowed("evil.example")
    assert not Access.bound_to("127.0.0.1", None).host_allowed("192.168.1.7")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8080", ("127.0.0.1", 8080)), ("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:80", ("::1", 80))],
)
def test_addresses_are_parsed(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["", "host", "host:", "host:99999", "1.2.3.4:x"])
def test_a_wrong_address_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="PORT is needed"):
        parse_address(text)


def test_a_port_in_use_is_refused(web: WebSink, state: State) -> None:
    with pytest.raises(UserError, match="cannot listen there"):
        WebSink(str(urlsplit(web.url).port), state)


def test_status_tells_of_the_source(web: WebSink) -> None:
    web.write(result(0))
    web.event(Event("source_lost", "camera 0: gone"))
    status = json.loads(body(get(web, "/api/status")))
    assert status["source"] == {"name": "camera 0", "up": False, "reason": "camera 0: gone"}
    assert status["record"]["classes"]["sky"] == 0.5
    assert [c["name"] for c in status["classes"]] == ["obstacle", "water", "sky"]
    assert get(web, "/healthz").status == 200  # waiting for a camera is no reason for a restart
    web.event(Event("source_back", "camera 0: back"))
    assert json.loads(body(get(web, "/api/status")))["source"]["up"]


def test_metrics_are_prometheus_text(web: WebSink) -> None:
    web.write(result(0))
    web.event(Event('odd"kind', "x"))
    text = body(get(web, "/metrics"))
    assert "il2vseg_frames_total 1\n" in text
    assert 'il2vseg_class_fraction{class="sky"} 0.5\n' in text
    assert 'il2vseg_latency_milliseconds_bucket{stage="engine",le="5"} 0\n' in text
    assert 'il2vseg_latency_milliseconds_bucket{stage="engine",le="10"} 1\n' in text
    assert r'il2vseg_events_total{kind="odd\"kind"} 1' in text
    for line in text.splitlines():
        assert line.startswith("# ") or len(line.rpartition(" ")[2]) > 0


def read_bundle(response: http.client.HTTPResponse) -> tuple[dict[str, object], Frame, np.ndarray]:
    (length,) = struct.unpack("<I", response.read(4))
    head = json.loads(response.read(length))
    jpeg, png = response.read(head["jpeg"]), response.read(head["png"])
    return (
        head["record"],
        np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), dtype=np.uint8),
        np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)),
    )


def test_the_stream_carries_frame_labels_and_record(web: WebSink) -> None:
    web.write(result(7))
    connection = connect(web)
    connection.request("GET", "/stream")
    response = connection.getresponse()
    record, frame, labels = read_bundle(response)
    assert record["index"] == 7
    assert abs(int(frame.mean()) - 7) <= 1
    np.testing.assert_array_equal(labels, result(7).labels)
    web.write(result(8))
    assert read_bundle(response)[0]["index"] == 8
    connection.close()


def test_big_frames_are_shrunk_for_the_page(web: WebSink) -> None:
    web.write(result(0, np.zeros((1080, 1920, 3), np.uint8)))
    connection = connect(web)
    connection.request("GET", "/stream")
    response = connection.getresponse()
    read_bundle(response)  # small, to learn how fast the line is
    web.write(result(1, np.zeros((1080, 1920, 3), np.uint8)))
    _, frame, labels = read_bundle(response)
    assert frame.shape == (540, 960, 3)
    assert labels.shape == (270, 480)
    connection.close()


def test_plain_clients_get_the_overlay_as_mjpeg(web: WebSink) -> None:
    web.write(result(50))
    assert abs(cv2.imdecode(np.frombuffer(snapshot(web), np.uint8), 1).mean() - 50) <= 1
    stop = threading.Event()

    def publish() -> None:
        while not stop.wait(0.01):
            web.write(result(51))

    threading.Thread(target=publish, daemon=True).start()
    capture = cv2.VideoCapture(f"{web.url}stream.mjpg", cv2.CAP_FFMPEG)
    ok, frame = capture.read()
    stop.set()
    assert ok
    assert frame.shape == (36, 64, 3)
    capture.release()


def snapshot(web: WebSink) -> bytes:
    return bytes(get(web, "/snapshot.jpg").body)  # type: ignore[attr-defined]


def test_a_frame_is_encoded_once_for_all_viewers(web: WebSink) -> None:
    web.write(result(0))
    connections = [connect(web) for _ in range(6)]
    responses = []
    for connection in connections:
        connection.request("GET", "/stream")
        responses.append(connection.getresponse())
    for index in range(5):
        if index:
            web.write(result(index))
        assert {read_bundle(r)[0]["index"] for r in responses} == {index}
    assert web._broadcaster.encoded == 5
    for connection in connections:
        connection.close()


def test_viewers_are_bounded(web: WebSink) -> None:
    web.write(result(0))
    connections = [connect(web) for _ in range(MAX_VIEWERS + 1)]
    statuses = []
    for connection in connections:
        connection.request("GET", "/stream")
        response = connection.getresponse()
        statuses.append(response.status)
        if response.status == 200:
            read_bundle(response)
    assert statuses == [200] * MAX_VIEWERS + [503]
    for connection in connections:
        connection.close()


def test_a_viewer_that_stalls_slows_nobody(web: WebSink) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (540, 960, 3), dtype=np.uint8)  # some 500 kB a frame
    stalled = socket.create_connection(("127.0.0.1", int(str(urlsplit(web.url).port))))
    stalled.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    connection = connect(web)
    connection.request("GET", "/stream")
    web.write(result(0, noise))
    response = connection.getresponse()
    slowest = 0.0
    for index in range(1, 60):
        assert read_bundle(response)[0]["index"] == index - 1
        begun = time.perf_counter()
        web.write(result(index, noise))
        slowest = max(slowest, time.perf_counter() - begun)
    assert slowest < 0.2
    connection.close()
    stalled.close()


def test_a_viewer_that_takes_nothing_for_long_is_dropped(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "GONE_AFTER_MS", 500)
    sink = WebSink("0", state)
    try:
        noise = np.random.default_rng(0).integers(0, 255, (540, 960, 3), dtype=np.uint8)
        stalled = socket.create_connection(("127.0.0.1", int(str(urlsplit(sink.url).port))))
        stalled.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")

        def viewers() -> int:
            sink.write(result(0, noise))
            return int(json.loads(body(get(sink, "/api/status")))["viewers"])

        eventually(lambda: viewers() == 1)
        eventually(lambda: viewers() == 0, 15)
        stalled.close()
    finally:
        sink.close()


def test_closing_sends_viewers_home(state: State) -> None:
    sink = WebSink("0", state)
    sink.write(result(0))
    connection = connect(sink)
    connection.request("GET", "/stream")
    response = connection.getresponse()
    read_bundle(response)
    begun = time.perf_counter()
    sink.close()
    assert response.read() == b""
    assert time.perf_counter() - begun < 4
    connection.close()


def test_viewers_that_leave_are_forgotten(web: WebSink) -> None:
    web.write(result(0))
    connection = connect(web)
    connection.request("GET", "/stream")
    read_bundle(connection.getresponse())
    assert json.loads(body(get(web, "/api/status")))["viewers"] == 1
    connection.close()

    def gone() -> bool:
        web.write(result(1))
        return bool(json.loads(body(get(web, "/api/status")))["viewers"] == 0)

    eventually(gone)
