"""The page in a real browser: Debian's chromium, driven by Playwright, on a real run of il2vseg-run."""

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from . import servers
from .conftest import needs

TOKEN = "aye-aye"


@pytest.fixture(scope="module")
def camera(clip: Path) -> Iterator[servers.MjpegServer]:
    server = servers.MjpegServer(clip)
    with servers.running(server):
        yield server


@pytest.fixture(scope="module")
def url(model: Path, camera: servers.MjpegServer) -> Iterator[str]:
    """Address of the page of a run on an HTTP camera, without its token."""
    needs("uvicorn", "web")
    command = [sys.executable, "-m", "il2vseg.runtime.cli", "--model", str(model), "--source", camera.url]
    process = subprocess.Popen(
        [*command, "--serve", "0", "--token", TOKEN, "--freeze-after", "1"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.match(r"page: (http://\S+/)\?token=", line):
                break
        else:
            raise AssertionError("il2vseg-run ended without serving a page")
        yield found[1]
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda m: problems.append(m.text) if "Content Security Policy" in m.text else None)
    opened.goto(f"{url}?token={TOKEN}")
    opened.wait_for_selector("#source.up")
    until(opened, "document.getElementById('fps').textContent !== '–'")
    yield opened
    context.close()
    assert problems == []


def until(page: Any, condition: str, argument: Any = None, seconds: float = 30) -> None:
    """Wait for a condition in the page. Playwright's own waiting evaluates there, which our CSP forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(condition, argument):
        assert time.monotonic() < deadline, f"it did not happen within {seconds:g} s: {condition}"
        page.wait_for_timeout(50)


def pixels(page: Any) -> str:
    return str(page.evaluate("document.getElementById('view').toDataURL()"))


def test_a_token_is_required(browser: Any, url: str) -> None:
    context = browser.new_context()
    opened = context.new_page()
    assert opened.goto(url).status == 401
    assert opened.goto(f"{url}?token=wrong").status == 401
    assert opened.goto(f"{url}?token={TOKEN}").status == 200
    assert "token" not in opened.url
    context.close()


def test_the_picture_moves(page: Any) -> None:
    before = pixels(page)
    until(page, "before => document.getElementById('view').toDataURL() !== before", before)
    assert page.evaluate("[view.width, view.height]") == [160, 120]


def test_the_legend_names_classes_with_their_shares(page: Any) -> None:
    names = page.eval_on_selector_all("#legend .name", "items => items.map(i => i.textContent)")
    assert names == ["obstacle", "water", "sky"]
    until(page, "[...document.querySelectorAll('#legend .share')].every(s => s.textContent.endsWith('%'))")
    shares = page.eval_on_selector_all("#legend .share", "items => items.map(i => parseFloat(i.textContent))")
    assert sum(shares) == pytest.approx(100, abs=0.2)


def paused(page: Any) -> None:
    """Keep the frame on screen, so that only the controls change the picture."""
    page.evaluate("numbers = () => {}; createImageBitmap = () => new Promise(() => {}); 0")
    shown = ""
    while shown != (shown := pixels(page)):  # what was under way still comes
        page.wait_for_timeout(300)


def test_opacity_and_toggles_change_this_viewers_picture(page: Any) -> None:
    paused(page)
    tinted = pixels(page)
    page.locator("#opacity").fill("0")
    plain = pixels(page)
    assert plain != tinted
    page.locator("#opacity").fill("45")
    assert pixels(page) == tinted
    for box in page.locator("#legend input").all():
        box.uncheck()
    assert pixels(page) == plain
    page.locator("#legend input").first.check()
    page.reload()
    page.wait_for_selector("#legend input")
    checked = page.eval_on_selector_all("#legend input", "items => items.map(i => i.checked)")
    assert checked == [True, False, False]


def test_a_picture_can_be_saved(page: Any) -> None:
    with page.expect_download() as download:
        page.locator("#snapshot").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    assert download.value.suggested_filename.endswith(".png")


def test_speed_is_drawn(page: Any) -> None:
    until(page, "history.length > 3")
    drawn = "g => g.getContext('2d').getImageData(0, 0, g.width, g.height).data.some(v => v > 0)"
    assert page.eval_on_selector("#graph", drawn)


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_age_of_the_picture_shows(page: Any) -> None:
    until(page, "/^[0-9.]+ s old$/.test(document.getElementById('age').textContent)")
    assert page.evaluate("age()") < 2
    # A clock that is an hour wrong on either side changes nothing: the device's own counts.
    page.evaluate("const now = Date.now; Date.now = () => now() - 3600e3; clock.within = Infinity; 0")
    until(page, "clock.ahead > 3500 && age() < 2.5")


def test_a_picture_that_stays_is_called_old(page: Any) -> None:
    paused(page)
    until(page, "document.getElementById('age').classList.contains('late')")
    until(page, "document.getElementById('notice').textContent === 'The picture is old'")


def test_a_viewer_who_sees_the_past_connects_again(page: Any) -> None:
    page.evaluate("window.held = connection; last.unix -= 60; leaveTheOld(last.unix + 60); 0")
    until(page, "held.signal.aborted && connection !== held && !connection.signal.aborted")
    until(page, "age() < 2.5")


def test_a_browser_without_options_for_pictures_shows_them(browser: Any, url: str) -> None:
    """Safari before 17 refuses what it does not know."""
    context = browser.new_context()
    opened = context.new_page()
    opened.add_init_script(
        "const native = createImageBitmap.bind(window);"
        "window.createImageBitmap = (...a) => a[1] ? Promise.reject(new TypeError()) : native(...a);"
    )
    opened.goto(f"{url}?token={TOKEN}")
    until(opened, "last !== null && classes.length === 3")
    context.close()


def test_chromium_shows_the_mjpeg_stream(browser: Any, url: str) -> None:
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(f"{url}?token={TOKEN}")
    opened.evaluate("window.shown = new Image(); shown.src = 'stream.mjpg'; document.body.append(shown); 0")
    until(opened, "shown.naturalWidth === 160")
    context.close()


def proxy(url: str) -> ThreadingHTTPServer:
    """What passes /bow/… on as /…, as a proxy on the network's edge would; other paths are another page's."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            return None

        def do_GET(self) -> None:
            if not self.path.startswith("/bow/"):
                self.send_error(404)
                return
            address = urlsplit(url)
            upstream = http.client.HTTPConnection(str(address.hostname), address.port)
            kept = {k: v for k, v in self.headers.items() if k in ("Cookie", "Accept")}
            upstream.request("GET", self.path.removeprefix("/bow"), headers=kept)
            answer = upstream.getresponse()
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(key, value)
            self.end_headers()
            with suppress(OSError):  # the browser leaves
                while data := answer.read1(65_536):
                    self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_the_page_lives_below_the_path_of_a_proxy(browser: Any, url: str) -> None:
    server = proxy(url)
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(f"http://127.0.0.1:{server.server_port}/bow/?token={TOKEN}")
    assert urlsplit(opened.url).path == "/bow/"
    until(opened, "last !== null && classes.length === 3 && age() < 2.5")
    (cookie,) = context.cookies()
    assert cookie["path"].rstrip("/") == "/bow"
    context.close()
    server.shutdown()
    server.server_close()


def test_a_lost_source_shows_and_comes_back(page: Any, camera: servers.MjpegServer) -> None:
    camera.kill()
    page.wait_for_selector("#source.down", timeout=10_000)
    assert page.locator("#notice").is_visible()
    assert "trying again" in page.locator("#events").inner_text()
    camera.start()
    page.wait_for_selector("#source.up", timeout=10_000)
    before = pixels(page)
    until(page, "before => document.getElementById('view').toDataURL() !== before", before)


def test_the_numbers_of_the_page_are_those_of_the_api(page: Any, url: str) -> None:
    request = urllib.request.Request(f"{url}api/status", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=5) as response:
        status = json.load(response)
    assert status["viewers"] >= 1
    assert page.locator("#model").inner_text() == status["model"] == "threshold"
