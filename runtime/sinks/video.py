"""The overlay as video files."""

import time
from pathlib import Path

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame, resize_frame
from il2vseg.base.outputs import Ledger
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sinks.encoder import Encoder, open_encoder

DEFAULT_FPS = 10.0
MAX_GAP_S = 1.0
"""What is left in the video of a time in which no frame came."""


class VideoWriter:
    """A video file: frames lie where their own times put them.

    The first frame decides the size; later ones of another size are resized to it.
    """

    def __init__(self, path: Path, fps: float | None, *, live: bool, ledger: Ledger | None = None) -> None:
        """Prepare; the file is begun with the first frame.

        Args:
            fps: nominal rate of the source. live: times without frames are shortened to MAX_GAP_S.
            ledger: where to record the file, for the disk quota.
        """
        self._path = path
        self._fps = fps or DEFAULT_FPS
        self._live = live
        self._ledger = ledger
        self._encoder: Encoder | None = None
        self._size = (0, 0)
        self._last: float | None = None
        self.seconds = 0.0

    def write(self, image: Frame, moment: float | None) -> None:
        """Append a frame of the time `moment` (`Captured.moment`), in seconds; None: one nominal step on."""
        if self._encoder is None:
            self._size = (image.shape[0], image.shape[1])
            if self._ledger is not None:
                self._ledger.begin(self._path)
            self._encoder = open_encoder(self._path, self._size, self._fps)
        if moment is None:
            moment = 0.0 if self._last is None else self._last + 1 / self._fps
        if self._last is not None:
            passed = moment - self._last
            self.seconds += min(passed, MAX_GAP_S) if self._live else passed
        self._last = moment
        self._encoder.write(resize_frame(image, self._size), self.seconds)

    def close(self) -> None:
        """Finish the file."""
        encoder, self._encoder = self._encoder, None
        if encoder is not None:
            encoder.close()
            if self._ledger is not None:
                self._ledger.record(self._path)


class VideoSink(Sink):
    """Writes the overlay to one file, or to a new one every so often, named by the time it begins."""

    name = "video"

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float | None = None,
        segment_s: float | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Check the folder.

        Args:
            path: with `segment_s`, codes of strftime in its name become the time: rec/%Y%m%d-%H%M%S.mp4.
            fps: frames per second of recorded frames; None for those of their source.
            segment_s: seconds of video in a file; None for all of it. ledger: see `VideoWriter`.
        Raises:
            UserError: the folder cannot be written, or all segments would have the same name.
        """
        path = Path(path)
        if segment_s is not None and time.strftime(path.name) == path.name:
            raise UserError(
                f"{path}: with segments the name needs a time, such as %Y%m%d-%H%M%S{path.suffix}"
            )
        self._path = path
        self._fps = fps
        self._segment_s = segment_s
        self._ledger = ledger
        self._writer: VideoWriter | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None

    def write(self, result: Result) -> None:
        full = self._segment_s is not None and self._writer and self._writer.seconds >= self._segment_s
        if full:
            self.close()
        captured = result.captured
        if self._writer is None:
            rate = self._fps or result.rate
            path = self._name(captured.recorded)
            self._writer = VideoWriter(path, rate, live=result.live, ledger=self._ledger)
        # Frames from elsewhere have no time line, and when they were made says nothing.
        timed = result.live or captured.timeline_s is not None
        self._writer.write(result.overlay, captured.moment if timed else None)

    def _name(self, recorded: float | None) -> Path:
        if self._segment_s is None:
            return self._path
        named = self._path.with_name(time.strftime(self._path.name, time.localtime(recorded)))
        path, number = named, 1
        while path.exists():
            path, number = named.with_stem(f"{named.stem}-{number}"), number + 1
        return path

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
