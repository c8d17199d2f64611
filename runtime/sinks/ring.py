"""A clip of the seconds around an alarm; the seconds before it are kept in memory."""

import time
from collections import deque
from pathlib import Path

from il2vseg.base.files import require_writable_dir
from il2vseg.base.images import decode_frame, encode_jpeg
from il2vseg.base.outputs import Ledger
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sinks.encoder import have_h264
from il2vseg.runtime.sinks.video import VideoWriter

MAX_FRAMES = 1800
"""Kept in memory, as JPEG, whatever the pre-roll: 60 seconds of 30 frames, some 100 MB."""

_QUALITY = 85


class RingSink(Sink):
    """Keeps the last seconds of the overlay; while there is an alarm, writes them and what follows."""

    name = "ring"

    def __init__(
        self,
        folder: str | Path,
        before_s: float = 10.0,
        after_s: float = 5.0,
        ledger: Ledger | None = None,
    ) -> None:
        """Make sure that `folder` can be written.

        Args:
            before_s: seconds before the alarm that a clip begins with. after_s: seconds after its end.
            ledger: where to record what is written, for the disk quota.
        Raises:
            UserError: the folder cannot be written.
        """
        self._folder = require_writable_dir(Path(folder))
        self._before_s = before_s
        self._after_s = after_s
        self._ledger = ledger
        self._kept: deque[tuple[float, bytes]] = deque(maxlen=MAX_FRAMES)
        self._clip: VideoWriter | None = None
        self._until = 0.0

    def write(self, result: Result) -> None:
        clock = result.captured.moment
        if result.scene is not None and result.scene.alarm:
            self._until = clock + self._after_s
            if self._clip is None:
                self._clip = self._begin(result.rate, live=result.live)
        if self._clip is not None:
            self._clip.write(result.overlay, clock)
            if clock > self._until:
                self._end()
            return
        self._kept.append((clock, encode_jpeg(result.overlay, _QUALITY)))
        while self._kept and clock - self._kept[0][0] > self._before_s:
            self._kept.popleft()

    def _begin(self, rate: float | None, *, live: bool) -> VideoWriter:
        suffix = ".mp4" if have_h264() else ".mkv"  # OpenCV's MP4 does not survive a kill
        name = time.strftime("alarm-%Y%m%d-%H%M%S")
        path, number = self._folder / f"{name}{suffix}", 1
        while path.exists():
            path, number = self._folder / f"{name}-{number}{suffix}", number + 1
        clip = VideoWriter(path, rate, live=live, ledger=self._ledger)
        while self._kept:
            clock, data = self._kept.popleft()
            clip.write(decode_frame(data), clock)
        return clip

    def _end(self) -> None:
        clip, self._clip = self._clip, None
        if clip is not None:
            clip.close()

    def close(self) -> None:
        self._end()
