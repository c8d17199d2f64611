"""il2vseg-run: from a camera, clip or stream to labels, video, numbers."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from il2vseg.command import parse
from il2vseg.errors import UserError, run_command
from il2vseg.runtime.config import RunConfig, check

if TYPE_CHECKING:
    from il2vseg.runtime.pipeline import Pipeline
    from il2vseg.runtime.sources import Source

PROGRAM = "il2vseg-run"
_STALL_S = 10.0
"""A stage that does not move for so long is not fed to the watchdog of systemd any more."""


@contextmanager
def _stop_on_signals(pipeline: "Pipeline") -> Iterator[None]:
    """Let SIGINT and SIGTERM end the run in good order."""

    def stop(number: int, frame: FrameType | None) -> None:
        pipeline.stop()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def run(config: RunConfig) -> None:
    """Run as configured until the source ends or a signal comes.

    Raises:
        UserError: bad settings, no source, no model, or a file that cannot be written.
        CheckFailed: the engine does not work.
    """
    check(config)
    # A damaged stream makes FFmpeg and OpenCV print several lines a frame, for days; we report events.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    from il2vseg.runtime.assembly import marine_layer, open_sinks, source_options
    from il2vseg.runtime.engine_guard import EngineGuard
    from il2vseg.runtime.events import EventLog
    from il2vseg.runtime.histogram import Latencies
    from il2vseg.runtime.models import find_model
    from il2vseg.runtime.notify import Notifier
    from il2vseg.runtime.overlay import Overlay
    from il2vseg.runtime.pipeline import Pipeline
    from il2vseg.runtime.progress import Progress
    from il2vseg.runtime.providers import open_engine
    from il2vseg.runtime.sinks.window import WindowSink
    from il2vseg.runtime.sources import open_source
    from il2vseg.runtime.stabilise import Smoother

    events = EventLog()
    load = partial(
        open_engine,
        find_model(config.model),
        config.provider,
        precision=config.precision,
        threads=config.threads,
        stabiliser=None
        if config.stabilise == "off"
        else Smoother(config.smoothing, flow=config.stabilise == "flow"),
    )
    engine = load()
    manifest = engine.manifest
    guard = EngineGuard(engine, load, events.emit)
    overlay = Overlay(manifest.classes, config.opacity)
    target = config.source if config.camera is None else config.camera
    assert target is not None
    options = source_options(config)
    with open_source(target, options, events.emit, camera=config.camera is not None) as source:
        latencies = Latencies()
        analyse = marine_layer(config, manifest, events)
        sinks = open_sinks(config, source, manifest, latencies, events.emit)
        pipeline = Pipeline(
            source,
            guard,
            manifest.class_names,
            sinks,
            lambda o: overlay(o.captured.frame, o.result.labels, list(o.fractions.values()), o.fps, o.scene),
            events,
            max_frames=config.max_frames,
            latencies=latencies,
            analyse=analyse,
        )
        windows = [s for s in sinks if isinstance(s, WindowSink)]
        progress = Progress(pipeline, config.max_frames or source.total)

        def idle() -> None:
            progress.update()
            if not pipeline.stalled(_STALL_S):
                notifier.alive()
            if not all(window.show() for window in windows):
                pipeline.stop()

        notifier = Notifier()
        notifier.send("READY=1")
        start = time.monotonic()
        try:
            with _stop_on_signals(pipeline):
                pipeline.run(idle)
        finally:
            notifier.send("STOPPING=1")
            progress.close()
            guard.close()
        _finish(config, pipeline, source, time.monotonic() - start)


def _finish(config: RunConfig, pipeline: "Pipeline", source: "Source", seconds: float) -> None:
    """Report on a finished run."""
    if not pipeline.frames and source.skipped:
        raise UserError(f"{config.source}: none of {source.skipped} frames could be read")
    parts = [f"{pipeline.frames} frames in {seconds:.1f} s ({pipeline.frames / max(seconds, 1e-9):.1f} fps)"]
    parts += [
        f"{count} {what}"
        for count, what in (
            (source.skipped, "unreadable and skipped"),
            (pipeline.dropped, "dropped"),
            (pipeline.failed, "lost by the engine"),
        )
        if count
    ]
    written = [str(p) for p in (config.save_video, config.save_labels, config.jsonl) if p and str(p) != "-"]
    print(", ".join(parts) + (f"; wrote {', '.join(written)}" if written else ""), file=sys.stderr)
    if config.benchmark:
        # Standard output belongs to the JSONL when that goes there.
        print(pipeline.latencies.table(), file=sys.stderr if str(config.jsonl) == "-" else sys.stdout)


def _list_models() -> None:
    from il2vseg.runtime.models import list_models

    for i, found in enumerate(list_models()):
        m = found.manifest
        where = "in the package" if found.bundled else "exported here"
        precisions = ", ".join(dict.fromkeys(f.precision for f in m.files))
        default = ", the default" if i == 0 else ""
        size = f"{m.size[0]}x{m.size[1]}"
        print(f"{found.folder}\t{', '.join(m.class_names)}; {size}; {precisions} ({where}{default})")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""

    def body() -> None:
        config = parse(RunConfig, PROGRAM, argv)
        if config.list_models:
            _list_models()
        elif config.print_config:
            import yaml

            from il2vseg.command import to_dict

            values = {k: v for k, v in to_dict(config).items() if k not in ("config", "print_config")}
            print(yaml.safe_dump(values, sort_keys=False), end="")
        else:
            run(config)

    return run_command(body, PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
