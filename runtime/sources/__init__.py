"""Sources of frames.

for captured in open_source("river.mp4"):
    show(captured.frame)
"""

import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from il2vseg.base.errors import UserError
from il2vseg.base.files import IMAGE_SUFFIXES
from il2vseg.base.redact import redacted
from il2vseg.runtime.sources.base import Captured, Report, Source
from il2vseg.runtime.sources.capture import CaptureOptions, open_camera, open_stream
from il2vseg.runtime.sources.geometry import Geometry, Transformed
from il2vseg.runtime.sources.listing import list_source
from il2vseg.runtime.sources.live import CONNECT_S, LiveSource
from il2vseg.runtime.sources.recorded import ClipSource, ImageSource

__all__ = ["Captured", "Source", "SourceOptions", "open_source"]

_URL = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True)
class SourceOptions:
    """How to open a source.

    Attributes:
        capture: what to ask of a camera. geometry: what to do to every frame.
        freeze_s: seconds without a new frame after which a live source counts as dead.
        wait: keep trying when a live source does not answer at the start, instead of giving up.
    """

    capture: CaptureOptions = field(default_factory=CaptureOptions)
    geometry: Geometry = field(default_factory=Geometry)
    freeze_s: float = 5.0
    wait: bool = False


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
        source: image or clip, folder or glob of them; camera index or /dev path; rtsp://, http://, udp://,
            tcp:// URL; `gst:PIPELINE`; `synthetic:` with options (see `SyntheticSource`).
        report: told of status events: report(kind, message, **data).
        camera: a bare number is a camera even where a file of that name exists.
    Raises:
        UserError: there is nothing there that can be read.
    """
    options = options or SourceOptions()
    opened = _open(str(source), options, report, camera)
    return opened if options.geometry == Geometry() else Transformed(opened, options.geometry)


def _open(source: str, options: SourceOptions, report: Report, camera: bool) -> Source:
    if source.startswith("synthetic:"):
        from il2vseg.runtime.sources.synthetic import SyntheticSource

        return SyntheticSource.parse(source)
    if source.startswith("gst:") or _URL.match(source):
        connect = partial(open_stream, source, CONNECT_S, options.freeze_s)
        return LiveSource(connect, redacted(source), report, freeze_s=options.freeze_s, wait=options.wait)
    if camera or source.startswith("/dev/") or (source.isdigit() and not Path(source).exists()):
        connect = partial(open_camera, source, options.capture)
        name = f"camera {source}"
        return LiveSource(connect, name, report, freeze_s=options.freeze_s, wait=options.wait)
    return _open_files(source, report)


def _open_files(source: str, report: Report) -> Source:
    files, root = list_source(source)
    images = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
    if len(images) == len(files):
        return ImageSource(images, root, report)
    clips = [f for f in files if f not in images]
    if images:
        raise UserError(f"{source}: {len(images)} images and {len(clips)} other files; choose one kind")
    return ClipSource(clips, root, report)
