"""python -m il2vseg.bench: how long the hot paths take here. `make bench` prints the table."""

import statistics
import tempfile
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from il2vseg.base.command import MAX_SIDE, MAX_THREADS, Settings, flag, parse
from il2vseg.base.errors import run_command
from il2vseg.methods import METHODS, load_method

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from il2vseg.models.segmenter import Segmenter
    from il2vseg.models.whitening import Whitening

PROGRAM = "python -m il2vseg.bench"

Cases = dict[str, Callable[[], object]]
Key = TypeVar("Key", bound=Hashable)

BACKBONE = "backbone alone, eager"
STEP = "step, {}, cached tokens"
WHOLE = STEP.format("joint")
NO_CORR, NO_EIGEN = "joint without L_corr", "joint without L_fs and L_reg"
NO_FUSED, NO_BRANCH = "joint without L_fused", "joint without L_fs, L_reg, L_fused: no low-level branch"

TURN = 0.02
"""Seconds that a quick case repeats when its turn comes."""


@dataclass
class BenchConfig(Settings):
    """Measure the hot paths: a frame, its low-level branch and a training step, on random data."""

    backbone: str = flag("dinov2_vits14", "feature extractor", metavar="NAME")
    weights: Path | None = flag(None, "weights file of the backbone", metavar="FILE")
    size: tuple[int, int] = flag((336, 448), "input height and width", low=1, high=MAX_SIDE, metavar="PIXELS")
    num_classes: int = flag(12, "classes", low=2, high=255, metavar="K")
    rounds: int = flag(
        7, "times that each case is measured; the median counts", low=1, high=1000, metavar="N"
    )
    threads: int = flag(2, "threads of PyTorch and ONNX Runtime", low=1, high=MAX_THREADS, metavar="N")


