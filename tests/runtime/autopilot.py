"""An autopilot that keeps what it is told."""

from typing import Any

from pymavlink import mavutil

from tests.waiting import eventually


class Autopilot:
    """A receiver on loopback that keeps what comes, and speaks as an ArduPilot does."""

    def __init__(self, address: str, system: int = 7) -> None:
        self.line: Any = mavutil.mavlink_connection(address, source_system=system, dialect="common")
        self.received: list[Any] = []

    def speak(self) -> None:
        self.line.mav.heartbeat_send(10, 3, 0, 0, 4)  # a surface boat, ArduPilot, active

    def hear(self, kind: str, count: int = 1, seconds: float = 5.0) -> list[Any]:
        """Wait until so many messages of a kind have come, and return all of that kind."""

        def enough() -> bool:
            while (message := self.line.recv_msg()) is not None:
                self.received.append(message)
            return len(self.all(kind)) >= count

        eventually(enough, seconds)
        return self.all(kind)

    def all(self, kind: str) -> list[Any]:
        return [m for m in self.received if m.get_type() == kind]
