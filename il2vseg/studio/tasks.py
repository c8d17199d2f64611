"""Short work of the studio itself, one after the other in a thread: reading, looking, proposing."""

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from il2vseg.base.errors import UserError

Progress = Callable[[int, int], None]
"""Told (done, total)."""


@dataclass
class Task:
    """How far one is.

    Attributes:
        state: waiting, running, done or failed. error: why it failed.
    """

    state: str = "waiting"
    done: int = 0
    total: int = 0
    error: str = ""


class Tasks:
    """Runs tasks, and remembers the last one of every name."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "studio")
        self._lock = threading.Lock()
        self._tasks: dict[str, Task] = {}

    def busy(self, name: str) -> bool:
        """Whether a task of this name waits or runs."""
        with self._lock:
            return name in self._tasks and self._tasks[name].state in ("waiting", "running")

    def failed(self, name: str) -> bool:
        """Whether the last task of this name failed."""
        with self._lock:
            return name in self._tasks and self._tasks[name].state == "failed"

    def forget(self, name: str) -> None:
        """Forget a failure, so that the task may be tried again."""
        with self._lock:
            self._tasks.pop(name, None)

    def start(self, name: str, work: Callable[[Progress], None]) -> None:
        """Run `work` unless one of this name waits or runs."""
        with self._lock:
            if name in self._tasks and self._tasks[name].state in ("waiting", "running"):
                return
            task = self._tasks[name] = Task()
        self._pool.submit(self._run, task, work)

    def _run(self, task: Task, work: Callable[[Progress], None]) -> None:
        def progress(done: int, total: int) -> None:
            task.done, task.total = done, total

        task.state = "running"
        try:
            work(progress)
            task.state = "done"
        except (UserError, OSError) as error:
            task.error, task.state = str(error), "failed"
        except Exception as error:  # ours to mend: the page says so, the terminal says where
            traceback.print_exc()
            task.error, task.state = f"a bug: {error!r}; the terminal says more", "failed"

    def report(self) -> dict[str, dict[str, Any]]:
        """All tasks as plain values."""
        with self._lock:
            return {name: dict(vars(task)) for name, task in self._tasks.items()}

    def wait(self) -> None:
        """Wait until nothing is left to do."""
        self._pool.submit(lambda: None).result()

    def close(self) -> None:
        """Take no more tasks."""
        self._pool.shutdown(wait=False, cancel_futures=True)
