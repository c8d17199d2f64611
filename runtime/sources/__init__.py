"""Sources of frames.

for captured in open_source("river.mp4"):
    show(captured.frame)
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from il2vseg.base.errors import UserError
from il2vseg.base.media.clips import Clip
from il2vseg.base.redact import redacted
from il2vseg.runtime.sources.base import Captured, Report, Source
from il2vseg.runtime.sources.capture import CaptureOptions, Connection, ConnectionFailed, open_camera
from il2vseg.runtime.sources.geometry import Geometry, Transformed
from il2vseg.runtime.sources.listing import list_source
from il2vseg.runtime.sources.live import ADVICE, CONNECT_S, LiveSource
from il2vseg.runtime.sources.recorded import RecordedSource
from il2vseg.runtime.sources.streams import connect_stream, open_stream

__all__ = ["Captured", "Source", "SourceOptions", "open_source"]

_URL = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_MAYBE_RECORDED = ("http://", "https://", "ftp://")


@dataclass(frozen=True)
class SourceOptions:
    """How to open a source.

    Attributes:
        capture: what to ask of a camera. geometry: what to do to every frame.
        freeze_s: seconds without a new frame after which a live source counts as dead.
        wait: keep trying when a live source does not answer at the start, instead of giving up.
        realtime: replay a recording at its own pace, as a live source. loop: over and over.
    """

    capture: CaptureOptions = field(default_factory=CaptureOptions)
    geometry: Geometry = field(default_factory=Geometry)
    freeze_s: float = 5.0
    wait: bool = False
    realtime: bool = False
    loop: bool = False


def _ignore(kind: str, message: str, **data: Any) -> None:
    return None


def open_source(
    source: str | Path,
    options: SourceOptions | None = None,
    report: Report = _ignore,
    *,
    camera: bool = False,
) -> Source:
    """Open a source.

    Args:
        source: image or clip, folder or glob of them, or their file:// or http:// address; camera index or
            /dev path; rtsp://, http://, udp://, tcp:// stream; `gst:PIPELINE`; `synthetic:` with options (see
            `SyntheticSource`). What exists as a file is one, whatever its name looks like.
        report: told of status events: report(kind, message, **data).
        camera: a bare number is a camera even where a file of that name exists.
    Raises:
        UserError: there is nothing there that can be read.
    """
    options = options or SourceOptions()
    opened = _open(str(source), options, report, camera)
    return opened if options.geometry == Geometry() else Transformed(opened, options.geometry)


def _open(source: str, options: SourceOptions, report: Report, camera: bool) -> Source:
    if not camera and os.path.lexists(source) and not source.startswith("/dev/"):
        return _recorded(lambda: _open_files(source, report), options)
    for beginning, opener in SOURCES.items():
        if source.lower().startswith(beginning):
            return opener(source, options, report)
    if _URL.match(source):
        return _open_address(source, options, report)
    if camera or source.startswith("/dev/") or source.isdigit():
        connect = partial(open_camera, source, options.capture)
        name = f"camera {redacted(source)}"
        return LiveSource(connect, name, report, freeze_s=options.freeze_s, wait=options.wait)
    return _recorded(lambda: _open_files(source, report), options)


def _open_synthetic(source: str, options: SourceOptions, report: Report) -> Source:
    from il2vseg.runtime.sources.synthetic import SyntheticSource

    scenes = SyntheticSource.parse(source)
    return scenes if scenes.live else _recorded(lambda: SyntheticSource.parse(source), options)


def _recorded(open_again: Callable[[], Source], options: SourceOptions) -> Source:
    if not options.realtime and not options.loop:
        return open_again()
    from il2vseg.runtime.sources.replay import Replay

    return Replay(open_again, realtime=options.realtime, loop=options.loop)


def _open_address(source: str, options: SourceOptions, report: Report) -> Source:
    """Open a stream, or a recording behind an address."""
    name = redacted(source)
    connect: Callable[[], Connection] = partial(open_stream, source, CONNECT_S, options.freeze_s)
    if source.lower().startswith(_MAYBE_RECORDED):
        # Only the answer tells a file from a camera.
        try:
            opened = connect_stream(source, CONNECT_S, options.freeze_s)
        except ConnectionFailed as error:
            if not options.wait:
                raise UserError(f"{name}: {error}; {ADVICE}") from None
        else:
            if opened.is_recording:
                first = [Clip(source, report, container=opened.container, name=name)]

                def again() -> Source:
                    clip = first.pop() if first else Clip(source, report, name=name)
                    return RecordedSource.of_clip(clip, report)

                return _recorded(again, options)
            waiting = [opened]
            again_live = connect

            def connect() -> Connection:
                return waiting.pop() if waiting else again_live()

    return LiveSource(connect, name, report, freeze_s=options.freeze_s, wait=options.wait)


def _open_files(source: str, report: Report) -> Source:
    files, root = list_source(source)
    return RecordedSource(files, root, report)


SOURCES: dict[str, Callable[[str, SourceOptions, Report], Source]] = {
    "synthetic:": _open_synthetic,
    "file://": lambda source, options, report: _recorded(lambda: _open_files(source, report), options),
    "gst:": _open_address,
}
"""What opens a source, by the beginning of its address. Other addresses are streams; the rest are cameras and
files. A new kind of source is one row."""
