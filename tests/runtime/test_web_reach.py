"""The page from where it is looked at: behind a proxy, beside other pages, from a phone, over a slow line."""

import ipaddress
import json
import re
import socket
import struct
import threading
import time
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from .conftest import needs

needs("uvicorn", "web")

from il2vseg.runtime.web import server  # noqa: E402
from il2vseg.runtime.web.line import Line  # noqa: E402
from il2vseg.runtime.web.server import WebSink  # noqa: E402
from il2vseg.runtime.web.state import State  # noqa: E402

from .test_web import body, connect, get, guarded, result, state, web  # noqa: E402

__all__ = ["guarded", "state", "web"]  # fixtures


# --- behind a proxy, beside other pages, from a phone ---------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/bow", "/boats/bow"])
def test_the_page_works_under_any_path_of_a_proxy(guarded: WebSink, prefix: str) -> None:
    answer = get(guarded, f"{prefix}/?token=open%20sesame")
    assert (answer.status, answer.getheader("Location")) == (303, "./")
    cookie = str(answer.getheader("Set-Cookie"))
    assert "path" not in cookie.lower()  # a browser then keeps it for the folder that it asked for
    for path in ("/", "/page.js", "/page.css", "/api/status", "/metrics"):
        assert get(guarded, prefix + path, Cookie=cookie.partition(";")[0]).status == 200
        assert get(guarded, prefix + path).status == 401
    text = body(get(guarded, "/", Cookie=cookie.partition(";")[0]))
    assert 'src="/' not in text
    assert 'href="/' not in text


@pytest.mark.parametrize("path", ["/page.js", "/api/status", "/snapshot.jpg", "/nothing"])
def test_a_proxy_is_told_not_to_collect(web: WebSink, path: str) -> None:
    web.write(result(0))
    assert get(web, path).getheader("X-Accel-Buffering") == "no"
    assert "no-transform" in str(get(web, path).getheader("Cache-Control"))


def test_two_pages_of_one_host_keep_their_cookies_apart(state: State) -> None:
    sinks = [WebSink("127.0.0.1:0", state, token=token) for token in ("one", "two")]
    try:
        jar = "; ".join(
            str(get(sink, f"/?token={token}").getheader("Set-Cookie")).partition(";")[0]
            for sink, token in zip(sinks, ("one", "two"), strict=True)
        )
        assert [get(sink, "/api/status", Cookie=jar).status for sink in sinks] == [200, 200]
        # Nor does a cookie of a third page, which Python's own reader would stumble over.
        assert get(sinks[0], "/api/status", Cookie=f"bad[name]={{}}; {jar}").status == 200
    finally:
        for sink in sinks:
            sink.close()


@pytest.mark.parametrize("token", ["a+b&c", "50%", "a b#c?d/e", "ümläut €", 'se;mi"colon', "a=b,c"])
def test_the_address_that_is_printed_opens_the_page(state: State, token: str) -> None:
    sink = WebSink("127.0.0.1:0", state, token=token)
    try:
        address = urlsplit(sink.url)
        answer = get(sink, f"{address.path}?{address.query}")
        assert answer.status == 303
        cookie = str(answer.getheader("Set-Cookie")).partition(";")[0]
        assert get(sink, "/api/status", Cookie=cookie).status == 200
    finally:
        sink.close()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_the_address_that_is_printed_is_one_that_a_phone_can_open(state: State, address: str) -> None:
    sink = WebSink(address, state)
    try:
        host = urlsplit(sink.url).hostname or ""
        assert not ipaddress.ip_address(host).is_unspecified
        with socket.create_connection((host, int(str(urlsplit(sink.url).port))), 5):
            pass
    finally:
        sink.close()


def test_without_a_network_the_address_is_that_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    assert server._reachable("0.0.0.0") == "127.0.0.1"
    assert server._reachable("::") == "[::1]"
    assert server._reachable("10.0.0.7") == "10.0.0.7"


# --- slow lines -----------------------------------------------------------------------------------------


def test_a_picture_of_the_mjpeg_stream_is_complete_before_the_next_one_comes(web: WebSink) -> None:
    """Chromium shows a picture when it sees the boundary behind it."""
    web.write(result(50))
    connection = connect(web)
    connection.request("GET", "/stream.mjpg")
    response = connection.getresponse()
    head = b"".join(iter(response.readline, b"\r\n"))
    assert head.startswith(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: ")
    jpeg = response.read(int(head.split()[-1]))
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1).shape == (36, 64, 3)
    assert response.read(11) == b"\r\n--frame\r\n"
    connection.close()


@pytest.mark.parametrize("path", ["/stream", "/stream.mjpg"])
def test_asking_for_the_head_of_a_stream_makes_no_viewer(web: WebSink, path: str) -> None:
    connection = connect(web)
    connection.request("HEAD", path)
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"")
    connection.request("GET", "/api/status")  # the connection is free again
    assert json.loads(connection.getresponse().read())["viewers"] == 0
    connection.close()


