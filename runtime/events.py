"""Status events: what happened to the stream, for logs, JSONL and the web page."""

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from il2vseg.base.redact import scrubbed

if TYPE_CHECKING:
    from il2vseg.runtime.sources.base import Captured

_KEPT = 1000


def ignore(kind: str, message: str, **data: Any) -> None:
    """Discard a report; for parts that are used alone."""
    return None


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        kind: a word to filter by, such as source_lost. message: for people. time: unix seconds.
        timeline_s: of what happened to a recorded frame, its time in the recording.
    """

    kind: str
    message: str
    data: dict[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)
    timeline_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the event as it stands in the JSONL."""
        return {"type": "event", "time": self.time, "event": self.kind, "message": self.message, **self.data}


class EventLog:
    """Where every thread reports; the sink thread takes the events out, in order.

    Reporting never waits: when nobody takes events out, the oldest of a thousand are forgotten.
    """

    def __init__(self, addresses: Iterable[str] = ()) -> None:
        """Args:
        addresses: of sources and brokers; no event shows a secret of theirs.
        """
        self._addresses = tuple(addresses)
        self._pending: deque[Event] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()
        self._place = threading.local()

    def at(self, captured: "Captured") -> None:
        """Give what this thread reports from now on the place of a recorded frame."""
        times = {"position_s": captured.position_s, "recorded": captured.recorded}
        self._place.data = {k: round(v, 6) for k, v in times.items() if v is not None}
        self._place.timeline_s = captured.timeline_s

    def emit(self, kind: str, message: str, **data: Any) -> None:
        """Report an event; `data` is plain JSON values."""
        data = {**getattr(self._place, "data", {}), **data}
        timeline_s = getattr(self._place, "timeline_s", None)
        shown = {k: scrubbed(v, self._addresses) if isinstance(v, str) else v for k, v in data.items()}
        with self._lock:
            text = scrubbed(message, self._addresses)
            self._pending.append(Event(kind, text, shown, timeline_s=timeline_s))

    def take(self) -> list[Event]:
        """Return the events since the last call, oldest first."""
        with self._lock:
            events = list(self._pending)
            self._pending.clear()
        return events
