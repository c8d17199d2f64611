"""What a training run shows and records: a progress bar, metrics.jsonl, TensorBoard scalars and images."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from il2vseg.base.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

PIXELS = 4
"""Side of a grid cell in the pictures."""


@dataclass
class StepReport:
    """What one optimisation step did.

    Attributes:
        alive: of a stage with prototypes, how many of them label at least one of the step's tokens.
    """

    stage: str
    step: int
    steps: int
    losses: dict[str, float]
    alive: int | None = None


class Monitor:
    """Progress on stderr and records in the output folder. A context manager."""

    def __init__(self, out: Path) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from torch.utils.tensorboard import SummaryWriter

        self._path = out / "metrics.jsonl"
        self._writer = SummaryWriter(str(out / "tensorboard"))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(file=sys.stderr))
        self._stage = ""
        self._total = 0

    def __enter__(self) -> Self:
        self._progress.start()
        self._file = self._path.open("a")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._file.close()
        self._writer.close()

    def begin(self, records: int) -> None:
        """Keep the first `records` lines of metrics.jsonl: those before the state that a run goes on from."""
        self._file.close()
        lines = self._path.read_text().splitlines(keepends=True)[:records] if records else []
        write_text(self._path, "".join(lines))
        self._file = self._path.open("a")
        self._total = records

    def say(self, text: str) -> None:
        """Print one line above the progress bar."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def track(self, title: str, total: int | None = None) -> Callable[[Iterable[T]], Iterable[T]]:
        """Return a wrapper of an iterable that shows its progress."""

        def wrap(items: Iterable[T]) -> Iterator[T]:
            return iter(self._progress.track(items, total=total, description=title))

        return wrap

    def step(self, report: StepReport) -> None:
        """Record a step and move the bar."""
        if report.stage != self._stage:
            self._stage = report.stage
            self._task = self._progress.add_task(report.stage, total=report.steps)
        shown = " ".join(f"{k} {v:+.3f}" for k, v in report.losses.items())
        if report.alive is not None:
            shown = f"{report.alive} classes alive  {shown}"
        self._progress.update(self._task, completed=report.step + 1, description=f"{report.stage}  {shown}")
        record = {"stage": report.stage, "step": report.step, **report.losses}
        if report.alive is not None:
            record["alive"] = report.alive
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self._total += 1
        for name, value in report.losses.items():
            self._writer.add_scalar(f"loss/{name}", value, self._total)
        if report.alive is not None:
            self._writer.add_scalar("prototypes/alive", report.alive, self._total)

    def scores(self, colours: "Tensor", maps: "dict[str, Tensor]") -> None:
        """Record a grid of pictures: a row per image; its colours, its score maps and the prediction.

        Args:
            colours: RGB (B, 3, h, w) in [0, 1].
            maps: class distributions (B, C, h, w); the prediction is that of the last one. A distribution is
                drawn as the mixture of its classes' colours.
        """
        import torch

        from il2vseg.base.palette import default_palette

        last = list(maps.values())[-1]
        palette = torch.tensor(default_palette(last.shape[1]), device=last.device).float() / 255.0
        prediction = torch.nn.functional.one_hot(last.argmax(1), last.shape[1]).movedim(3, 1).float()
        columns = [torch.einsum("bchw,cr->brhw", m, palette) for m in (*maps.values(), prediction)]
        row = torch.cat([colours, *columns], 3)
        sheet = torch.cat(list(row), 1).repeat_interleave(PIXELS, 1).repeat_interleave(PIXELS, 2)
        title = "frames, " + ", ".join(maps) + ", prediction"
        self._writer.add_image(title, sheet.clamp(0.0, 1.0).cpu(), self._total)


class Silence(Monitor):
    """The monitor of all processes but the main one: shows and records nothing."""

    def __init__(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, records: int) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def track(self, title: str, total: int | None = None) -> Callable[[Iterable[T]], Iterable[T]]:
        """Return the identity."""
        return lambda items: items

    def step(self, report: StepReport) -> None:
        """Do nothing."""

    def scores(self, colours: "Tensor", maps: "dict[str, Tensor]") -> None:
        """Do nothing."""
