"""The sinks of il2vseg-run: one row per flag, and anybody's own by `--sink`.

A new sink is a file beside this one, a flag in `RunConfig`, and a row here; one of your own needs neither:

    il2vseg-run --camera 0 --sink my_sinks:CsvSink=frames.csv
"""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from il2vseg.base.errors import UserError
from il2vseg.base.files import require_writable_dir
from il2vseg.base.outputs import Ledger
from il2vseg.base.redact import redacted
from il2vseg.runtime.config import RunConfig, targets
from il2vseg.runtime.histogram import Latencies
from il2vseg.runtime.manifest import Manifest
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sources.base import Report


@dataclass(frozen=True)
class Setup:
    """What a sink may need to know of its run, of one source."""

    config: RunConfig
    manifest: Manifest
    latencies: Latencies
    report: Report

    def ledger(self, folder: Path) -> Ledger | None:
        """Where to record what is written to a folder, if there is a disk quota."""
        return None if self.config.disk_quota is None else Ledger(folder)

    @property
    def title(self) -> str:
        """The source, as it may be shown."""
        (target,) = targets(self.config)
        return redacted(target) if self.config.camera is None else f"camera {redacted(target)}"


@dataclass(frozen=True)
class Row:
    """How a flag opens its sink, and the extra of the package that this needs."""

    open: Callable[[Setup], Sink]
    extra: str = ""


def _window(setup: Setup) -> Sink:
    from il2vseg.runtime.sinks.window import WindowSink

    return WindowSink(f"IL2Vseg {setup.title}")


def _labels(setup: Setup) -> Sink:
    from il2vseg.runtime.sinks.labels import LabelSink

    folder = setup.config.save_labels
    assert folder is not None
    return LabelSink(folder, setup.ledger(folder))


def _video(setup: Setup) -> Sink:
    from il2vseg.runtime.sinks.video import VideoSink

    path, segment_s = setup.config.save_video, setup.config.segment
    assert path is not None
    require_writable_dir(path.parent)
    return VideoSink(path, segment_s=segment_s, ledger=setup.ledger(path.parent) if segment_s else None)


def _ring(setup: Setup) -> Sink:
    from il2vseg.runtime.sinks.ring import RingSink

    config = setup.config
    assert config.alarm_clips is not None
    return RingSink(config.alarm_clips, config.pre_roll, config.post_roll, setup.ledger(config.alarm_clips))


def _mcap(setup: Setup) -> Sink:
    from il2vseg.runtime.sinks.mcap import McapSink
    from il2vseg.runtime.sinks.ros2.recording import Ros2McapSink

    assert setup.config.mcap is not None
    return (McapSink if setup.config.mcap_schema == "json" else Ros2McapSink)(setup.config.mcap)


def _foxglove(setup: Setup) -> Sink:
    from il2vseg.runtime.sinks.ros2.foxglove import FoxgloveSink

    assert setup.config.foxglove is not None
    sink = FoxgloveSink(setup.config.foxglove)
    print(f"Foxglove: {sink.url}", file=sys.stderr)
    return sink


def _ros2(setup: Setup) -> Sink:
    from il2vseg.runtime.sinks.ros2.node import Ros2Sink

    return Ros2Sink()


def _jsonl(setup: Setup) -> Sink:
    from il2vseg.runtime.sinks.jsonl import JsonlSink

    assert setup.config.jsonl is not None
    return JsonlSink(setup.config.jsonl)


def _mqtt(setup: Setup) -> Sink:
    from il2vseg.runtime.sinks.mqtt import MqttSink

    assert setup.config.mqtt is not None
    return MqttSink(setup.config.mqtt, setup.report)


def _mavlink(setup: Setup) -> Sink:
    from il2vseg.runtime.sinks.mavlink import MavlinkSink

    config = setup.config
    assert config.mavlink is not None
    return MavlinkSink(
        config.mavlink,
        setup.report,
        reach_m=config.mavlink_range,
        distance_sensor=config.mavlink_distance_sensor,
    )


def _nmea(setup: Setup) -> Sink:
    from il2vseg.runtime.sinks.nmea import NmeaSink

    assert setup.config.nmea is not None
    return NmeaSink(setup.config.nmea, setup.report)