def interleaved(cases: Mapping[Key, Callable[[], object]], rounds: int) -> dict[Key, float]:
    """Median milliseconds of each case.

    The cases take turns, so that whatever else the machine does falls on all of them alike. A quick one
    repeats for the TURN: its first call finds other cases' data in the caches.
    """
    times: dict[Key, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()
    for _ in range(rounds):
        for name, case in cases.items():
            begun, spent, calls = time.perf_counter(), 0.0, 0
            while spent < TURN:
                case()
                spent, calls = time.perf_counter() - begun, calls + 1
            times[name].append(1e3 * spent / calls)
    return {name: statistics.median(values) for name, values in times.items()}


def random_segmenter(config: BenchConfig) -> "Segmenter":
    """A model of the configured shape whose trained part is random: speed does not depend on it."""
    import torch

    from il2vseg.models.backbones import build_backbone
    from il2vseg.models.segmenter import Classifier, Segmenter
    from il2vseg.models.spec import LowLevelSpec, ModelSpec
    from il2vseg.models.weights import resolve_weights

    backbone = build_backbone(config.backbone, config.size, resolve_weights(config.backbone, config.weights))
    classifier = Classifier(whitening_of(backbone.dim), config.num_classes)
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


def whitening_of(dim: int, components: int = 16) -> "Whitening":
    """A random whitening of tokens of `dim` channels."""
    import torch

    from il2vseg.models.whitening import Whitening

    whitening = Whitening(dim, components, centre=True)
    whitening.basis.copy_(torch.randn(components, dim))
    return whitening


def frame_cases(segmenter: "Segmenter", model: Path, threads: int) -> Cases:
    """One frame: the eager model, its parts, and its exported graph (written to `model`)."""
    import torch

    from il2vseg.export.graph import export_onnx
    from il2vseg.export.runners import onnx_runner
    from il2vseg.models.eager import EagerBackend
    from il2vseg.models.segmenter import low_level_scores

    export_onnx(segmenter, model)
    eager, exported = EagerBackend(segmenter), onnx_runner(model, threads)
    images = torch.rand(1, 3, *segmenter.size)
    frame = (images.permute(0, 2, 3, 1) * 255).byte().numpy()
    colours = torch.rand(1, 3, *segmenter.grid)
    p_seg = torch.rand(1, len(segmenter.class_names), *segmenter.grid).softmax(1)

    def backbone() -> object:
        with torch.inference_mode():
            return segmenter.backbone(images)

    def low_level() -> object:
        with torch.inference_mode():
            return low_level_scores(colours, p_seg, segmenter.spec.low_level)

    return {
        "frame, eager": lambda: eager(frame),
        "frame, ONNX Runtime": lambda: exported(frame),
        BACKBONE: backbone,
        "low-level branch alone, eager": low_level,
    }


class RandomStore:
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
    """One optimisation step of the last stage of every method, and of joint's without some losses."""
    from il2vseg.learning.trainer import Trainer
    from il2vseg.methods.base import Method, Recipe
    from il2vseg.methods.joint import FusedSmoothness, Joint

    store = RandomStore(32, grid, dim)

    def case(method: Method) -> Callable[[], object]:
        trainer = Trainer(store, whitening_of(dim), Recipe(method, num_classes=num_classes))
        stage = list(trainer.stages)[-1]
        trainer.begin(stage)
        return lambda: trainer.step(stage, 0)

    def without(**changes: float) -> Callable[[], object]:
        return case(Joint(smoothness=FusedSmoothness(**changes)))  # type: ignore[arg-type]

    methods = {name: load_method(name)() for name in METHODS}
    return {
        **{STEP.format(name): case(method) for name, method in methods.items() if method.stages()},
        NO_CORR: without(correspondence_weight=0.0),
        NO_EIGEN: without(gamma=0.0, beta=0.0),
        NO_FUSED: without(fused_weight=0.0),
        NO_BRANCH: without(gamma=0.0, beta=0.0, fused_weight=0.0),
    }


def loss_shares(medians: Mapping[str, float]) -> dict[str, float]:
    """The share of a joint step, in %, that each loss takes: what the step saves without it."""
    whole = medians[WHOLE]
    corr, eigen, fused = (whole - medians[name] for name in (NO_CORR, NO_EIGEN, NO_FUSED))
    branch = whole - medians[NO_BRANCH] - eigen - fused
    saved = {
        "L_corr": corr,
        "L_fs + L_reg": eigen,
        "L_fused": fused,
        "low-level branch": branch,
        "L_smo, data term, tokens, optimiser": whole - corr - eigen - fused - branch,
    }
    return {name: 100.0 * value / whole for name, value in saved.items()}


def uncached_step(medians: Mapping[str, float], backbone: float) -> float:
    """Milliseconds of a joint step whose frames and jittered copies pass the backbone first.

    Args:
        backbone: milliseconds of one frame.
    """
    from il2vseg.methods.base import Recipe

    return medians[WHOLE] + 2 * Recipe.batch * backbone


def coco_memory() -> dict[str, float]:
    """Peak GiB of a training step of COCO-Stuff size: 320x320, 27 classes, by backbone and batch."""
    from il2vseg.learning.memory import GIB, step_memory
    from il2vseg.methods.base import Recipe
    from il2vseg.methods.joint import Joint

    recipe = Recipe(Joint(), num_classes=27)
    sizes = {"ViT-S/8": 384, "ViT-B/8": 768}
    return {
        f"{name}, batch {batch}": step_memory(recipe, batch, (40, 40), dim) / GIB
        for name, dim in sizes.items()
        for batch in (16, 32)
    }


def bench(config: BenchConfig) -> None:
    """Measure and print one table."""
    import torch
    from rich.console import Console

    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    console = Console()
    with tempfile.TemporaryDirectory() as folder, console.status("measuring"):
        segmenter = random_segmenter(config)
        backbone = segmenter.backbone
        medians = interleaved(
            frame_cases(segmenter, Path(folder) / "model.onnx", config.threads), config.rounds
        )
        steps = interleaved(training_cases(backbone.grid, backbone.dim, config.num_classes), config.rounds)
        medians |= steps
        medians["step, il2vseg, uncached tokens"] = uncached_step(steps, medians[BACKBONE])
        memory = coco_memory()
    height, width = config.size
    title = f"{config.backbone}, {height}x{width}, {config.num_classes} classes, {config.threads} threads"
    console.print(_table(title, "median ms", medians, "{:.1f}"))
    console.print(_table("of a joint step", "%", loss_shares(steps), "{:.0f}"))
    console.print(_table("peak memory of a step, 320x320, 27 classes", "GiB", memory, "{:.2f}"))


def _table(title: str, unit: str, values: Mapping[str, float], form: str) -> "Table":
    from rich.table import Table

    table = Table(title=title)
    table.add_column("")
    table.add_column(unit, justify="right")
    for name, value in values.items():
        table.add_row(name, form.format(value))
    return table


def main(argv: list[str] | None = None, prog: str = PROGRAM) -> int:
    """Run the command."""
    return run_command(lambda: bench(parse(BenchConfig, prog, argv)), prog)


if __name__ == "__main__":
    raise SystemExit(main())
