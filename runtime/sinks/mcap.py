"""An MCAP file that Foxglove opens: picture, overlay, class ids, numbers. Needs the extra `mcap`."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcap.writer import CompressionType, Writer

from il2vseg.base.errors import UserError
from il2vseg.base.images import encode_jpeg, encode_png
from il2vseg.runtime.events import Event
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sinks.encoder import check_space

_QUALITY = 85
_CHUNK = 1 << 20
_IMAGE_SCHEMA = {
    "title": "foxglove.CompressedImage",
    "type": "object",
    "properties": {
        "timestamp": {
            "type": "object",
            "properties": {"sec": {"type": "integer"}, "nsec": {"type": "integer"}},
        },
        "frame_id": {"type": "string"},
        "data": {"type": "string", "contentEncoding": "base64"},
        "format": {"type": "string"},
    },
}
_IMAGE = ("foxglove.CompressedImage", json.dumps(_IMAGE_SCHEMA))
_ANY = json.dumps({"type": "object"})


class McapSink(Sink):
    """Writes to topics /camera and /overlay (JPEG), /segmentation (PNG of class ids), /frame and /events."""

    name = "mcap"
    profile = ""
    compression = CompressionType.NONE
    encodings = ("jsonschema", "json")
    """Of the schemas, and of the messages."""
    channels: Mapping[str, tuple[str, str]] = {
        "/camera": _IMAGE,
        "/overlay": _IMAGE,
        "/segmentation": _IMAGE,
        "/frame": ("il2vseg.Frame", _ANY),
        "/events": ("il2vseg.Event", _ANY),
    }
    """Name and text of the schema by topic."""

    def __init__(self, path: str | Path) -> None:
        """Create the file.

        Raises:
            UserError: it cannot be written.
        """
        self._path = path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None
        self._writer: Any = Writer(self._file, chunk_size=_CHUNK, compression=self.compression)
        self._begin: float | None = None
        self._last: float | None = None
        self._writer.start(profile=self.profile, library="il2vseg")
        schemas = {
            name: self._writer.register_schema(name, self.encodings[0], text.encode())
            for name, text in dict(self.channels.values()).items()
        }
        self._channels = {
            topic: self._writer.register_channel(topic, self.encodings[1], schemas[name])
            for topic, (name, _) in self.channels.items()
        }

    def write(self, result: Result) -> None:
        check_space(self._path)
        self._frame(result, self._time(result))

    def _frame(self, result: Result, unix: float) -> None:
        self._image("/camera", unix, "jpeg", encode_jpeg(result.frame, _QUALITY))
        self._image("/overlay", unix, "jpeg", encode_jpeg(result.overlay, _QUALITY))
        self._image("/segmentation", unix, "png", encode_png(result.labels))
        self._message("/frame", unix, result.record)

    def _time(self, result: Result) -> float:
        """Unix time of a frame. A recording without a date begins in 1970, and keeps its own pace."""
        captured = result.captured
        if result.live or captured.timeline_s is None:
            return captured.unix
        if self._begin is None:
            self._begin = max(0.0, (captured.recorded or 0.0) - captured.timeline_s)
        self._last = self._begin + captured.timeline_s
        return self._last

    def event(self, event: Event) -> None:
        begin, last = self._begin, self._last
        if begin is not None and event.timeline_s is not None:
            last = begin + event.timeline_s
        self._event(event, event.time if last is None else last)

    def _event(self, event: Event, unix: float) -> None:
        self._message("/events", unix, event.to_dict())

    def _image(self, topic: str, unix: float, format: str, data: bytes) -> None:
        seconds = int(unix)
        message = {
            "timestamp": {"sec": seconds, "nsec": int(1e9 * (unix - seconds))},
            "frame_id": "camera",
            "format": format,
            "data": base64.b64encode(data).decode(),
        }
        self._message(topic, unix, message)

    def _message(self, topic: str, unix: float, message: dict[str, Any]) -> None:
        self._add(topic, unix, json.dumps(message).encode())

    def _add(self, topic: str, unix: float, data: bytes) -> None:
        time_ns = int(1e9 * unix)
        self._writer.add_message(self._channels[topic], time_ns, data, time_ns)

    def close(self) -> None:
        try:
            self._writer.finish()
        finally:
            self._file.close()