def _signalk(setup: Setup) -> Sink:
    from il2vseg.runtime.sinks.signalk import SignalKSink
    from il2vseg.runtime.sinks.signalk_access import read_token

    config = setup.config
    assert config.signalk is not None
    return SignalKSink(config.signalk, setup.report, token=read_token(config.signalk_token))


def _stream(setup: Setup) -> Sink:
    from il2vseg.runtime.sinks.stream import StreamSink

    config = setup.config
    assert config.stream is not None
    return StreamSink(config.stream, setup.report, bitrate=config.stream_bitrate, latencies=setup.latencies)


def _web(setup: Setup) -> Sink:
    from il2vseg.runtime.web.server import WebSink
    from il2vseg.runtime.web.state import State

    config = setup.config
    assert config.serve is not None
    state = State(setup.manifest.name, setup.manifest.classes, setup.title, setup.latencies)
    sink = WebSink(config.serve, state, token=config.token, names=config.allow_host or ())
    print(f"page: {sink.url}", file=sys.stderr)
    return sink


def _quota(setup: Setup) -> Sink:
    from il2vseg.runtime.sinks.quota import QuotaSink

    config = setup.config
    assert config.disk_quota is not None
    segments = config.save_video.parent if config.save_video and config.segment else None
    folders = [f for f in (segments, config.alarm_clips, config.save_labels) if f is not None]
    if not folders:
        raise UserError("--disk-quota needs --save-labels, --alarm-clips, or --save-video with --segment")
    return QuotaSink(folders, int(1e9 * config.disk_quota), setup.report)


SINKS: dict[str, Row] = {
    "window": Row(_window),
    "save_labels": Row(_labels),
    "save_video": Row(_video),
    "alarm_clips": Row(_ring),
    "mcap": Row(_mcap, "mcap"),
    "foxglove": Row(_foxglove, "foxglove"),
    "ros2": Row(_ros2),
    "jsonl": Row(_jsonl),
    "mqtt": Row(_mqtt, "mqtt"),
    "mavlink": Row(_mavlink, "mavlink"),
    "nmea": Row(_nmea, "nmea"),
    "signalk": Row(_signalk, "signalk"),
    "stream": Row(_stream),
    "serve": Row(_web, "web"),
    "disk_quota": Row(_quota),
}
"""By the flag that asks for it, in the order in which they are written to."""


def open_sinks(setup: Setup) -> list[Sink]:
    """Open what the configuration asks for; the log is always there.

    Raises:
        UserError: one of them cannot be opened; the others are closed again.
    """
    opened: list[Sink] = []
    try:
        opened.extend(_sinks(setup))
    except BaseException:
        for sink in opened:
            sink.close()
        raise
    return opened


def _sinks(setup: Setup) -> Iterator[Sink]:
    from il2vseg.runtime.sinks.log import LogSink

    yield LogSink()
    for flag, row in SINKS.items():
        if getattr(setup.config, flag) in (None, False):
            continue
        try:
            sink = row.open(setup)
        except ImportError:
            if not row.extra:
                raise
            raise UserError(
                f"--{flag.replace('_', '-')} needs more packages: pip install 'il2vseg[{row.extra}]'"
            ) from None
        yield sink
    for text in setup.config.sink or ():
        yield own_sink(text)


def own_sink(text: str) -> Sink:
    """Open somebody's own sink.

    Args:
        text: MODULE:CLASS, or MODULE:CLASS=TARGET to call the class with a text; the module is looked for in
            the working folder, too.
    Raises:
        UserError: there is no such class, or it is no `Sink`.
    """
    address, equals, target = text.partition("=")
    module, colon, name = address.partition(":")
    if not colon or not module or not name:
        raise UserError(f"--sink {text}: write it as MODULE:CLASS or MODULE:CLASS=TARGET")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"--sink {text}: {error}") from None
    if not (isinstance(kind, type) and issubclass(kind, Sink)):
        raise UserError(f"--sink {text}: {name} must be a class derived from il2vseg.runtime.sinks.base.Sink")
    return kind(*([target] if equals else []))
