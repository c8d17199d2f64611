"""JSON lines: one object per frame and one per event."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

from il2vseg.base.errors import UserError
from il2vseg.runtime.events import Event
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink


class JsonlSink(Sink):
    """Writes lines to a file, or to standard output for `-`.

    Every line goes to the system at once and in one piece, so a killed process leaves whole lines only;
    what a full disk cut off is taken back.
    """

    name = "jsonl"

    def __init__(self, path: str | Path) -> None:
        """Create the file.

        Raises:
            UserError: it cannot be written.
        """
        path = Path(path)
        self._standard_output = str(path) == "-"
        if self._standard_output:
            self._fd = sys.stdout.fileno()
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666
            )
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None

    def write(self, result: Result) -> None:
        self._line(result.record)

    def event(self, event: Event) -> None:
        self._line(event.to_dict())

    def _line(self, value: dict[str, Any]) -> None:
        data = (json.dumps(value, allow_nan=False) + "\n").encode()
        status = os.fstat(self._fd)
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            if stat.S_ISREG(status.st_mode):
                os.ftruncate(self._fd, status.st_size)
            raise

    def close(self) -> None:
        if not self._standard_output:
            os.close(self._fd)
