"""Network streams on loopback: what is wrong with a server is told apart, and no wait is endless."""

import contextlib
import http.server
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame
from il2vseg.runtime.sources import SourceOptions, live, open_source
from il2vseg.runtime.sources.capture import ConnectionFailed
from il2vseg.runtime.sources.live import LiveSource, _Reader
from il2vseg.runtime.sources.streams import connect_stream, open_stream
from tests.footage import write_clip

QUICK = SourceOptions(freeze_s=0.4)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    import il2vseg.runtime.sources as sources

    monkeypatch.setattr(live, "CONNECT_S", 0.6)
    monkeypatch.setattr(sources, "CONNECT_S", 0.6)


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """Accepts connections and says nothing, as a camera does that is booting."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def answering(status: int) -> Iterator[int]:
    """An RTSP and HTTP server that answers every request with one status."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        stop = threading.Event()

        def answer(connection: socket.socket) -> None:
            connection.settimeout(0.5)
            while request := connection.recv(4096).decode(errors="replace"):
                lines = request.splitlines()
                protocol = "RTSP/1.0" if "RTSP" in lines[0] else "HTTP/1.1"
                number = next((line for line in lines if line.startswith("CSeq")), "CSeq: 1")
                head = f"{protocol} {status} No\r\n{number}\r\nContent-Length: 0\r\n"
                connection.sendall(f'{head}WWW-Authenticate: Basic realm="cam"\r\n\r\n'.encode())

        def serve() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = server.accept()
                    with connection:
                        answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        stop.set()
        thread.join()


@contextlib.contextmanager
def file_server(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("scheme", ["rtsp", "http", "tcp"])
def test_a_server_that_says_nothing_is_given_up_in_time(scheme: str) -> None:
    with silent_server() as port:
        begun = time.monotonic()
        with pytest.raises(UserError, match=r"does not answer|no answer|no frame"):
            open_source(f"{scheme}://127.0.0.1:{port}/cam", QUICK)
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "wrong user name or password"),
        (403, "forbidden"),
        (404, "not found"),
        (503, "failure of its own"),
    ],
)
def test_what_a_server_answers_is_told_apart(scheme: str, status: int, words: str) -> None:
    with answering(status) as port, pytest.raises(UserError, match=words):
        open_source(f"{scheme}://user:secret@127.0.0.1:{port}/cam", QUICK)


def test_nothing_that_listens_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for scheme in ("rtsp", "http", "tcp"):
        with pytest.raises(UserError, match="refused: nothing listens there"):
            open_source(f"{scheme}://127.0.0.1:{port}/cam", QUICK)


def test_an_unknown_host_is_told_apart() -> None:
    with pytest.raises(UserError, match="there is no such host"):
        open_source("rtsp://no-such-camera.invalid/cam", QUICK)


def test_an_unknown_kind_of_address_is_a_mistake_even_when_waiting() -> None:
    with pytest.raises(UserError, match=r"rstp://: no such kind of address; use rtsp://"):
        open_stream("rstp://127.0.0.1/cam", 0.5, 0.5)


