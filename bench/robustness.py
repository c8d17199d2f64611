"""python bench/robustness.py: what brightness, blur, JPEG, noise, rain and roll do to models.

Every model is scored on the same altered frames, at three strengths, by the names of its classes; the worst
case is shown.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from il2vseg.base.command import MAX_COUNT, Settings, flag, parse
from il2vseg.base.errors import run_command
from il2vseg.base.files import require_writable_dir, write_json
from il2vseg.base.images import Frame
from il2vseg.data import IGNORE, Dataset, Sample, open_dataset
from il2vseg.evaluate import named_assignment
from il2vseg.evaluation.scoring import EvaluationReport, evaluate
from il2vseg.learning.views import jpeg, streaks
from il2vseg.models.checkpoint import load_checkpoint

PROGRAM = "bench/robustness.py"

Alter = Callable[[Sample, np.random.Generator], Sample]


@dataclass
class RobustnessConfig(Settings):
    """Score models with named classes on altered frames of a data set with masks."""

    models: tuple[Path, ...] = flag(dataclasses.MISSING, "checkpoints to compare", metavar="DIR")
    dataset: str = flag("synthetic", "data set with masks")
    root: Path | None = flag(None, "folder of the data set", metavar="DIR")
    split: str = flag("val", "split with masks")
    limit: int | None = flag(
        None, "at most this many images, evenly spread", low=1, high=MAX_COUNT, metavar="N"
    )
    out: Path = flag(Path("runs/robustness"), "folder for the numbers and pictures", metavar="DIR")


def on_frame(change: Callable[[Frame, np.random.Generator], Frame]) -> Alter:
    """An alteration of the frame alone."""
    return lambda sample, rng: dataclasses.replace(sample, frame=change(sample.frame, rng))


def brightness(factor: float) -> Alter:
    """Multiply by a factor."""
    return on_frame(lambda frame, _: np.asarray(cv2.convertScaleAbs(frame, alpha=factor), np.uint8))


def blur(sigma: float) -> Alter:
    """Gaussian, `sigma` in pixels of the frame."""
    return on_frame(lambda frame, _: np.asarray(cv2.GaussianBlur(frame, (0, 0), sigma), np.uint8))


def noise(sigma: float) -> Alter:
    """Gaussian, independent in every channel."""
    return on_frame(lambda f, rng: (f + rng.normal(0.0, sigma, f.shape)).clip(0, 255).astype(np.uint8))


def roll(degrees: float) -> Alter:
    """Turn frame and mask about the centre; what comes in from outside is mirrored and not scored."""

    def alter(sample: Sample, _: np.random.Generator) -> Sample:
        assert sample.labels is not None

        def matrix(shape: tuple[int, ...]) -> np.ndarray:
            return cv2.getRotationMatrix2D(((shape[1] - 1) / 2, (shape[0] - 1) / 2), degrees, 1.0)

        frame, labels = sample.frame, sample.labels
        turned = cv2.warpAffine(frame, matrix(frame.shape), frame.shape[1::-1], borderMode=cv2.BORDER_REFLECT)
        truth = cv2.warpAffine(
            labels, matrix(labels.shape), labels.shape[::-1], flags=cv2.INTER_NEAREST, borderValue=IGNORE
        )
        return Sample(sample.name, np.asarray(turned, np.uint8), np.asarray(truth, np.uint8))

    return alter


ALTERATIONS: dict[str, tuple[Alter, Alter, Alter]] = {
    "darker ×0.7, 0.45, 0.25": (brightness(0.7), brightness(0.45), brightness(0.25)),
    "brighter ×1.3, 1.7, 2.2": (brightness(1.3), brightness(1.7), brightness(2.2)),
    "blur σ 1.5, 3, 6 px": (blur(1.5), blur(3), blur(6)),
    "JPEG quality 40, 15, 5": (
        on_frame(lambda f, _: jpeg(f, 40)),
        on_frame(lambda f, _: jpeg(f, 15)),
        on_frame(lambda f, _: jpeg(f, 5)),
    ),
    "noise σ 8, 16, 32": (noise(8), noise(16), noise(32)),
    "rain 0.1, 0.3, 1 % of pixels": (
        on_frame(lambda f, rng: streaks(rng, f, 0.001)),
        on_frame(lambda f, rng: streaks(rng, f, 0.003)),
        on_frame(lambda f, rng: streaks(rng, f, 0.01)),
    ),
    "roll 3, 6, 10°": (roll(3), roll(6), roll(10)),
}


class Altered(Dataset):
    """A data set whose samples are altered as they are read, the same way every time."""

    def __init__(self, inner: Dataset, alter: Alter) -> None:
        self.name, self.class_names, self.palette = inner.name, inner.class_names, inner.palette
        self.skipped, self._length = inner.skipped, len(inner)
        self.inner, self.alter = inner, alter

    def __iter__(self) -> Iterator[Sample]:
        for i, sample in enumerate(self.inner):
            yield self.alter(sample, np.random.default_rng(i))


def robustness(config: RobustnessConfig) -> Table:
    """Score every model under every alteration, write the numbers and the worst case's pictures."""
    out = require_writable_dir(config.out)
    dataset = open_dataset(config.dataset, config.root, config.split, labelled=True, limit=config.limit)
    table = Table(title=f"mean IoU in %, {config.dataset} {config.split}, {len(dataset)} images")
    table.add_column("alteration, weak to strong")
    for model in config.models:
        table.add_column(model.name, justify="right")
    segmenters = [load_checkpoint(model) for model in config.models]
    cases: dict[str, list[Dataset]] = {"none": [dataset]}
    cases |= {name: [Altered(dataset, a) for a in alters] for name, alters in ALTERATIONS.items()}
    numbers: dict[str, dict[str, list[float]]] = {}
    worst: list[EvaluationReport | None] = [None] * len(segmenters)
    for name, variants in cases.items():
        row = []
        for i, (model, segmenter) in enumerate(zip(config.models, segmenters, strict=True)):
            assignment = named_assignment(segmenter.class_names, dataset.class_names)
            reports = [evaluate(segmenter, variant, assignment=assignment) for variant in variants]
            scores = [report.one_to_one.miou for report in reports]
            numbers.setdefault(model.name, {})[name] = scores
            row.append("  ".join(f"{s:.1f}" for s in scores))
            worst[i] = min((r for r in (worst[i], *reports) if r), key=lambda r: r.one_to_one.miou)
        table.add_row(name, *row)
    write_json(out / "robustness.json", numbers)
    for model, report in zip(config.models, worst, strict=True):
        assert report is not None
        report.write_plots(out / f"worst-{model.name}", f"worst case of {model.name}")
    return table


def main(argv: list[str] | None = None) -> int:
    """Run the comparison and print the table."""

    def command() -> None:
        Console().print(robustness(parse(RobustnessConfig, PROGRAM, argv)))

    return run_command(command, PROGRAM)


if __name__ == "__main__":
    raise SystemExit(main())
