"""Connections to cameras through OpenCV. `LiveSource` keeps them alive."""

import os
import time
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame

_MOST_CORRUPT = 10
"""Pictures in a row that do not decode before a camera counts as ended; OpenCV reports both alike."""

_SLOW_S = 0.5


class ConnectionFailed(Exception):
    """A camera or stream cannot be opened now; later it may."""


class Connection(Protocol):
    """An open camera or stream. Used by one thread."""

    fps: float | None

    def grab(self) -> tuple[Frame | None, float | None] | None:
        """Return the next frame and its own timestamp where it has one; None when the stream ended.

        No frame, but a tuple: there is life in it, but nothing to see yet.

        Raises:
            ConnectionFailed: it ended, and the reason is known.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@dataclass(frozen=True)
class CaptureOptions:
    """What to ask of a camera; it may give something else.

    Attributes:
        size: (height, width). fps: frames per second. codec: four letters, such as MJPG.
    """

    size: tuple[int, int] | None = None
    fps: float | None = None
    codec: str | None = None

    def properties(self) -> list[tuple[int, float]]:
        """Return OpenCV's properties, the codec first: it decides which sizes and rates there are."""
        wanted: list[tuple[int, float]] = [(cv2.CAP_PROP_BUFFERSIZE, 1)]
        if self.codec is not None:
            if len(self.codec) != 4:
                raise UserError(f"--capture-codec {self.codec}: four letters are needed, such as MJPG")
            wanted.append((cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*self.codec)))
        if self.size is not None:
            wanted += [(cv2.CAP_PROP_FRAME_HEIGHT, self.size[0]), (cv2.CAP_PROP_FRAME_WIDTH, self.size[1])]
        if self.fps is not None:
            wanted.append((cv2.CAP_PROP_FPS, self.fps))
        return wanted


class OpenCvConnection:
    """A `Connection` on a cv2.VideoCapture."""

    def __init__(self, capture: Any, fps: float | None) -> None:
        self._capture = capture
        self.fps = fps

    def grab(self) -> tuple[Frame, float | None] | None:
        """Return the next frame and its timestamp; None when the stream ended."""
        for _ in range(1 + _MOST_CORRUPT):
            begun = time.monotonic()
            ok, frame = self._capture.read()
            if ok and frame is not None:
                timestamp = float(self._capture.get(cv2.CAP_PROP_POS_MSEC))
                return np.asarray(frame, dtype=np.uint8), timestamp if timestamp > 0 else None
            if time.monotonic() - begun > _SLOW_S:
                break  # not a picture that does not decode, but one that does not come
        return None

    def close(self) -> None:
        """Release the device or socket."""
        self._capture.release()


def _connection(capture: Any) -> OpenCvConnection:
    if not capture.isOpened():
        capture.release()
        raise ConnectionFailed("cannot be opened")
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return OpenCvConnection(capture, fps if 0 < fps <= 240 else None)


def open_camera(camera: str, options: CaptureOptions) -> Connection:
    """Open a local camera.

    Args:
        camera: index, or path of the device.
    Raises:
        ConnectionFailed: it does not answer.
    """
    wanted = options.properties()
    name: str | int = int(camera) if camera.isdigit() else camera
    if isinstance(name, str) and not os.path.exists(name):
        raise ConnectionFailed("no such device")
    capture = cv2.VideoCapture(name, cv2.CAP_V4L2 if os.name == "posix" else cv2.CAP_ANY)
    if capture.isOpened():
        for key, value in wanted:
            capture.set(key, value)
    return _connection(capture)


def open_gstreamer(pipeline: str) -> Connection:
    """Open a pipeline of GStreamer.

    Raises:
        ConnectionFailed: it does not start.
        UserError: this OpenCV has no GStreamer.
    """
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise UserError(
            "this OpenCV was built without GStreamer; install the distribution's python3-opencv, "
            "or use an rtsp://, http://, udp:// or tcp:// address"
        )
    return _connection(cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER))
