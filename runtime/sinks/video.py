"""The overlay as a video file."""

from pathlib import Path

from il2vseg.runtime.output import Output
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sinks.encoder import Encoder, open_encoder

from il2vseg.errors import UserError
from il2vseg.images import resize_frame

DEFAULT_FPS = 10.0
LONGEST_GAP_S = 1.0
"""What is left in the video of a time in which no frame came."""


class VideoSink(Sink):
    """Writes the overlay. Recorded frames keep the source's rate, live ones their own times.

    The first frame decides the size; later ones of another size are resized to it.
    """

    name = "video"

    def __init__(self, path: Path, fps: float | None, *, live: bool) -> None:
        """Check the folder; the file is begun with the first frame.

        Args:
            fps: nominal rate of the source. live: whether frames belong where their times put them.
        Raises:
            UserError: the folder cannot be written.
        """
        self._path = path
        self._fps = fps or DEFAULT_FPS
        self._live = live
        self._encoder: Encoder | None = None
        self._size = (0, 0)
        self._seconds = 0.0
        self._last: float | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None

    def write(self, output: Output) -> None:
        image = output.overlay
        if self._encoder is None:
            self._size = (image.shape[0], image.shape[1])
            self._encoder = open_encoder(self._path, self._size, self._fps)
        if self._last is not None:
            passed = output.captured.clock - self._last if self._live else 1 / self._fps
            self._seconds += min(passed, LONGEST_GAP_S)
        self._last = output.captured.clock
        self._encoder.write(resize_frame(image, self._size), self._seconds)

    def close(self) -> None:
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None
