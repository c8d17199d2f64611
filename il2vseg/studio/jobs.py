"""The long commands of a project (train, distill, export): started, watched, stopped, found again.

A job is a folder: job.json says what was started, log what it said (with `--progress json` one object per
line), lock is held while it runs, code is its exit code. A studio that starts later sees the same.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from il2vseg.base.errors import UserError
from il2vseg.base.files import write_json
from il2vseg.studio.steps import as_typed

LOSSES_SHOWN = 400
MESSAGES_SHOWN = 12
_START_S = 20.0
"""Within so long a new process takes its lock."""


@dataclass(frozen=True)
class Report:
    """What is known of a job.

    Attributes:
        state: none, running, done, failed, or interrupted (it ended without saying how).
        code: its exit code. command: as a person would type it. facts: what its starter noted.
        stage, done, total: what it does now. seconds: since its start, or how long it took.
        messages: the last things that it said. losses: (step, its losses), thinned.
    """

    state: str = "none"
    code: int | None = None
    command: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    stage: str = ""
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    messages: tuple[str, ...] = ()
    losses: tuple[tuple[int, dict[str, float]], ...] = ()


class Job:
    """One kind of job of a project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, words: Sequence[str], facts: dict[str, Any] | None = None) -> None:
        """Start `il2vseg WORDS`.

        Args:
            facts: to be told by `report`.
        Raises:
            UserError: it runs already.
        """
        if self.running():
            raise UserError("this step runs already")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        command = [sys.executable, "-m", "il2vseg.studio.runner", str(self.folder), *words]
        # A session of its own: Ctrl-C on the studio, or its end, does not end hours of training.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "log").open("ab"),
            start_new_session=True,
        )
        self._process = process
        started = {"pid": process.pid, "started": time.time(), "command": as_typed(words)}
        write_json(self.folder / "job.json", started | {"facts": facts or {}})

    def running(self) -> bool:
        """Whether it runs: its lock is held, or is about to be."""
        values = self._values()
        if not values:
            return False
        if self._process is not None and self._process.poll() is not None:
            return False
        if (self.folder / "code").exists():
            return False
        return self._held() or (self._process is not None and time.time() - values["started"] < _START_S)

    def _held(self) -> bool:
        with suppress(FileNotFoundError), (self.folder / "lock").open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def stop(self) -> None:
        """Ask it to end, as Ctrl-C does.

        Raises:
            UserError: it does not run.
        """
        if not self._held():
            raise UserError("this step does not run")
        with suppress(ProcessLookupError):
            os.killpg(self._values()["pid"], signal.SIGINT)

    def _values(self) -> dict[str, Any]:
        try:
            values: dict[str, Any] = json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values

    def report(self) -> Report:
        """What is known of it."""
        values = self._values()
        if not values:
            return Report()
        running = self.running()
        code = None
        with suppress(OSError, ValueError):
            code = int((self.folder / "code").read_text())
        state = {None: "interrupted", 0: "done", 130: "interrupted"}.get(code, "failed")
        log = self.folder / "log"
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        end = time.time() if running else (log.stat().st_mtime if log.exists() else values["started"])
        return Report(
            state="running" if running else state,
            code=code,
            command=values["command"],
            facts=values["facts"],
            seconds=max(0.0, end - values["started"]),
            **read_log(text),
        )


def read_log(text: str) -> dict[str, Any]:
    """What a log says: stage, done, total, messages and losses; a line that is cut off is left out."""
    progress: dict[str, Any] = {"stage": "", "done": 0, "total": 0}
    messages: list[str] = []
    losses: list[tuple[int, dict[str, float]]] = []
    for line in text.splitlines():
        if not line.startswith("{"):
            if line.strip():
                messages.append(line.rstrip())
            continue
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if "say" in record:
            messages.append(str(record["say"]))
        else:
            progress = {"stage": record["stage"], "done": record["done"], "total": record["total"] or 0}
            if record.get("losses"):
                losses.append((len(losses), record["losses"]))
    every = max(1, -(-len(losses) // LOSSES_SHOWN))
    return progress | {"messages": tuple(messages[-MESSAGES_SHOWN:]), "losses": tuple(losses[::every])}
