"""Events as lines on standard error."""

import sys
from collections import Counter

from il2vseg.runtime.events import Event
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink

MAX_OF_A_KIND = 20


class LogSink(Sink):
    """Prints events; of a kind that repeats, only the first few."""

    name = "log"

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def write(self, result: Result) -> None:
        return None

    def event(self, event: Event) -> None:
        self._seen[event.kind] += 1
        count = self._seen[event.kind]
        if count <= MAX_OF_A_KIND:
            print(f"il2vseg-run: {event.message}", file=sys.stderr)
        if count == MAX_OF_A_KIND:
            print(f"il2vseg-run: further events {event.kind} are not shown", file=sys.stderr)
