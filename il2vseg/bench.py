"""python -m il2vseg.bench: how long the hot paths take here. `make bench` prints the table."""

import statistics
import tempfile
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from il2vseg.command import flag, parse
from il2vseg.errors import run_command

if TYPE_CHECKING:
    from torch import Tensor

    from il2vseg.model import Segmenter
    from il2vseg.whitening import Whitening

PROGRAM = "il2vseg.bench"

Cases = dict[str, Callable[[], object]]
Key = TypeVar("Key", bound=Hashable)


@dataclass
class BenchConfig:
    """Measure the hot paths: a frame, its low-level branch and a training step, on random data."""

    backbone: str = flag("dinov2_vits14", "feature extractor", metavar="NAME")
    weights: Path | None = flag(None, "weights file of the backbone", metavar="FILE")
    size: tuple[int, int] = flag((336, 448), "input height and width", metavar="PIXELS")
    num_classes: int = flag(12, "classes", metavar="K")
    rounds: int = flag(7, "times that each case is measured; the median counts", metavar="N")
    threads: int = flag(2, "threads of PyTorch and ONNX Runtime", metavar="N")


def interleaved(cases: Mapping[Key, Callable[[], object]], rounds: int) -> dict[Key, float]:
    """Median milliseconds of each case.

    The cases take turns, so that whatever else the machine does falls on all of them alike.
    """
    times: dict[Key, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()
    for _ in range(rounds):
        for name, case in cases.items():
            begun = time.perf_counter()
            case()
            times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: statistics.median(values) for name, values in times.items()}


def random_segmenter(config: BenchConfig) -> "Segmenter":
    """A model of the configured shape whose trained part is random: speed does not depend on it."""
    import torch

    from il2vseg.backbones import build_backbone
    from il2vseg.model import Classifier, Segmenter
    from il2vseg.spec import LowLevelSpec, ModelSpec
    from il2vseg.weights import resolve_weights

    backbone = build_backbone(config.backbone, config.size, resolve_weights(config.backbone, config.weights))
    classifier = Classifier(_whitening(backbone.dim), config.num_classes)
    classifier.set_prototypes(torch.randn_like(classifier.global_prototypes))
    spec = ModelSpec(
        method="il2vseg",
        backbone=config.backbone,
        weights_sha256="",
        size=config.size,
        class_names=tuple(f"class {i}" for i in range(config.num_classes)),
        alpha=0.5,
        temperature=classifier.temperature,
        centre=True,
        low_level=LowLevelSpec(),
        training_data="none",
    )
    return Segmenter(backbone, classifier, spec).eval()


def _whitening(dim: int, components: int = 16) -> "Whitening":
    import torch

    from il2vseg.whitening import Whitening

    whitening = Whitening(dim, components, centre=True)
    whitening.basis.copy_(torch.randn(components, dim))
    return whitening


def frame_cases(segmenter: "Segmenter", model: Path, threads: int) -> Cases:
    """One frame: the eager model, its parts, and its exported graph (written to `model`)."""
    import torch

    from il2vseg.export.graph import export_onnx
    from il2vseg.export.runners import eager_runner, onnx_runner
    from il2vseg.model import low_level_scores

    export_onnx(segmenter, model)
    eager, exported = eager_runner(segmenter), onnx_runner(model, threads)
    images = torch.rand(1, 3, *segmenter.size)
    frame = (images.permute(0, 2, 3, 1) * 255).byte().numpy()
    colours = torch.rand(1, 3, *segmenter.grid)
    p_seg = torch.rand(1, segmenter.num_classes, *segmenter.grid).softmax(1)

    def backbone() -> object:
        with torch.inference_mode():
            return segmenter.backbone(images)

    def low_level() -> object:
        with torch.inference_mode():
            return low_level_scores(colours, p_seg, segmenter.spec.low_level)

    return {
        "frame, eager": lambda: eager(frame),
        "frame, ONNX Runtime": lambda: exported(frame),
        "backbone alone, eager": backbone,
        "low-level branch alone, eager": low_level,
    }


class RandomBank:
    """Tokens of made-up images in memory, as the trainer reads them."""

    def __init__(self, images: int, grid: tuple[int, int], dim: int) -> None:
        import torch

        self.grid = grid
        self._tokens = torch.randn(images, grid[0] * grid[1], dim)
        self._colours = torch.rand(images, 3, *grid)

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, images: "Tensor") -> "Tensor":
        """Tokens (B, N, D) of the images (B,)."""
        return self._tokens[images]

    def view_tokens(self, images: "Tensor") -> "Tensor":
        """As `tokens`: the jittered copies cost the same."""
        return self._tokens[images]

    def colours(self, images: "Tensor", scale: int) -> "Tensor":
        """RGB (B, 3, h·scale, w·scale)."""
        return self._colours[images].repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def training_cases(grid: tuple[int, int], dim: int, num_classes: int) -> Cases:
    """One optimisation step of each stage, from cached tokens."""
    from il2vseg.training import Recipe, Stage, Trainer

    bank = RandomBank(32, grid, dim)

    def case(recipe: Recipe, stage: Stage) -> Callable[[], object]:
        trainer = Trainer(bank, _whitening(dim), recipe)
        trainer.begin(stage)
        return lambda: trainer.step(stage, 0)

    return {
        "step, stego (correspondence)": case(
            Recipe(method="stego", num_classes=num_classes), "correspondence"
        ),
        "step, smooseg (smoothness)": case(Recipe(method="smooseg", num_classes=num_classes), "smoothness"),
        "step, il2vseg (smoothness)": case(Recipe(method="il2vseg", num_classes=num_classes), "smoothness"),
    }


def bench(config: BenchConfig) -> None:
    """Measure and print one table."""
    import torch
    from rich.console import Console
    from rich.table import Table

    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    console = Console()
    with tempfile.TemporaryDirectory() as folder, console.status("measuring"):
        segmenter = random_segmenter(config)
        backbone = segmenter.backbone
        medians = interleaved(
            frame_cases(segmenter, Path(folder) / "model.onnx", config.threads), config.rounds
        )
        medians |= interleaved(training_cases(backbone.grid, backbone.dim, config.num_classes), config.rounds)
    height, width = config.size
    table = Table(
        title=f"{config.backbone}, {height}x{width}, {config.num_classes} classes, {config.threads} threads"
    )
    table.add_column("case")
    table.add_column("median ms", justify="right")
    for name, milliseconds in medians.items():
        table.add_row(name, f"{milliseconds:.1f}")
    console.print(table)


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    return run_command(lambda: bench(parse(BenchConfig, PROGRAM, argv)), PROGRAM)


if __name__ == "__main__":
    raise SystemExit(main())