def test_the_page_can_tell_the_age_of_a_picture(web: WebSink) -> None:
    made = result(0)
    web.write(made)
    status = json.loads(body(get(web, "/api/status")))
    assert abs(status["time"] - time.time()) < 1
    assert status["time"] - status["unix"] == pytest.approx(
        time.perf_counter() - made.captured.clock, abs=0.5
    )
    connection = connect(web)
    connection.request("GET", "/stream")
    response = connection.getresponse()
    (length,) = struct.unpack("<I", response.read(4))
    assert json.loads(response.read(length))["unix"] == pytest.approx(status["unix"], abs=0.1)
    connection.close()


class SlowLine:
    """Takes so many bytes per second, in steps, by a clock of its own."""

    def __init__(self, rate: float, step: int = 1) -> None:
        self.rate, self.step = rate, step
        self.now = self.under_way = 0.0

    def wait(self, seconds: float) -> None:
        before, self.now = self.now, self.now + seconds
        arrived = int(self.now * self.rate / self.step) - int(before * self.rate / self.step)
        self.under_way = max(0.0, self.under_way - self.step * arrived)


@pytest.mark.parametrize(("rate", "step"), [(20_000, 1), (100_000, 65_536), (1_000_000, 1448)])
def test_the_next_frame_waits_until_the_last_one_is_nearly_through(rate: float, step: int) -> None:
    wire = SlowLine(rate, step)
    line = Line(lambda: int(wire.under_way), lambda: wire.now)
    for _ in range(20):
        wire.under_way += 50_000
        line.sent()
        while line.behind() > 0.25:
            wire.wait(0.02)
        assert wire.under_way <= 0.25 * 1.7 * rate
    assert line.rate == pytest.approx(rate, rel=0.6)
    assert line.seconds_for(50_000) == pytest.approx(50_000 / rate, rel=1.5)


def test_a_line_that_never_waits_gets_large_pictures() -> None:
    wire = SlowLine(1e9)
    line = Line(lambda: 0, lambda: wire.now)
    for _ in range(100):  # a frame every two seconds: that is the source's pace, not the line's
        line.sent()
        assert line.behind() == 0
        wire.wait(2)
    assert line.seconds_for(500_000) == 0


def test_the_page_gets_a_small_picture_first_and_large_ones_where_the_line_takes_them(web: WebSink) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (540, 960, 3), dtype=np.uint8)
    web.write(result(0, noise))
    connection = connect(web)
    connection.request("GET", "/stream")
    response = connection.getresponse()
    widths = []
    for _ in range(2):
        (length,) = struct.unpack("<I", response.read(4))
        header = json.loads(response.read(length))
        jpeg = np.frombuffer(response.read(header["jpeg"]), np.uint8)
        response.read(header["png"])
        widths.append(cv2.imdecode(jpeg, 1).shape[1])
        web.write(result(1, noise))
    connection.close()
    assert widths == [400, 960]


def test_a_large_picture_is_not_tried_on_a_line_that_took_long_for_a_small_one() -> None:
    wire = SlowLine(100_000)
    line = Line(lambda: int(wire.under_way), lambda: wire.now)
    wire.under_way += 20_000
    line.sent()
    while line.behind() > 0.25:
        wire.wait(0.02)
    assert wire.now == pytest.approx(0.2, abs=0.03)
    assert line.seconds_for(120_000) == pytest.approx(1.2, rel=0.2)


def test_a_viewer_on_a_slow_line_sees_the_present(web: WebSink) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (180, 320, 3), dtype=np.uint8)  # 60 kB a frame
    stop = threading.Event()

    def publish() -> None:
        while not stop.wait(0.02):
            web.write(result(0, noise))

    threading.Thread(target=publish, daemon=True).start()
    viewer = socket.socket()
    # What is slow is the line, not the viewer, which keeps little.
    viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
    viewer.connect(("127.0.0.1", int(str(urlsplit(web.url).port))))
    viewer.sendall(b"GET /stream HTTP/1.0\r\nHost: localhost\r\n\r\n")
    begun, taken, data, ages = time.monotonic(), 0, b"", []
    while time.monotonic() - begun < 2:
        data += viewer.recv(4096)
        taken += 4096
        time.sleep(max(0.0, taken / 400_000 - (time.monotonic() - begun)))
        *_, head = re.findall(rb'"unix": ([0-9.]+)', data) or [b""]
        if head:
            ages.append(time.time() - float(head))
            data = data[-200:].rpartition(b'"unix"')[2]
    stop.set()
    viewer.close()
    assert len(ages) > 5
    assert max(ages) < 1.3  # with the kernel's own buffers: nearly all of the two seconds
