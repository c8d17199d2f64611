"""From the configuration to the parts of a run."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from il2vseg.errors import UserError
from il2vseg.files import require_writable_dir
from il2vseg.runtime.config import RunConfig

if TYPE_CHECKING:
    from il2vseg.images import Labels
    from il2vseg.runtime.events import EventLog
    from il2vseg.runtime.histogram import Latencies
    from il2vseg.runtime.manifest import Manifest
    from il2vseg.runtime.marine import Scene
    from il2vseg.runtime.sinks.base import Sink
    from il2vseg.runtime.sources import Source, SourceOptions
    from il2vseg.runtime.sources.base import Report


def source_options(config: RunConfig) -> "SourceOptions":
    """Return what the configuration asks of a source."""
    from il2vseg.runtime.sources import SourceOptions
    from il2vseg.runtime.sources.capture import CaptureOptions
    from il2vseg.runtime.sources.geometry import Geometry

    return SourceOptions(
        capture=CaptureOptions(config.capture_size, config.capture_fps, config.capture_codec),
        geometry=Geometry(config.undistort, config.rotate, config.crop),
        freeze_s=config.freeze_after,
        wait=config.wait_for_source,
    )


def open_sinks(
    config: RunConfig, source: "Source", manifest: "Manifest", latencies: "Latencies", report: "Report"
) -> "list[Sink]":
    """Open what the configuration asks for; the log is always there.

    Raises:
        UserError: one of them cannot be opened; the others are closed again.
    """
    opened: list[Sink] = []
    try:
        opened.extend(_sinks(config, source, manifest, latencies, report))
    except BaseException:
        for sink in opened:
            sink.close()
        raise
    return opened


def _sinks(
    config: RunConfig, source: "Source", manifest: "Manifest", latencies: "Latencies", report: "Report"
) -> "Iterator[Sink]":
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
        if not folders:
            raise UserError("--disk-quota needs --save-labels, --alarm-clips, or --save-video with --segment")
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


def marine_layer(
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
