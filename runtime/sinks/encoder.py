"""Video files: H.264 through PyAV where it is installed, else what OpenCV can write."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame

KEEP_FREE = 16 << 20
"""Bytes that stay free on the disk: OpenCV's writer does not report a full one."""

_CHECK_EVERY = 10
_TICKS = 90_000


class Encoder(Protocol):
    """A video file that is being written. All frames have the size of the first one."""

    def write(self, frame: Frame, seconds: float) -> None:
        """Append a frame that belongs `seconds` after the first one; OSError where it cannot be written."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


def have_h264() -> bool:
    """Whether PyAV is installed."""
    return find_spec("av") is not None


def open_encoder(path: Path, size: tuple[int, int], fps: float) -> Encoder:
    """Start a video file.

    Args:
        path: its suffix chooses the container. size: (height, width). fps: nominal frame rate.
    Raises:
        UserError: no such container, or the file cannot be written.
    """
    if have_h264() and path.suffix.lower() in _AV_OPTIONS:
        return _AvEncoder(path, size, fps)
    return _OpenCvEncoder(path, size, fps)


def check_space(path: Path) -> None:
    """Raise OSError when there is too little room left to write to `path`."""
    if shutil.disk_usage(path.parent).free < KEEP_FREE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


_AV_OPTIONS = {
    # Fragments: an MP4 is otherwise unreadable until its end is written, which a killed process never does.
    ".mp4": {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"},
    ".mov": {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"},
    ".mkv": {"flush_packets": "1", "cluster_time_limit": "1000"},
    ".ts": {"flush_packets": "1"},
}


class _AvEncoder:
    """H.264 with true timestamps."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        import av

        height, width = size
        self._path = path
        self._size = (width - width % 2, height - height % 2)  # 4:2:0 needs even sides
        self._written = 0
        self._last = -1
        # FFmpeg takes what stands before a colon for a protocol, unless the path is absolute.
        with _user_error(path):
            self._file: Any = av.open(str(path.absolute()), "w", options=_AV_OPTIONS[path.suffix.lower()])
        rate = Fraction(fps).limit_denominator(1001)
        options = {"preset": "veryfast", "crf": "23"}
        self._stream: Any = self._file.add_stream("libx264", rate=rate, options=options)
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = "yuv420p"
        # A fragment ends with its group of pictures: at most two seconds are lost with the process.
        self._stream.codec_context.gop_size = max(1, round(2 * fps))
        self._stream.codec_context.max_b_frames = 0
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.time_base = Fraction(1, _TICKS)

    def write(self, frame: Frame, seconds: float) -> None:
        import av

        if self._written % _CHECK_EVERY == 0:
            check_space(self._path)
        width, height = self._size
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="bgr24")
        self._last = picture.pts = max(self._last + 1, round(seconds * _TICKS))
        picture.time_base = Fraction(1, _TICKS)
        with _os_error(self._path):
            for packet in self._stream.encode(picture):
                self._file.mux(packet)
        self._written += 1

    def close(self) -> None:
        with _os_error(self._path):
            try:
                for packet in self._stream.encode(None):
                    self._file.mux(packet)
            finally:
                self._file.close()


@contextmanager
def _os_error(path: Path) -> Iterator[None]:
    """Report FFmpeg's errors as those of the operating system, which only some of them are."""
    import av

    try:
        yield
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def _user_error(path: Path) -> Iterator[None]:
    """Report that a file cannot be opened as the user's to mend."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


class _OpenCvEncoder:
    """MPEG-4 at a constant rate: frames are repeated or left out so that the clock is right."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        self._path = path
        self._fps = fps
        self._written = 0
        self._calls = 0
        with _user_error(path), path.open("wb"):
            pass
        codec = "MJPG" if path.suffix.lower() == ".avi" else "mp4v"
        self._writer = cv2.VideoWriter(
            str(path.absolute()), cv2.VideoWriter.fourcc(*codec), fps, (size[1], size[0])
        )
        if not self._writer.isOpened():
            path.unlink(missing_ok=True)
            raise UserError(f"{path}: no video can be written with this suffix here; try .mp4 or .mkv")

    def write(self, frame: Frame, seconds: float) -> None:
        if self._calls % _CHECK_EVERY == 0:
            check_space(self._path)
        self._calls += 1
        while self._written < round(seconds * self._fps) + 1:
            self._writer.write(frame)
            self._written += 1

    def close(self) -> None:
        self._writer.release()
