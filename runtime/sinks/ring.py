"""The seconds around an alarm, as a clip: what happened before it is kept in memory until one comes."""

import time
from collections import deque
from pathlib import Path

import cv2
import numpy as np

from il2vseg.base.files import require_writable_dir
from il2vseg.base.images import Frame
from il2vseg.base.outputs import Ledger
from il2vseg.runtime.events import Event
from il2vseg.runtime.output import Output
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sinks.encoder import have_h264
from il2vseg.runtime.sinks.video import VideoWriter

MAX_FRAMES = 1800
"""Kept in memory, as JPEG, whatever the pre-roll: 60 seconds of 30 frames, some 100 MB."""

_QUALITY = 85


class RingSink(Sink):
    """Keeps the last seconds of the overlay and, from alarm to alarm_over, writes them and what follows."""

    name = "ring"

    def __init__(
        self,
        folder: Path,
        before_s: float,
        after_s: float,
        fps: float | None,
        ledger: Ledger | None = None,
    ) -> None:
        """Make sure that `folder` can be written.

        Args:
            before_s: seconds before the alarm that a clip begins with. after_s: seconds after its end.
            ledger: where to record what is written, for the disk quota.
        Raises:
            UserError: the folder cannot be written.
        """
        self._folder = require_writable_dir(folder)
        self._before_s = before_s
        self._after_s = after_s
        self._fps = fps
        self._ledger = ledger
        self._kept: deque[tuple[float, bytes]] = deque(maxlen=MAX_FRAMES)
        self._clip: VideoWriter | None = None
        self._alarm = False
        self._until = 0.0

    def write(self, output: Output) -> None:
        clock = output.captured.clock
        if self._alarm:
            self._until = clock + self._after_s
            if self._clip is None:
                self._begin()
        if self._clip is not None:
            self._clip.write(output.overlay, clock)
            if clock > self._until:
                self._end()
            return
        options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
        self._kept.append((clock, cv2.imencode(".jpg", output.overlay, options)[1].tobytes()))
        while self._kept and clock - self._kept[0][0] > self._before_s:
            self._kept.popleft()

    def event(self, event: Event) -> None:
        if event.kind in ("alarm", "alarm_over"):
            self._alarm = event.kind == "alarm"

    def _begin(self) -> None:
        suffix = ".mp4" if have_h264() else ".mkv"  # OpenCV's MP4 does not survive a kill
        name = time.strftime("alarm-%Y%m%d-%H%M%S")
        path, number = self._folder / f"{name}{suffix}", 1
        while path.exists():
            path, number = self._folder / f"{name}-{number}{suffix}", number + 1
        self._clip = VideoWriter(path, self._fps, live=True, ledger=self._ledger)
        while self._kept:
            clock, data = self._kept.popleft()
            self._clip.write(_decoded(data), clock)

    def _end(self) -> None:
        clip, self._clip = self._clip, None
        if clip is not None:
            clip.close()

    def close(self) -> None:
        self._end()


def _decoded(data: bytes) -> Frame:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), dtype=np.uint8)
