"""il2vseg-run: from a camera, clip or stream to labels, video, numbers."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

from il2vseg.command import flag, parse
from il2vseg.errors import UserError, run_command
from il2vseg.files import require_writable_dir

if TYPE_CHECKING:
    from il2vseg.images import Labels
    from il2vseg.runtime.events import EventLog
    from il2vseg.runtime.histogram import Latencies
    from il2vseg.runtime.manifest import Manifest
    from il2vseg.runtime.marine import Scene
    from il2vseg.runtime.pipeline import Pipeline
    from il2vseg.runtime.sinks.base import Sink
    from il2vseg.runtime.sources import Source, SourceOptions
    from il2vseg.runtime.sources.base import Report

PROGRAM = "il2vseg-run"
_STALL_S = 10.0
"""A stage that does not move for so long is not fed to the watchdog of systemd any more."""


@dataclass
class RunConfig:
    """Segment a camera, a clip, a folder of images or a stream, frame by frame."""

    source: str | None = flag(
        None,
        "image, clip, folder, pattern, address (rtsp, http, udp, tcp), gst:PIPELINE or synthetic:",
        metavar="FILE|DIR|URL",
    )
    camera: str | None = flag(None, "camera by index or /dev path", metavar="N")
    model: Path | None = flag(
        None, "exported model; default: the newest under runs/, else the bundled one", metavar="DIR"
    )
    list_models: bool = flag(False, "list the models at hand and end")
    provider: Literal["auto", "cpu", "cuda", "tensorrt", "openvino"] = flag("auto", "what runs the model")
    precision: Literal["auto", "fp32", "fp16", "int8"] = flag("auto", "which file of the model")
    threads: int | None = flag(None, "threads of the engine; default: one a core", metavar="N")
    save_video: Path | None = flag(None, "write the overlay as a video", metavar="FILE")
    save_labels: Path | None = flag(None, "write a PNG of class ids for every frame", metavar="DIR")
    jsonl: Path | None = flag(None, "write a JSON object a frame, - for standard output", metavar="FILE|-")
    segment: float | None = flag(
        None, "begin a new video so often; its name then holds codes such as %Y%m%d-%H%M%S", metavar="SECONDS"
    )
    alarm_clips: Path | None = flag(None, "save the seconds around every alarm there", metavar="DIR")
    pre_roll: float = flag(10.0, "seconds before an alarm in its clip", metavar="SECONDS")
    post_roll: float = flag(5.0, "seconds after an alarm in its clip", metavar="SECONDS")
    mcap: Path | None = flag(None, "write pictures and numbers for Foxglove", metavar="FILE")
    mqtt: str | None = flag(None, "publish the numbers: mqtt://HOST[:PORT][/PREFIX]", metavar="URL")
    disk_quota: float | None = flag(
        None, "delete the oldest recordings in the output folders beyond so much", metavar="GIGABYTES"
    )
    serve: str | None = flag(
        None, "serve a web page there; bound to this machine only by default", metavar="[HOST:]PORT"
    )
    token: str | None = flag(
        None, "what viewers of the page must know; default: made up unless only this machine is served"
    )
    allow_host: tuple[str, ...] | None = flag(None, "further host names of the page", metavar="NAME")
    window: bool = flag(False, "show the overlay in a window")
    max_frames: int | None = flag(None, "stop after so many frames", metavar="N")
    benchmark: bool = flag(False, "print latencies by stage at the end")
    opacity: float = flag(0.45, "of the colours in the overlay, 0 to 1")
    stabilise: Literal["off", "ema", "flow"] = flag(
        "off", "average scores over time: where they are, or carried along the optical flow"
    )
    smoothing: float = flag(0.7, "weight of the past in that average, 0 to below 1")
    marine: bool = flag(True, "find water edge, horizon and obstacles if the model knows water and obstacles")
    camera_height: float | None = flag(
        None, "metres of the camera above the water, for ranges", metavar="METRES"
    )
    fov: float | None = flag(None, "horizontal field of view in degrees, for bearings", metavar="DEGREES")
    pitch: float | None = flag(
        None, "degrees of the camera above the horizontal, for ranges without a horizon", metavar="DEGREES"
    )
    danger_zone: float | None = flag(None, "report obstacles nearer than this", metavar="METRES")
    capture_size: tuple[int, int] | None = flag(
        None, "height and width to ask of the camera", metavar="PIXELS"
    )
    capture_fps: float | None = flag(None, "frame rate to ask of the camera", metavar="FPS")
    capture_codec: str | None = flag(None, "codec to ask of the camera, such as MJPG", metavar="CODE")
    undistort: Path | None = flag(None, "straighten frames with this calibration of OpenCV", metavar="FILE")
    rotate: Literal[0, 90, 180, 270] = flag(0, "turn frames clockwise by so many degrees")
    crop: tuple[int, int, int, int] | None = flag(
        None, "x, y, width and height to cut from the turned frame", metavar="PIXELS"
    )
    freeze_after: float = flag(5.0, "seconds without a new frame after which a live source is reopened")
    wait_for_source: bool = flag(False, "keep trying when the camera or stream is not there at the start")
    config: Path | None = flag(None, "YAML file of these settings; flags win", metavar="FILE.yaml")
    print_config: bool = flag(False, "print the settings as YAML and end")


def check(config: RunConfig) -> None:
    """Refuse settings that cannot work, before anything slow starts.

    Raises:
        UserError: no source or two, or a value out of range.
    """
    if (config.source is None) == (config.camera is None):
        raise UserError("one of --source FILE|DIR|URL and --camera N is needed")
    for name, low in (
        ("max_frames", 1),
        ("threads", 1),
        ("freeze_after", 0.1),
        ("camera_height", 0.05),
        ("segment", 1),
        ("pre_roll", 0),
        ("post_roll", 0),
        ("disk_quota", 0),
    ):
        value = getattr(config, name)
        if value is not None and value < low:
            raise UserError(f"--{name.replace('_', '-')} {value}: it is at least {low}")
    if (config.camera_height is None) != (config.fov is None):
        raise UserError("--camera-height and --fov are needed together")
    if config.alarm_clips is not None and config.danger_zone is None:
        raise UserError("--alarm-clips needs --danger-zone: nothing else raises an alarm")
    if config.danger_zone is not None and config.fov is None:
        raise UserError("--danger-zone needs --camera-height and --fov")
    if config.fov is not None and not 1 <= config.fov <= 170:
        raise UserError(f"--fov {config.fov}: it is from 1 to 170")
    if not 0 <= config.smoothing < 1:
        raise UserError(f"--smoothing {config.smoothing}: it is from 0 to below 1")
    if not 0 <= config.opacity <= 1:
        raise UserError(f"--opacity {config.opacity}: it is from 0 to 1")


def _source_options(config: RunConfig) -> "SourceOptions":
    from il2vseg.runtime.sources import SourceOptions
    from il2vseg.runtime.sources.capture import CaptureOptions
    from il2vseg.runtime.sources.geometry import Geometry

    return SourceOptions(
        capture=CaptureOptions(config.capture_size, config.capture_fps, config.capture_codec),
        geometry=Geometry(config.undistort, config.rotate, config.crop),
        freeze_s=config.freeze_after,
        wait=config.wait_for_source,
    )


def _sinks(
    config: RunConfig, source: "Source", manifest: "Manifest", latencies: "Latencies", report: "Report"
) -> "Iterator[Sink]":
    """Open what the configuration asks for; the log is always there."""
    from il2vseg.runtime.sinks.jsonl import JsonlSink
    from il2vseg.runtime.sinks.labels import LabelSink
    from il2vseg.runtime.sinks.log import LogSink
    from il2vseg.runtime.sinks.quota import QuotaSink
    from il2vseg.runtime.sinks.ring import RingSink
    from il2vseg.runtime.sinks.video import VideoSink
    from il2vseg.runtime.sinks.window import WindowSink

    yield LogSink()
    if config.window:
        yield WindowSink()
    if config.save_labels is not None:
        yield LabelSink(config.save_labels)
    if config.save_video is not None:
        require_writable_dir(config.save_video.parent)
        yield VideoSink(config.save_video, source.fps, live=source.live, segment_s=config.segment)
    if config.alarm_clips is not None:
        yield RingSink(config.alarm_clips, config.pre_roll, config.post_roll, source.fps)
    if config.mcap is not None:
        with _extra("--mcap", "mcap"):
            from il2vseg.runtime.sinks.mcap import McapSink
        yield McapSink(config.mcap)
    if config.jsonl is not None:
        yield JsonlSink(config.jsonl)
    if config.mqtt is not None:
        with _extra("--mqtt", "mqtt"):
            from il2vseg.runtime.sinks.mqtt import Broker, MqttSink
        yield MqttSink(Broker.parse(config.mqtt), report)
    if config.serve is not None:
        yield _web_sink(config, config.serve, manifest, latencies)
    if config.disk_quota is not None:
        segments = config.save_video.parent if config.save_video and config.segment else None
        folders = [f for f in (segments, config.alarm_clips, config.save_labels) if f is not None]
        yield QuotaSink(folders, int(1e9 * config.disk_quota), report)


@contextmanager
def _extra(flag: str, name: str) -> Iterator[None]:
    """Say which extra of the package an import needs."""
    try:
        yield
    except ImportError:
        raise UserError(f"{flag} needs more packages: pip install 'il2vseg[{name}]'") from None


def _web_sink(config: RunConfig, address: str, manifest: "Manifest", latencies: "Latencies") -> "Sink":
    with _extra("--serve", "web"):
        from il2vseg.runtime.web.server import WebSink
    from il2vseg.runtime.sources import shown_name
    from il2vseg.runtime.web.state import State

    target = config.source if config.camera is None else f"camera {config.camera}"
    state = State(manifest, shown_name(str(target)), latencies)
    sink = WebSink(address, state, token=config.token, names=config.allow_host or ())
    print(f"page: {sink.url}", file=sys.stderr)
    return sink


def _marine(
    config: RunConfig, manifest: "Manifest", events: "EventLog"
) -> "Callable[[Labels], Scene] | None":
    """Return the marine layer, if it is wanted and the model has the classes for it."""
    from il2vseg.runtime.marine import Alarm, Classes, MarineAnalyser
    from il2vseg.runtime.water_plane import Camera

    classes = Classes.of(manifest.class_names) if config.marine else None
    if classes is None:
        if config.danger_zone is not None:
            raise UserError("--danger-zone needs a model with the classes water and obstacle")
        return None
    camera = None
    if config.camera_height is not None and config.fov is not None:
        camera = Camera(config.camera_height, config.fov, config.pitch)
    analyser, alarm = MarineAnalyser(classes, camera, config.danger_zone), Alarm(events.emit)

    def analyse(labels: "Labels") -> "Scene":
        scene = analyser(labels)
        return replace(scene, alarm=alarm.update(scene))

    return analyse


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
    options = _source_options(config)
    with open_source(target, options, events.emit, camera=config.camera is not None) as source:
        latencies = Latencies()
        sinks = list(_sinks(config, source, manifest, latencies, events.emit))
        pipeline = Pipeline(
            source,
            guard,
            manifest.class_names,
            sinks,
            lambda o: overlay(o.captured.frame, o.result.labels, list(o.fractions.values()), o.fps, o.scene),
            events,
            max_frames=config.max_frames,
            latencies=latencies,
            analyse=_marine(config, manifest, events),
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
