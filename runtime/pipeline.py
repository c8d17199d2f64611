"""Capture, inference and sinks, each in a thread, with bounded channels between them.

Of a live source only the newest frame waits for the engine; a recorded one never loses a frame. Between
inference and the sinks nothing is lost either way: slow sinks slow the inference, and so, where the source
is live, frames are dropped in one place, before the engine, where that is counted.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from il2vseg.base.errors import CheckFailed, UserError
from il2vseg.base.images import Frame, Labels
from il2vseg.runtime.channel import Channel
from il2vseg.runtime.engine import Result
from il2vseg.runtime.engine_guard import FrameLostError
from il2vseg.runtime.events import Event, EventLog
from il2vseg.runtime.histogram import Latencies
from il2vseg.runtime.marine.scene import Scene
from il2vseg.runtime.output import Output, class_fractions
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
_FPS_SMOOTHING = 0.1


class Pipeline:
    """Moves every frame of a source through an engine to all sinks.

    pipeline = Pipeline(source, engine, class_names, sinks, paint, events)
    pipeline.run()

    Attributes:
        frames: frames that were segmented. dropped: frames of a live source that came too fast.
        failed: frames on which the engine failed. latencies: histograms by stage.
    """

    def __init__(
        self,
        source: Source,
        engine: Callable[[Frame], Result],
        class_names: Sequence[str],
        sinks: Sequence[Sink],
        paint: Callable[[Output], Frame],
        events: EventLog,
        *,
        max_frames: int | None = None,
        latencies: Latencies | None = None,
        analyse: Callable[[Labels], Scene] | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            paint: makes the overlay of an output. max_frames: end after so many; None goes on.
            latencies: where to count; None for its own. analyse: class ids (H, W) -> marine scene.
        """
        self._source = source
        self._engine = engine
        self._class_names = tuple(class_names)
        self._sinks = tuple(sinks)
        self._paint = paint
        self._events = events
        self._max_frames = max_frames
        self._analyse = analyse
        self._captured: Channel[Captured] = Channel(1 if source.live else QUEUED, newest=source.live)
        self._outputs: Channel[Output] = Channel(QUEUED)
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._beats: dict[str, float] = {}
        self._suspended: dict[Sink, float] = {}
        self._size: tuple[int, int] | None = None
        self._lost_in_a_row = 0
        self._taken = 0
        self._last_done: float | None = None
        self._interval: float | None = None
        self.frames = 0
        self.dropped = 0
        self.failed = 0
        self.latencies = latencies or Latencies()

    def stop(self) -> None:
        """Take no more frames; those under way are finished. Safe in signal handlers and any thread."""
        self._stopping.set()
        self._source.interrupt()

    def stalled(self, seconds: float) -> list[str]:
        """Return the stages behind the source that did not move for so many seconds."""
        now = time.monotonic()
        return [stage for stage, beat in list(self._beats.items()) if now - beat > seconds]

    def run(
        self,
        *,
        stall_s: float = 60.0,
    ) -> None:
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
            self._outputs.close()
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
            output = self._process(captured)
            if output is None:
                continue
            while not self._outputs.put(output, _BEAT_S):
                if self._outputs.closed:
                    return
                self._beats["inference"] = time.monotonic()

    def _process(self, captured: Captured) -> Output | None:
        begun = time.perf_counter()
        lost = captured.index - self._taken - self.dropped if self._source.live else 0
        self.dropped += lost
        self._taken += 1
        size = (captured.frame.shape[0], captured.frame.shape[1])
        if self._size is not None and size != self._size:
            message = f"frames are now {size[1]}x{size[0]}, were {self._size[1]}x{self._size[0]}"
            self._events.emit("frame_size_changed", message, size=list(size))
        self._size = size
        try:
            result = self._engine(captured.frame)
        except FrameLostError as error:
            self.failed += 1
            self._lost_in_a_row += 1
            if not self._source.live or self._lost_in_a_row >= MAX_LOST_IN_A_ROW:
                raise CheckFailed(f"the engine fails ({error}) on frame {captured.name}") from error
            return None
        self._lost_in_a_row = 0
        fractions = class_fractions(result.labels, len(self._class_names))
        labelled = time.perf_counter()
        scene = self._analyse(result.labels) if self._analyse is not None else None
        self.frames += 1
        done = time.perf_counter()
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
        return Output(
            captured,
            result,
            dict(zip(self._class_names, fractions, strict=True)),
            latency,
            done=captured.unix + done - captured.clock,
            dropped=self.dropped,
            fps=1 / self._interval if self._interval else 0.0,
            paint=self._paint,
            scene=scene,
        )

    def _end_inference(self) -> None:
        self.stop()
        self._captured.close()  # lets a capture thread go on that waits for room
        self._outputs.close()

    def _write(self) -> None:
        while True:
            self._beats["sinks"] = time.monotonic()
            output = self._outputs.get(_BEAT_S)
            self._forward_events()
            if output is not None:
                for sink in self._sinks:
                    start = time.perf_counter()
                    self._guarded(sink, lambda s=sink, o=output: s.write(o))  # type: ignore[misc]
                    self.latencies.add({sink.name: 1e3 * (time.perf_counter() - start)})
            elif self._outputs.drained:
                return

    def _end_sinks(self) -> None:
        self._outputs.close()  # nobody takes anything any more
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
                self._guarded(sink, lambda s=sink, e=event: s.event(e))  # type: ignore[misc]

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


def describe(event: Event) -> str:
    """Return an event as one line for a log."""
    return f"{event.kind}: {event.message}"
