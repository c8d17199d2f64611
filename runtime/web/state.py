"""The numbers of a run for the page and Prometheus."""

import threading
import time
from collections import deque
from typing import Any

from il2vseg.runtime.events import Event
from il2vseg.runtime.histogram import Latencies
from il2vseg.runtime.manifest import ClassInfo
from il2vseg.runtime.result import Result

_EVENTS_KEPT = 50
_BUCKETS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_FRESH_S = 10.0


def captured_unix(result: Result) -> float:
    """When a frame came, by this machine's clock of now: seconds since 1970."""
    return round(time.time() - (time.perf_counter() - result.captured.clock), 3)


class State:
    """Written by the sink thread, read by the server's."""

    def __init__(
        self,
        model: str = "",
        classes: tuple[ClassInfo, ...] = (),
        source: str = "",
        latencies: Latencies | None = None,
    ) -> None:
        """Begin; what is not known yet comes with the first frame.

        Args:
            model, source: names to show. latencies: what the stages count; None leaves them out.
        """
        self._model = model
        self._classes = classes
        self._source = source
        self._latencies = latencies or Latencies()
        self._lock = threading.Lock()
        self._events: deque[Event] = deque(maxlen=_EVENTS_KEPT)
        self._event_counts: dict[str, int] = {}
        self._lost: Event | None = None
        self._record: dict[str, Any] | None = None
        self._frames = 0
        self._last: float | None = None
        self._unix: float | None = None

    def frame(self, result: Result) -> None:
        """Take a frame's numbers."""
        with self._lock:
            self._record = result.record
            self._classes = result.classes
            self._frames += 1
            self._unix = captured_unix(result)
            self._last = time.monotonic()

    def event(self, event: Event) -> None:
        """Take an event."""
        with self._lock:
            self._events.append(event)
            self._event_counts[event.kind] = self._event_counts.get(event.kind, 0) + 1
            if event.kind == "source_lost":
                self._lost = event
            elif event.kind == "source_back":
                self._lost = None

    def status(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        with self._lock:
            age = None if self._last is None else round(time.monotonic() - self._last, 3)
            return {
                "model": self._model,
                "classes": [{"name": c.name, "color": list(c.color)} for c in self._classes],
                "source": {
                    "name": self._source,
                    "up": self._lost is None,
                    "reason": self._lost.message if self._lost else None,
                },
                "frames": self._frames,
                "age_s": age,
                "time": round(time.time(), 3),
                "unix": self._unix,
                "record": self._record,
                "events": [e.to_dict() for e in self._events],
            }

    def healthy(self) -> bool:
        """Whether frames came lately, or the source is known to be away and being waited for."""
        with self._lock:
            fresh = self._last is not None and time.monotonic() - self._last < _FRESH_S
            return fresh or self._lost is not None

    def metrics(self, viewers: int) -> str:
        """Return the state in Prometheus' text format."""
        with self._lock:
            record, frames, up = self._record or {}, self._frames, self._lost is None
            counts = dict(self._event_counts)
        lines: list[str] = []

        def metric(name: str, kind: str, help: str, values: list[tuple[str, float]]) -> None:
            lines.extend((f"# HELP il2vseg_{name} {help}", f"# TYPE il2vseg_{name} {kind}"))
            lines.extend(f"il2vseg_{name}{labels} {value:g}" for labels, value in values)

        metric("frames_total", "counter", "Frames segmented.", [("", frames)])
        metric("dropped_total", "counter", "Frames dropped.", [("", record.get("dropped", 0))])
        metric("fps", "gauge", "Frames a second lately.", [("", record.get("fps", 0.0))])
        metric("source_up", "gauge", "1 while the source delivers.", [("", up)])
        metric("viewers", "gauge", "Viewers of the web page.", [("", viewers)])
        metric(
            "events_total", "counter", "Events.", [(f'{{kind="{_escape(k)}"}}', n) for k, n in counts.items()]
        )
        fractions = record.get("classes", {})
        metric(
            "class_fraction",
            "gauge",
            "Share of the frame.",
            [(f'{{class="{_escape(k)}"}}', v) for k, v in fractions.items()],
        )
        lines += self._histograms()
        return "\n".join(lines) + "\n"

    def _histograms(self) -> list[str]:
        name = "il2vseg_latency_milliseconds"
        lines = [f"# HELP {name} Time by stage.", f"# TYPE {name} histogram"]
        for stage, h in self._latencies.stages().items():
            label = f'stage="{_escape(stage)}"'
            lines += [f'{name}_bucket{{{label},le="{ms}"}} {h.at_most(ms)}' for ms in _BUCKETS_MS]
            lines.append(f'{name}_bucket{{{label},le="+Inf"}} {h.count}')
            lines += [f"{name}_sum{{{label}}} {h.total_ms:g}", f"{name}_count{{{label}}} {h.count}"]
        return lines


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
