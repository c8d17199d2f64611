"""il2vseg-run: from a camera, clip or stream to labels, video, numbers."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from il2vseg.base.command import parse
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.redact import redacting
from il2vseg.runtime.config import RunConfig, addresses, check, streams

if TYPE_CHECKING:
    from il2vseg.runtime.assembly import Stream
    from il2vseg.runtime.engine import Backend
    from il2vseg.runtime.pipeline import Pipeline

PROGRAM = "il2vseg-run"
_IDLE_S = 0.05
_STALL_S = 10.0
"""A stage that does not move for so long stops the messages to systemd's watchdog."""


@contextmanager
def _stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the run properly: files are finished."""

    def handle(number: int, frame: FrameType | None) -> None:
        stop()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def run(config: RunConfig) -> None:
    """Run as configured until the sources end or a signal comes.

    Raises:
        UserError: bad settings, no source, no model, or a file that cannot be written.
        CheckFailed: the engine does not work.
    """
    check(config)
    # A damaged stream makes FFmpeg and OpenCV print several lines per frame, for days; we report events.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    from il2vseg.runtime.assembly import open_streams
    from il2vseg.runtime.backends.providers import open_engine
    from il2vseg.runtime.backends.shared import SharedBackend
    from il2vseg.runtime.catalog import find_model
    from il2vseg.runtime.manifest import Manifest
    from il2vseg.runtime.overwriting import check_outputs

    folder = find_model(config.model)
    parts = streams(config)
    check_outputs(parts, folder)

    def load() -> "Backend":
        engine = open_engine(
            folder,
            config.provider,
            precision=config.precision,
            threads=config.threads,
            verbose=config.verbose,
        )
        return engine.backend

    with ExitStack() as stack:
        backend = SharedBackend(load, users=len(parts))
        stack.callback(backend.shutdown)
        opened = open_streams(parts, Manifest.load(folder), backend, stack)
        start = time.monotonic()
        _run_streams(opened)
        for stream in opened:
            _finish(stream, time.monotonic() - start)


def _run_streams(opened: "Sequence[Stream]") -> None:
    """Run streams until they end or a signal comes, with progress shown and systemd told."""
    from il2vseg.runtime.notify import Notifier
    from il2vseg.runtime.progress import Progress

    pipelines = [stream.pipeline for stream in opened]
    progress, notifier = Progress(pipelines, [stream.total for stream in opened]), Notifier()

    def stop() -> None:
        for pipeline in pipelines:
            pipeline.stop()

    def idle() -> None:
        progress.update()
        if not any(pipeline.stalled(_STALL_S) for pipeline in pipelines):
            notifier.alive()
        if not all(window.show() for stream in opened for window in stream.windows):
            stop()

    notifier.send("READY=1")
    try:
        with _stop_on_signals(stop):
            _run_together(pipelines, idle)
    finally:
        notifier.send("STOPPING=1")
        progress.close()


def _run_together(pipelines: "Sequence[Pipeline]", idle: Callable[[], None]) -> None:
    """Run pipelines until all have ended; the failure of one ends the others, and is raised.

    Args:
        idle: called in this thread, over and over.
    """

    def stop() -> None:
        for pipeline in pipelines:
            pipeline.stop()

    with ThreadPoolExecutor(len(pipelines), "pipeline") as pool:
        runs = [pool.submit(pipeline.run) for pipeline in pipelines]
        try:
            pending = set(runs)
            while pending:
                done, pending = wait(pending, _IDLE_S, FIRST_COMPLETED)
                idle()
                if any(run.exception() for run in done):
                    stop()
        except BaseException:
            stop()
            raise
    for run in runs:
        run.result()


def _finish(stream: "Stream", seconds: float) -> None:
    """Report on a finished stream."""
    config, pipeline, skipped = stream.config, stream.pipeline, stream.source.skipped
    if not pipeline.frames and skipped:
        raise UserError(f"{stream.name}: none of {skipped} frames could be read")
    parts = [f"{pipeline.frames} frames in {seconds:.1f} s ({pipeline.frames / max(seconds, 1e-9):.1f} fps)"]
    parts += [
        f"{count} {what}"
        for count, what in (
            (skipped, "unreadable and skipped"),
            (stream.source.damaged, "damaged"),
            (pipeline.dropped, "dropped"),
            (pipeline.failed, "lost by the engine"),
        )
        if count
    ]
    written = [str(p) for p in (config.save_video, config.save_labels, config.jsonl) if p and str(p) != "-"]
    print(", ".join(parts) + (f"; wrote {', '.join(written)}" if written else ""), file=sys.stderr)
    if pipeline.novelty is not None and (line := pipeline.novelty.summary()):
        print(line, file=sys.stderr)
    if config.benchmark:
        # Standard output belongs to the JSONL when that goes there.
        print(pipeline.latencies.table(), file=sys.stderr if str(config.jsonl) == "-" else sys.stdout)


def _list_models() -> None:
    from il2vseg.runtime.catalog import list_models

    for i, found in enumerate(list_models()):
        m = found.manifest
        where = "in the package" if found.bundled else "exported here"
        precisions = ", ".join(dict.fromkeys(f.precision for f in m.files))
        default = ", the default" if i == 0 else ""
        size = f"{m.size[0]}x{m.size[1]}"
        print(f"{found.folder}\t{', '.join(m.class_names)}; {size}; {precisions} ({where}{default})")


def main(argv: list[str] | None = None, prog: str = PROGRAM) -> int:
    """Run the command and return its exit code."""

    def body() -> None:
        config = parse(RunConfig, prog, argv)
        if config.list_models:
            _list_models()
        elif config.print_config:
            import yaml

            from il2vseg.base.command import to_dict

            values = {k: v for k, v in to_dict(config).items() if k not in ("config", "print_config")}
            print(yaml.safe_dump(values, sort_keys=False), end="")
        else:
            with redacting(addresses(config)):
                run(config)

    return run_command(body, prog)


if __name__ == "__main__":
    sys.exit(main())
