"""What a training run shows and records: a progress bar, metrics.jsonl, TensorBoard scalars and images."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from il2vseg.base.files import write_text
from il2vseg.base.images import write_image
from il2vseg.base.progress import Form, open_progress

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

PIXELS = 4
"""Side of a grid cell in the pictures."""

PICTURE_NAME = "progress.png"
"""The newest picture of the scores, for a program that shows it."""


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

    def __init__(self, out: Path, form: Form = "bar") -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path = out / "metrics.jsonl"
        self._picture = out / PICTURE_NAME if form == "json" else None
        self._writer = SummaryWriter(str(out / "tensorboard"))
        self._progress = open_progress(form)
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
        self._progress.say(text)

    def track(self, title: str, total: int | None = None) -> Callable[[Iterable[T]], Iterable[T]]:
        """Return a wrapper of an iterable that shows its progress."""

        def wrap(items: Iterable[T]) -> Iterator[T]:
            return iter(self._progress.track(items, total, title))

        return wrap

    def step(self, report: StepReport) -> None:
        """Record a step and move the bar."""
        self._progress.step(report.stage, report.step + 1, report.steps, report.losses, report.alive)
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
        picture = sheet.clamp(0.0, 1.0).cpu()
        self._writer.add_image(title, picture, self._total)
        if self._picture is not None:
            bgr = (picture.flip(0) * 255.0).round().byte().permute(1, 2, 0).contiguous().numpy()
            write_image(self._picture, bgr)


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
