"""Capture, inference and sinks, each in a thread, with bounded channels between them.

Of a live source only the newest frame waits for the engine; a recorded one never loses a frame. Between
inference and the sinks nothing is lost either way: slow sinks slow the inference, and so, where the source
is live, frames are dropped in one place, before the engine, where that is counted.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from il2vseg.base.errors import CheckFailed, UserError
from il2vseg.base.images import Frame, Labels
from il2vseg.runtime.blindness import Blindness
from il2vseg.runtime.channel import Channel
from il2vseg.runtime.events import EventLog
from il2vseg.runtime.histogram import Latencies
from il2vseg.runtime.marine.scene import Scene
from il2vseg.runtime.meter import Meter
from il2vseg.runtime.novelty import NoveltyWatch
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sources.base import Captured, Source

QUEUED = 4
"""Items in a channel of a recorded source."""

RETRY_SINK_S = 10.0
MAX_RESTARTS = 3
RESTART_WINDOW_S = 60.0
MAX_LOST_IN_A_ROW = 10
_BEAT_S = 0.2
_WATCH_S = 0.05


class Pipeline:
    """Moves every frame of a source through an engine to all sinks.

    pipeline = Pipeline(source, engine, sinks)
    pipeline.run()

    Attributes:
        failed: frames on which the engine failed twice.
    """

    def __init__(
        self,
        source: Source,
        engine: Callable[[Frame], Result],
        sinks: Sequence[Sink] = (),
        events: EventLog | None = None,
        *,
        max_frames: int | None = None,
        latencies: Latencies | None = None,
        analyse: Callable[[Labels], Scene] | None = None,
        novelty: NoveltyWatch | None = None,
        follow: Callable[[Scene, float], Scene] | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            events: where source and engine report; None for its own. max_frames: end after so many.
            latencies: where to count; None for its own. analyse: class ids (H, W) -> marine scene.
            follow: scene and its seconds -> the same with tracks.
            novelty: tells of footage that is unlike the training; None where the model cannot.
        """
        self._source = source
        self._engine = engine
        self._sinks = tuple(sinks)
        self._events = events or EventLog()
        self._blindness = Blindness(self._events.emit, live=source.live)
        self._max_frames = max_frames
        self._analyse = analyse
        self.novelty = novelty
        self._follow = follow
        self._captured: Channel[Captured] = Channel(1 if source.live else QUEUED, newest=source.live)
        self._results: Channel[Result] = Channel(QUEUED)
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._beats: dict[str, float] = {}
        self._suspended: dict[Sink, float] = {}
        self._size: tuple[int, int] | None = None
        self._lost_in_a_row = 0
        self._meter = Meter(source, latencies)
        self.failed = 0

    @property
    def frames(self) -> int:
        """Frames that were segmented."""
        return self._meter.frames

    @property
    def dropped(self) -> int:
        """Frames of a live source that came too fast."""
        return self._meter.dropped

    @property
    def latencies(self) -> Latencies:
        """Histograms by stage."""
        return self._meter.latencies

    def stop(self) -> None:
        """Take no more frames; those under way are finished. Safe in signal handlers and any thread."""
        self._stopping.set()
        self._source.interrupt()

    def stalled(self, seconds: float) -> list[str]:
        """Return the stages behind the source that did not move for so many seconds."""
        now = time.monotonic()
        return [stage for stage, beat in list(self._beats.items()) if now - beat > seconds]

    def run(self, *, stall_s: float = 60.0) -> None:
        """Run until the source ends, `max_frames` are done or `stop` is called.

        Args:
            stall_s: give up when a stage hangs for so long.
        Raises:
            UserError: a file cannot be written, or whatever the source and the engine raise.
            CheckFailed: a stage hangs, or the engine fails on frame after frame.
        """
        stages = (
            ("capture", self._capture, self._captured.close),
            ("inference", self._infer, self._end_inference),
            ("sinks", self._write, self._end_sinks),
        )
        threads = [
            threading.Thread(target=self._supervise, args=stage, name=stage[0], daemon=True)
            for stage in stages
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                if hung := self.stalled(stall_s):
                    raise CheckFailed(f"the stage {' and '.join(hung)} hangs for more than {stall_s:g} s")
                threads[-1].join(_WATCH_S)
        except BaseException:
            # A hung thread cannot be ended; the others get the time to finish their files.
            self.stop()
            self._captured.close()
            self._results.close()
            threads[-1].join(5.0)
            raise
        self._source.close()
        if self._failure is not None:
            raise self._failure

    def _supervise(self, stage: str, body: Callable[[], None], end: Callable[[], None]) -> None:
        """Run a stage, again after a failure where the source is live, and then its `end`."""
        failures: deque[float] = deque()
        while True:
            try:
                body()
                break
            except (UserError, CheckFailed) as error:
                self._fail(error)
                break
            except Exception as error:
                now = time.monotonic()
                failures.append(now)
                while now - failures[0] > RESTART_WINDOW_S:
                    failures.popleft()
                # A recording can be run again, and an incomplete result would go unnoticed.
                if not self._source.live or len(failures) > MAX_RESTARTS:
                    self._fail(error)
                    break
                what = f"{type(error).__name__}: {error}"
                self._events.emit("stage_restarted", f"{stage}: {what}; starting it again", stage=stage)
        self._beats.pop(stage, None)
        end()

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self.stop()

    def _capture(self) -> None:
        while not self._stopping.is_set():
            captured = self._source.read()
            if captured is None or not self._captured.put(captured):
                break

    def _infer(self) -> None:
        while self._max_frames is None or self.frames < self._max_frames:
            self._beats["inference"] = time.monotonic()
            captured = self._captured.get(_BEAT_S)
            if captured is None:
                if self._captured.drained:
                    return
                continue
            result = self._process(captured)
            if result is None:
                continue
            while not self._results.put(result, _BEAT_S):
                if self._results.closed:
                    return
                self._beats["inference"] = time.monotonic()

    def _process(self, captured: Captured) -> Result | None:
        """Segment a frame; None where the engine failed on it."""
        begun = self._meter.take(captured)
        self._events.at(captured)
        size = (captured.frame.shape[0], captured.frame.shape[1])
        if self._size is not None and size != self._size:
            message = f"frames are now {size[1]}x{size[0]}, were {self._size[1]}x{self._size[0]}"
            self._events.emit("frame_size_changed", message, size=list(size))
        self._size = size
        try:
            result = self._segment(captured.frame)
        except UserError:
            raise
        except Exception as error:
            self.failed += 1
            self._lost_in_a_row += 1
            if not self._source.live or self._lost_in_a_row >= MAX_LOST_IN_A_ROW:
                raise CheckFailed(f"the engine fails ({_line(error)}) on frame {captured.name}") from error
            return None
        self._lost_in_a_row = 0
        if self.novelty is not None and result.unlike is not None:
            self.novelty.update(result.unlike, captured.moment)
        result = self._meter.complete(result, captured, begun, self._analyse)
        result = replace(result, blind=self._blindness.update(captured))
        if self._follow is None or result.scene is None:
            return result
        return replace(result, scene=self._follow(result.scene, captured.moment))

    def _segment(self, frame: Frame) -> Result:
        """Ask the engine, and once more after a failure: its backend loads itself again then."""
        try:
            return self._engine(frame)
        except UserError:
            raise
        except Exception as error:
            self._events.emit("engine_failed", f"the engine failed ({_line(error)}); trying the frame again")
        return self._engine(frame)

    def _end_inference(self) -> None:
        self.stop()
        self._captured.close()  # lets a capture thread go on that waits for room
        self._results.close()

    def _write(self) -> None:
        while True:
            self._beats["sinks"] = time.monotonic()
            result = self._results.get(_BEAT_S)
            self._forward_events()
            if result is not None:
                for sink in self._sinks:
                    start = time.perf_counter()
                    self._guarded(sink, partial(sink.write, result))
                    self.latencies.add({sink.name: 1e3 * (time.perf_counter() - start)})
            elif self._results.drained:
                return

    def _end_sinks(self) -> None:
        self._results.close()  # nobody takes anything any more
        self._forward_events()
        for sink in self._sinks:
            try:
                sink.close()
            except OSError as error:
                self._fail(_sink_error(sink, error))
            except Exception as error:
                self._fail(error)

    def _forward_events(self) -> None:
        for event in self._events.take():
            for sink in self._sinks:
                self._guarded(sink, partial(sink.event, event))

    def _guarded(self, sink: Sink, action: Callable[[], None]) -> None:
        """Let a sink act. On a live source a failing one is left alone for a while and tried again."""
        if time.monotonic() < self._suspended.get(sink, 0.0):
            return
        try:
            action()
        except BrokenPipeError:
            self.stop()  # whoever read our output has seen enough
            self._suspended[sink] = float("inf")
        except OSError as error:
            if not self._source.live:
                # Closing writes the rest of a buffer, which fails for the same reason; one line is enough.
                self._fail(_sink_error(sink, error))
                self._suspended[sink] = float("inf")
                return
            self._suspended[sink] = time.monotonic() + RETRY_SINK_S
            self._events.emit(
                "sink_failed",
                f"{_sink_error(sink, error)}; trying again in {RETRY_SINK_S:g} s",
                sink=sink.name,
            )
        else:
            if self._suspended.pop(sink, None):
                self._events.emit("sink_back", f"{sink.name}: writing again", sink=sink.name)


def _sink_error(sink: Sink, error: OSError) -> UserError:
    where = f"{error.filename}: " if error.filename else ""
    return UserError(f"{sink.name}: {where}cannot write ({error.strerror or error})")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
