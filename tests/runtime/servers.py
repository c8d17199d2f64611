"""Real servers on loopback, to be killed and brought back."""

import contextlib
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

import cv2

FFMPEG = shutil.which("ffmpeg")
GSTREAMER_PYTHON = "/usr/bin/python3"


class Server(Protocol):
    """Something with a URL that can be started, killed and started again on the same port."""

    url: str

    def start(self) -> None: ...

    def kill(self) -> None: ...


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Process:
    """A server that is a process."""

    def __init__(
        self,
        url: str,
        command: list[str],
        *,
        restart: bool = False,
        environment: dict[str, str] | None = None,
    ) -> None:
        """`restart`: start the command again whenever it ends (ffmpeg ends with its client)."""
        self.url = url
        self._command = command
        self._restart = restart
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = threading.Event()

    def start(self) -> None:
        self._killed = threading.Event()
        self._launch()
        if self._restart:
            threading.Thread(target=self._keep, args=(self._killed,), daemon=True).start()

    def _launch(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _keep(self, killed: threading.Event) -> None:
        while self._process is not None:
            self._process.wait()
            if killed.wait(0.05):
                return
            self._launch()

    def kill(self) -> None:
        self._killed.set()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class MjpegServer:
    """An HTTP camera: multipart/x-mixed-replace, as cheap IP cameras and ESP32 boards serve it."""

    def __init__(self, clip: Path) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/video.mjpg"
        capture, self._images = cv2.VideoCapture(str(clip)), []
        while (grabbed := capture.read())[0]:
            self._images.append(cv2.imencode(".jpg", grabbed[1])[1].tobytes())
        self._server: ThreadingHTTPServer | None = None

    def corrupt(self) -> None:
        """Cut every third picture short and fill every fifth with noise."""
        for i in range(3, len(self._images), 3):
            self._images[i] = self._images[i][: len(self._images[i]) // 3]
        for i in range(5, len(self._images), 5):
            self._images[i] = bytes(range(256)) * 8

    def start(self) -> None:
        images, stopped = self._images, threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                i = 0
                with contextlib.suppress(OSError):
                    while not stopped.is_set():
                        data = images[i % len(images)]
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                        self.wfile.write(head.encode() + data + b"\r\n")
                        i += 1
                        time.sleep(0.04)
                self.connection.close()

            def log_message(self, *arguments: object) -> None: ...

        self._stopped = stopped
        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def kill(self) -> None:
        if self._server is not None:
            self._stopped.set()
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def _ffmpeg(output: str) -> list[str]:
    assert FFMPEG
    source = ["-re", "-f", "lavfi", "-i", "testsrc2=size=160x120:rate=25"]
    encode = ["-c:v", "mpeg2video", "-g", "5", "-b:v", "1M", "-f", "mpegts"]
    return [FFMPEG, "-loglevel", "quiet", *source, *encode, output]


def mpegts_tcp() -> Server:
    url = f"tcp://127.0.0.1:{free_port()}"
    return Process(url, _ffmpeg(f"{url}?listen=1"), restart=True)


def mpegts_udp() -> Server:
    url = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    return Process(url, _ffmpeg(f"{url}?pkt_size=1316"))


_RTSP = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer, GLib
Gst.init(None)
server = GstRtspServer.RTSPServer(); server.set_address("127.0.0.1"); server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory(); factory.set_shared(True)
factory.set_launch("( videotestsrc is-live=true pattern=ball "
                   "! video/x-raw,width=160,height=120,framerate=25/1 "
                   "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=5 "
                   "! rtph264pay name=pay0 pt=96 )")
server.get_mount_points().add_factory("/cam", factory); server.attach(None)
GLib.MainLoop().run()
"""


_RTSP_RECORD = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer, GLib
Gst.init(None)
server = GstRtspServer.RTSPServer(); server.set_address("127.0.0.1"); server.set_service(sys.argv[1])
auth = GstRtspServer.RTSPAuth(); token = GstRtspServer.RTSPToken()
token.set_string("media.factory.role", "boat")
auth.add_basic(GstRtspServer.RTSPAuth.make_basic("boat", "geheim"), token); server.set_auth(auth)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
permissions = GstRtspServer.RTSPPermissions()
permissions.add_role("boat")
permissions.add_permission_for_role("boat", "media.factory.access", True)
permissions.add_permission_for_role("boat", "media.factory.construct", True)
factory.set_permissions(permissions)
factory.set_launch("( rtph264depay name=depay0 ! video/x-h264,stream-format=byte-stream,alignment=au "
                   "! filesink sync=false buffer-mode=unbuffered location=%s )" % sys.argv[2])
server.get_mount_points().add_factory("/cam", factory); server.attach(None)
GLib.MainLoop().run()
"""


def rtsp_record(file: Path) -> Server:
    """A server to publish to, as user boat with password geheim; what it gets is in `file`, H.264."""
    port = free_port()
    url = f"rtsp://boat:geheim@127.0.0.1:{port}/cam"
    return Process(url, [GSTREAMER_PYTHON, "-c", _RTSP_RECORD, str(port), str(file)])


def have_gstreamer_rtsp() -> bool:
    check = "import gi; gi.require_version('GstRtspServer', '1.0'); "
    check += "from gi.repository import GstRtspServer, Gst; "
    check += "Gst.init(None); assert Gst.ElementFactory.find('x264enc')"
    if not Path(GSTREAMER_PYTHON).exists():
        return False
    return subprocess.run([GSTREAMER_PYTHON, "-c", check], capture_output=True).returncode == 0


def rtsp() -> Server:
    port = free_port()
    return Process(f"rtsp://127.0.0.1:{port}/cam", [GSTREAMER_PYTHON, "-c", _RTSP, str(port)])


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.kill()


if __name__ == "__main__":
    with running(rtsp()) as s:
        print(s.url)
        sys.stdin.read()
