"""From the configuration to the parts of a run."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from il2vseg.base.errors import UserError
from il2vseg.base.redact import redacted
from il2vseg.runtime.config import RunConfig, addresses, targets

if TYPE_CHECKING:
    from il2vseg.runtime.engine import Backend
    from il2vseg.runtime.manifest import Manifest
    from il2vseg.runtime.marine.scene import MarineAnalyser
    from il2vseg.runtime.pipeline import Pipeline
    from il2vseg.runtime.sinks.base import Sink
    from il2vseg.runtime.sinks.window import WindowSink
    from il2vseg.runtime.sources import Source, SourceOptions


@dataclass(frozen=True)
class Stream:
    """A source on its way to its sinks.

    Attributes:
        config: its own configuration, of one source. name: of the source, for messages.
        windows: the sinks that the main thread has to show.
    """

    config: RunConfig
    name: str
    source: "Source"
    pipeline: "Pipeline"
    windows: "Sequence[WindowSink]"

    @property
    def total(self) -> int | None:
        """Frames to come in all, where that is known."""
        return self.config.max_frames or self.source.total


def open_streams(
    configs: Sequence[RunConfig], manifest: "Manifest", backend: "Backend", stack: ExitStack
) -> list[Stream]:
    """Open the sources and sinks of every stream, or none of them.

    Args:
        configs: of one source each, see `config.streams`. backend: of all of them.
        stack: closes the sources; the pipelines close their sinks at the end of their run.
    Raises:
        UserError: a source or a sink cannot be opened.
    """
    opened = []
    with ExitStack() as unused:
        for config in configs:
            stream, sinks = _open_stream(config, manifest, backend, stack)
            for sink in sinks:
                unused.callback(sink.close)
            opened.append(stream)
        unused.pop_all()
    return opened


def _open_stream(
    config: RunConfig, manifest: "Manifest", backend: "Backend", stack: ExitStack
) -> "tuple[Stream, Sequence[Sink]]":
    from il2vseg.base.ignore import IgnoreMask
    from il2vseg.runtime.engine import Engine
    from il2vseg.runtime.events import EventLog
    from il2vseg.runtime.histogram import Latencies
    from il2vseg.runtime.marine.tracks import Tracker
    from il2vseg.runtime.novelty import NoveltyWatch
    from il2vseg.runtime.pipeline import Pipeline
    from il2vseg.runtime.sinks.table import Setup, open_sinks
    from il2vseg.runtime.sinks.window import WindowSink
    from il2vseg.runtime.sources import open_source
    from il2vseg.runtime.stabilise import Smoother

    (target,) = targets(config)
    events, latencies = EventLog(addresses(config)), Latencies()
    stabiliser = (
        None if config.stabilise == "off" else Smoother(config.smoothing, flow=config.stabilise == "flow")
    )
    engine = Engine(manifest, backend, stabiliser, config.opacity, IgnoreMask.of(config.ignore_mask))
    analyse = marine_layer(config, manifest)
    source = stack.enter_context(
        open_source(target, source_options(config), events.emit, camera=config.camera is not None)
    )
    sinks = open_sinks(Setup(config, manifest, latencies, events.emit))
    pipeline = Pipeline(
        source,
        engine,
        sinks,
        events,
        max_frames=config.max_frames,
        latencies=latencies,
        analyse=analyse,
        follow=None if analyse is None else Tracker(config.danger_zone, events.emit),
        novelty=None if manifest.novelty is None else NoveltyWatch(manifest.novelty, events.emit),
    )
    windows = [sink for sink in sinks if isinstance(sink, WindowSink)]
    return Stream(config, redacted(target), source, pipeline, windows), sinks


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
        realtime=config.realtime,
        loop=config.loop,
    )


def marine_layer(config: RunConfig, manifest: "Manifest") -> "MarineAnalyser | None":
    """Return the marine layer, if it is wanted and the model has the classes for it."""
    from il2vseg.runtime.marine.scene import Classes, MarineAnalyser
    from il2vseg.runtime.marine.water_plane import Camera

    classes = Classes.of(manifest.class_names) if config.marine else None
    if classes is None:
        if config.danger_zone is not None:
            raise UserError("--danger-zone needs a model with the classes water and obstacle")
        return None
    camera = None
    if config.camera_height is not None and config.fov is not None:
        camera = Camera(config.camera_height, config.fov, config.pitch, config.camera_yaw)
    return MarineAnalyser(classes, camera, config.danger_zone)
