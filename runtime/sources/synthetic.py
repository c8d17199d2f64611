"""`synthetic:`: the built-in marine scene as a source."""

import time
from collections.abc import Callable

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame
from il2vseg.runtime.sources.base import Captured, Source

_HELP = "synthetic:[seed=N][,frames=N][,loop=N][,size=HxW]"


class SyntheticSource(Source):
    """Frames of a rendered scene. With a number of frames it is a recording, without one a live camera."""

    def __init__(
        self, seed: int = 0, frames: int | None = None, loop: int = 0, size: tuple[int, int] = (360, 640)
    ) -> None:
        """Set the scene.

        Args:
            seed: the scene. frames: number of frames; None for no end, at the scene's own rate.
            loop: render only so many frames and repeat them, which is faster; 0 renders every one.
            size: (height, width).
        """
        from il2vseg.data.synthetic import FPS, render

        self._render: Callable[[int], Frame] = lambda i: render(seed, i, size)[0]
        self._loop = loop
        self._kept: dict[int, Frame] = {}
        self._index = 0
        self._stopped = False
        self._start = time.monotonic()
        self.total = frames
        self.live = frames is None
        self.fps = self._rate = float(FPS)

    @classmethod
    def parse(cls, source: str) -> "SyntheticSource":
        """Make a source from `synthetic:seed=3,frames=100`.

        Raises:
            UserError: an unknown option or a wrong value.
        """
        values: dict[str, int] = {}
        size = (360, 640)
        for part in filter(None, source.partition(":")[2].split(",")):
            key, _, value = part.partition("=")
            try:
                if key == "size":
                    height, width = (int(v) for v in value.split("x"))
                    size = (height, width)
                elif key in ("seed", "frames", "loop"):
                    values[key] = int(value)
                else:
                    raise UserError(f"{source}: unknown option '{key}'; {_HELP}")
            except ValueError:
                raise UserError(f"{source}: '{part}' is not a valid option; {_HELP}") from None
        if min(size) < 16 or any(v < 0 for v in values.values()) or values.get("frames") == 0:
            raise UserError(f"{source}: values are positive and a side has 16 pixels or more; {_HELP}")
        return cls(size=size, **values)

    def read(self) -> Captured | None:
        if self._stopped or self._index == self.total:
            return None
        index = self._index
        start = time.perf_counter()
        position = index % self._loop if self._loop else index
        frame = self._kept.get(position)
        if frame is None:
            frame = self._render(position)
            if self._loop:
                self._kept[position] = frame
        elapsed = 1e3 * (time.perf_counter() - start)
        if self.live:
            late = self._start + index / self._rate - time.monotonic()
            if late > 0:
                time.sleep(late)
        self._index += 1
        timeline = None if self.live else index / self._rate
        return Captured(frame, index, f"frame_{index:06d}", elapsed, timeline_s=timeline)

    def interrupt(self) -> None:
        self._stopped = True
