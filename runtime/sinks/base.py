"""What a sink is."""

from abc import ABC, abstractmethod

from il2vseg.runtime.events import Event
from il2vseg.runtime.output import Output


class Sink(ABC):
    """Takes what the pipeline made of every frame. All calls come from one thread.

    Attributes:
        name: for messages and the latency table.
    """

    name: str = "sink"

    @abstractmethod
    def write(self, output: Output) -> None:
        """Take a frame.

        Raises:
            OSError: it cannot be written (full disk, lost connection); the next one is tried all the same.
        """

    def event(self, event: Event) -> None:
        """Take a status event."""
        return None

    def close(self) -> None:
        """Finish what was begun."""
        return None
