"""Status events: what happened to the stream, for logs, JSONL and the web page."""

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from il2vseg.base.redact import scrubbed

_KEPT = 1000


def ignore(kind: str, message: str, **data: Any) -> None:
    """Discard a report; for parts that are used alone."""
    return None


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        kind: a word to filter by, such as source_lost. message: for people. time: unix seconds.
    """

    kind: str
    message: str
    data: dict[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)

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

    def emit(self, kind: str, message: str, **data: Any) -> None:
        """Report an event; `data` is plain JSON values."""
        shown = {k: scrubbed(v, self._addresses) if isinstance(v, str) else v for k, v in data.items()}
        with self._lock:
            self._pending.append(Event(kind, scrubbed(message, self._addresses), shown))

    def take(self) -> list[Event]:
        """Return the events since the last call, oldest first."""
        with self._lock:
            events = list(self._pending)
            self._pending.clear()
        return events
