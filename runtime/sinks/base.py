"""What a sink is."""

from abc import ABC, abstractmethod
from typing import Self

from il2vseg.runtime.events import Event
from il2vseg.runtime.result import Result


class Sink(ABC):
    """Takes results, one after another; in a pipeline all calls come from one thread.

    with VideoSink("overlay.mp4") as sink:
        sink.write(result)

    Attributes:
        name: for messages and the latency table.
    """

    name: str = "sink"

    @abstractmethod
    def write(self, result: Result) -> None:
        """Take a result.

        Raises:
            OSError: it cannot be written (full disk, lost connection); the next one is tried all the same.
        """

    def event(self, event: Event) -> None:
        """Take a status event."""
        return None

    def close(self) -> None:
        """Finish what was begun."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
