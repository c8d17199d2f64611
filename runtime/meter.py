"""Counts a stream's frames, losses and latencies, and writes them into every result."""

import time
from collections.abc import Callable
from dataclasses import replace

from il2vseg.base.images import Labels
from il2vseg.runtime.histogram import Latencies
from il2vseg.runtime.marine.scene import Scene
from il2vseg.runtime.result import Result
from il2vseg.runtime.sources.base import Captured, Source

_FPS_SMOOTHING = 0.1


class Meter:
    """Completes results with what only the stream knows.

    begun = meter.take(captured)
    result = meter.complete(engine(captured.frame), captured, begun)

    Attributes:
        frames: results completed. dropped: frames of a live source that nobody took.
        latencies: histograms by stage.
    """

    def __init__(
        self,
        source: Source,
        latencies: Latencies | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Measure a stream.

        Args:
            latencies: where to count; None for its own. clock: seconds, the one that stamps captured frames.
        """
        self._source = source
        self._clock = clock
        self._taken = 0
        self._last_done: float | None = None
        self._interval: float | None = None
        self.frames = 0
        self.dropped = 0
        self.latencies = latencies or Latencies()

    def take(self, captured: Captured) -> float:
        """Count the frames that were lost before this one; return the time."""
        if self._source.live:
            self.dropped += captured.index - self._taken - self.dropped
        self._taken += 1
        return self._clock()

    def complete(
        self,
        result: Result,
        captured: Captured,
        begun: float,
        analyse: Callable[[Labels], Scene] | None = None,
    ) -> Result:
        """Return the result with its scene, its place in the stream and all latencies.

        Args:
            result: of the frame alone. begun: what `take` returned. analyse: class ids (H, W) -> scene.
        """
        labelled = self._clock()
        scene = analyse(result.labels) if analyse is not None else None
        done = self._clock()
        self.frames += 1
        if self._last_done is not None:
            passed = done - self._last_done
            before = passed if self._interval is None else self._interval
            self._interval = before + _FPS_SMOOTHING * (passed - before)
        self._last_done = done
        latency = {
            "read": captured.read_ms,
            "wait": 1e3 * (begun - captured.clock),
            **result.latency_ms,
            **({"marine": 1e3 * (done - labelled)} if scene is not None else {}),
            "total": 1e3 * (done - captured.clock),
        }
        self.latencies.add(latency)
        return replace(
            result,
            captured=captured,
            latency_ms=latency,
            done=captured.unix + done - captured.clock,
            scene=scene,
            dropped=self.dropped,
            fps=1 / self._interval if self._interval else 0.0,
            rate=self._source.fps,
            live=self._source.live,
        )