def test_a_file_behind_http_is_a_recording_that_ends(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mkv", "c.ts"):
        codec = "mpeg2video" if name == "c.ts" else "libx264"
        write_clip(tmp_path / name, codec=codec, fps=25)
        with file_server(tmp_path) as url, open_source(f"{url}/{name}", SourceOptions(freeze_s=2)) as source:
            assert not source.live
            assert len(list(source)) == 12


def test_a_missing_file_behind_http_is_not_waited_for(tmp_path: Path) -> None:
    with file_server(tmp_path) as url, pytest.raises(UserError, match="404"):
        open_source(f"{url}/nothing.mp4", QUICK)


def test_a_recording_that_takes_the_place_of_a_stream_is_a_mistake(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4")
    with file_server(tmp_path) as url, pytest.raises(UserError, match="a recording at this address"):
        open_stream(f"{url}/a.mp4", 2, 2)


def _send(port: int, data: bytes, stop: threading.Event, pause: float) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        while not stop.is_set():
            for start in range(0, len(data), 7 * 188):
                sender.sendto(data[start : start + 7 * 188], ("127.0.0.1", port))
                if stop.wait(pause):
                    return


def test_a_stream_joined_between_two_key_frames_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One key frame, at the start of what is sent over and over; who joins has just missed it.
    monkeypatch.setattr(live, "CONNECT_S", 8.0)
    clip = write_clip(tmp_path / "a.ts", 24, gop=1000, options={"bf": "0"}, fps=25)
    data = clip.read_bytes()
    late = data[len(data) // 3 // 188 * 188 :] + data
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stop = threading.Event()
    thread = threading.Thread(target=_send, args=(port, late, stop, 0.01), daemon=True)
    thread.start()
    try:
        with open_source(f"udp://127.0.0.1:{port}", SourceOptions(freeze_s=4)) as source:
            captured = source.read()
            assert captured is not None
            assert captured.frame.shape == (90, 160, 3)
    finally:
        stop.set()
        thread.join()


class Alive:
    """A connection that shows life, but no picture, for a while."""

    fps = 10.0

    def __init__(self, without: float) -> None:
        self._until = time.monotonic() + without

    def grab(self) -> tuple[Frame | None, float | None]:
        time.sleep(0.01)
        shown = time.monotonic() > self._until
        return (np.zeros((2, 2, 3), np.uint8) if shown else None), time.monotonic()

    def close(self) -> None: ...


def test_life_without_pictures_puts_off_the_end_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert live.KEY_FRAME_S == 30.0
    monkeypatch.setattr(live, "CONNECT_S", 0.1)
    monkeypatch.setattr(live, "KEY_FRAME_S", 1.2)
    with LiveSource(lambda: Alive(0.9), "cam", lambda *a, **k: None, freeze_s=0.2) as source:
        assert source.read() is not None
    with pytest.raises(UserError, match="no frame came"):
        LiveSource(lambda: Alive(60), "cam", lambda *a, **k: None, freeze_s=0.2)


def test_the_pause_before_a_new_attempt_doubles_from_a_quarter_to_four_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []

    class Dead:
        fps = None

        def grab(self) -> None:
            return None

        def close(self) -> None: ...

    def refuse() -> Dead:
        raise ConnectionFailed("refused")

    source = LiveSource(refuse, "cam", lambda *a, **k: None, freeze_s=0.1, wait=True)

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 7:
            source.interrupt()

    monkeypatch.setattr(source, "_pause", pause)
    assert source.read() is None
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_the_process_ends_cleanly_with_a_reader_that_waits(tmp_path: Path) -> None:
    program = (
        "import sys; from il2vseg.base.errors import UserError\n"
        "from il2vseg.runtime.sources import SourceOptions, live, open_source\n"
        "live.CONNECT_S = 0.5\n"
        "try: open_source(sys.argv[1], SourceOptions(freeze_s=0.3))\n"
        "except UserError: sys.exit(2)\n"
    )
    with silent_server() as port:
        done = subprocess.run(
            [sys.executable, "-c", program, f"rtsp://127.0.0.1:{port}/cam"], capture_output=True, timeout=30
        )
    assert (done.returncode, done.stderr) == (2, b"")


def test_a_reader_that_nobody_waits_for_stops_waiting_at_once() -> None:
    with silent_server() as port:
        reader = _Reader(
            partial(connect_stream, f"rtsp://127.0.0.1:{port}/cam", 30.0, 30.0), threading.Condition()
        )
        reader.thread.join(0.3)
        assert reader.thread.is_alive()
        reader.abandon()
        reader.thread.join(5.0)
        assert not reader.thread.is_alive()
        other = _Reader(
            partial(connect_stream, f"rtsp://127.0.0.1:{port}/cam", 0.4, 0.4), threading.Condition()
        )
        begun = time.monotonic()
        other.thread.join(5.0)
        assert 0.35 < time.monotonic() - begun < 4.0  # later readers wait as long as they may


def test_a_dead_stream_says_why_it_ended(tmp_path: Path) -> None:
    with silent_server() as port, pytest.raises(ConnectionFailed, match="does not answer"):
        connect_stream(f"rtsp://127.0.0.1:{port}/cam", 0.3, 0.3)
