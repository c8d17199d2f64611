"""How long commands show their progress on standard error: a bar for people, or one JSON object per line.

{"stage": "features", "done": 12, "total": 281}
{"stage": "stego", "done": 40, "total": 600, "losses": {"corr": -0.12}}
{"say": "whitening: 32 dimensions"}
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol, TypeVar

T = TypeVar("T")

Form = Literal["bar", "json"]
PROGRESS_HELP = "how progress is shown on standard error; json: one object per line, for programs"
_EVERY_S = 0.2


def emit(**record: Any) -> None:
    """Write one JSON object and end the line."""
    print(json.dumps(record), file=sys.stderr, flush=True)


class Progress(Protocol):
    """What a running command says about itself."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def say(self, text: str) -> None:
        """Say one line."""
        ...

    def track(self, items: Iterable[T], total: int | None, title: str) -> Iterable[T]:
        """Show how far the iteration over `items` is."""
        ...

    def step(self, stage: str, done: int, total: int, losses: Mapping[str, float], alive: int | None) -> None:
        """Show a step of a stage; `alive`: how many prototypes label at least one token."""
        ...


class Bar:
    """A bar of rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(file=sys.stderr))
        self._stage = ""

    def start(self) -> None:
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Say one line, above the bar."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def track(self, items: Iterable[T], total: int | None, title: str) -> Iterable[T]:
        """See `Progress`."""
        return self._progress.track(items, total=total, description=title)

    def step(self, stage: str, done: int, total: int, losses: Mapping[str, float], alive: int | None) -> None:
        """See `Progress`."""
        if stage != self._stage:
            self._stage = stage
            self._task = self._progress.add_task(stage, total=total)
        shown = " ".join(f"{k} {v:+.3f}" for k, v in losses.items())
        if alive is not None:
            shown = f"{alive} classes alive  {shown}"
        self._progress.update(self._task, completed=done, description=f"{stage}  {shown}")


class Lines:
    """JSON, one object per line."""

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def say(self, text: str) -> None:
        """Say one line."""
        emit(say=text)

    def track(self, items: Iterable[T], total: int | None, title: str) -> Iterator[T]:
        """See `Progress`; a few lines per second."""
        done, last = 0, time.monotonic()
        emit(stage=title, done=0, total=total)
        for item in items:
            yield item
            done += 1
            if time.monotonic() - last >= _EVERY_S:
                last = time.monotonic()
                emit(stage=title, done=done, total=total)
        emit(stage=title, done=done, total=total)

    def step(self, stage: str, done: int, total: int, losses: Mapping[str, float], alive: int | None) -> None:
        """See `Progress`."""
        emit(stage=stage, done=done, total=total, losses=dict(losses), alive=alive)


def open_progress(form: Form) -> Progress:
    """Progress of a form."""
    return Bar() if form == "bar" else Lines()


class _Said:
    """The status of a console, as JSON."""

    def __init__(self, text: str) -> None:
        self.update(text)

    def update(self, text: str) -> None:
        """Go on with something else."""
        if text:
            emit(stage=text, done=0, total=None)


class Stages:
    """What a command does now, for commands without steps to count: `with stages.status("...") as status`."""

    def __init__(self, form: Form = "bar") -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._form = form

    def status(self, text: str) -> AbstractContextManager[Any]:
        """Show what is done inside; `status.update(text)` goes on with something else."""
        return self._console.status(text) if self._form == "bar" else nullcontext(_Said(text))

    def print(self, *what: Any, **options: Any) -> None:
        """Print as a console of rich does."""
        self._console.print(*what, **options)
