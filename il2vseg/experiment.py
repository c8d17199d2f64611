"""python -m il2vseg.experiment: grids of trainings, each scored, in one table.

Trainings and their scores are kept, so that an interrupted grid goes on where it stopped, and grids of one
data set share what they have in common.
"""

import csv
import dataclasses
import io
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from il2vseg.base.command import (
    MAX_COUNT,
    MAX_SIDE,
    Settings,
    flag,
    parse,
)
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.files import require_writable_dir, write_json, write_text
from il2vseg.evaluation.grids import Variant, check_kept, variants
from il2vseg.evaluation.paper import PaperConfig, run_paper
from il2vseg.evaluation.tables import METRICS, markdown, plot
from il2vseg.train import TrainConfig, train

if TYPE_CHECKING:
    from il2vseg.models.segmenter import Segmenter

PROGRAM = "python -m il2vseg.experiment"


@dataclass
class ExperimentConfig(Settings):
    """Train and score a grid of settings; write GRID.csv, GRID.md and GRID.png."""

    grid: Literal["methods", "ablation", "alpha", "low-level", "seeds", "backbones", "transfer"] = flag(
        dataclasses.MISSING,
        "methods: every method; ablation: which losses and branches are on; alpha: weight of the low-level "
        "branch in training, at prediction and in both; low-level: forms of that branch at prediction; "
        "seeds: one method, ten times; backbones: those whose weights are available; transfer: every method "
        "trained on each site and scored on every other. `paper`, in the same place, runs the paper's tables "
        "and has flags of its own: `paper --help`",
        positional=True,
    )
    dataset: str = flag("synthetic", "layout of the data, one with masks", metavar="NAME")
    root: Path | None = flag(None, "where the data are", metavar="DIR")
    train_split: str = flag("train", "split to train on")
    split: str = flag("val", "labelled split to score on")
    transfer_split: str | None = flag(
        None, "further split, scored with the classes that --split assigned", metavar="NAME"
    )
    sites: tuple[str, ...] | None = flag(
        None, "sites of `transfer` by the frames' names; default: the names up to _", metavar="NAME=REGEX"
    )
    num_classes: int = flag(3, "number of classes", low=2, high=255, metavar="K")
    backbone: str = flag("dinov2_vits14", "frozen feature extractor", metavar="NAME")
    rows: tuple[str, ...] | None = flag(
        None, "run only these rows of the grid; the table of `transfer` keeps the others", metavar="NAME"
    )
    seeds: int | None = flag(
        None, "seeds 0 to N-1; default: 3, of the grid `seeds` 10", low=1, high=1000, metavar="N"
    )
    limit: int | None = flag(
        None, "use at most this many frames of every split", low=2, high=MAX_COUNT, metavar="N"
    )
    size: tuple[int, int] | None = flag(
        None, "input height and width", low=1, high=MAX_SIDE, metavar="PIXELS"
    )
    steps: int | None = flag(
        None, "optimisation steps; default: the method's own", low=0, high=MAX_COUNT, metavar="N"
    )
    out: Path | None = flag(
        None,
        "output folder, one for all grids of a data set; default: runs/experiments/DATASET",
        metavar="DIR",
    )


CONSISTENCY_FRAMES = 30
"""Unlabelled frames on which forms of the low-level branch are compared without masks."""


def load_cached(folder: Path, size: tuple[int, int] | None = None) -> "Segmenter":
    """Load a checkpoint whose backbone looks its tokens up in the feature cache."""
    from il2vseg.learning.features import CachedBackbone, FeatureCache
    from il2vseg.models.checkpoint import load_checkpoint
    from il2vseg.models.segmenter import Segmenter

    segmenter = load_checkpoint(folder, size=size)
    assert isinstance(segmenter, Segmenter), "an experiment trains ViTs only"
    segmenter.backbone = CachedBackbone(FeatureCache(segmenter.backbone, segmenter.spec.weights_sha256))
    return segmenter


def training_of(config: ExperimentConfig) -> TrainConfig:
    """The settings that all trainings of the grid share."""
    return TrainConfig(
        dataset=config.dataset,
        root=config.root,
        split=config.train_split,
        num_classes=config.num_classes,
        backbone=config.backbone,
        limit=config.limit,
        size=config.size,
        steps=config.steps,
    )


def run_variant(config: ExperimentConfig, variant: Variant, seed: int, out: Path) -> dict[str, Any]:
    """Train (unless that was done) and score one cell of the grid."""
    from il2vseg.data import open_dataset
    from il2vseg.evaluate import evaluate
    from il2vseg.evaluation.metrics import transfer
    from il2vseg.models.checkpoint import FILE_NAME

    folder = out / "runs" / f"{variant.run_name}_seed{seed}"
    judged = config.grid == "low-level"
    scores_file = folder / (f"judged-{variant.scores_name}" if judged else variant.scores_name)
    if scores_file.exists():
        known: dict[str, Any] = json.loads(scores_file.read_text())
        return known
    training = replace(training_of(config), seed=seed, out=folder)
    if not (folder / FILE_NAME).exists():
        print(f"── {variant.name}, seed {seed}", file=sys.stderr)
        train(replace(training, **variant.train), variant.recipe)
    segmenter = at_prediction(load_cached(folder), variant.alpha, **variant.low_level)
    labelled = open_dataset(config.dataset, config.root, config.split, labelled=True, limit=config.limit)
    report = evaluate(segmenter, labelled)
    scores: dict[str, Any] = {
        "accuracy": report.one_to_one.accuracy,
        "miou": report.one_to_one.miou,
        "many_to_one": report.many_to_one.miou,
        "boundary_f2": report.boundary_f[2],
        "boundary_f5": report.boundary_f[5],
        "water_edge": report.water_edge_rmse,
        "transfer_water_iou": None,
    }
    if judged:
        scores["consistency"] = consistency(config, folder, segmenter)
    if config.transfer_split is not None:
        other = open_dataset(
            config.dataset, config.root, config.transfer_split, labelled=True, limit=config.limit
        )
        names = [report.class_names[a] if a >= 0 else "" for a in report.assignment]
        mapped = transfer(report.assignment.tolist(), report.class_names, other.class_names)
        elsewhere = evaluate(segmenter, other, assignment=mapped)
        if "water" in names and "water" in other.class_names:
            water = other.class_names.index("water")
            scores["transfer_water_iou"] = elsewhere.one_to_one.per_class_iou[water]
    write_json(scores_file, scores)
    return scores


def at_prediction(segmenter: "Segmenter", alpha: float | None, **low_level: Any) -> "Segmenter":
    """The same model with other settings of its low-level branch, and another weight of it unless None."""
    from il2vseg.models.segmenter import Segmenter

    spec = segmenter.spec
    alpha = spec.alpha if alpha is None else alpha
    spec = replace(spec, alpha=alpha, low_level=replace(spec.low_level, **low_level))
    return Segmenter(segmenter.backbone, segmenter.classifier, spec).eval()


def consistency(config: ExperimentConfig, folder: Path, segmenter: "Segmenter") -> float | None:
    """`outline_consistency` on unlabelled frames, with the plain model at twice the size."""
    from il2vseg.data import open_dataset
    from il2vseg.evaluation.consistency import outline_consistency

    height, width = segmenter.size
    fine = at_prediction(load_cached(folder, (2 * height, 2 * width)), 0.0, refine=0)
    frames = min(CONSISTENCY_FRAMES, config.limit or CONSISTENCY_FRAMES)
    unlabelled = open_dataset(config.dataset, config.root, config.train_split, limit=frames)
    return outline_consistency(segmenter, fine, (sample.frame for sample in unlabelled))


def with_weights(grid: list[Variant]) -> list[Variant]:
    """The rows whose backbone's weights are available; prints which are not.

    Raises:
        UserError: none is left.
    """
    from il2vseg.models.weights import resolve_weights

    usable = []
    for variant in grid:
        try:
            if "backbone" in variant.train:
                resolve_weights(variant.train["backbone"])
            usable.append(variant)
        except UserError as error:
            print(f"{PROGRAM}: left out: {error}", file=sys.stderr)
    if not usable:
        raise UserError("no backbone has its weights available here")
    return usable


def run(config: ExperimentConfig) -> str:
    """Run the grid, write its three files (anew after every seed) and return the Markdown table."""
    out = require_writable_dir(config.out or Path("runs/experiments") / config.dataset)
    check_kept(config, out, ("grid", "rows", "seeds", "out"))
    grid = with_weights(variants(config.grid))
    if config.rows and (unknown := set(config.rows) - {variant.name for variant in grid}):
        raise UserError(f"no row {', '.join(sorted(unknown))}; known: {', '.join(v.name for v in grid)}")
    if config.grid == "transfer":
        from il2vseg.evaluation.transfer import run_transfer

        return run_transfer(config, grid, out, training_of(config), train, load_cached)
    grid = [variant for variant in grid if config.rows is None or variant.name in config.rows]
    results: dict[str, list[dict[str, Any]]] = {variant.name: [] for variant in grid}
    for seed in range(config.seeds or (10 if config.grid == "seeds" else 3)):
        for variant in grid:
            results[variant.name].append(run_variant(config, variant, seed, out))
        table = write_results(config, grid, results, out)
    return table


def write_results(
    config: ExperimentConfig, grid: list[Variant], results: dict[str, list[dict[str, Any]]], out: Path
) -> str:
    """Write GRID.csv, GRID.md and GRID.png; return the Markdown table."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["variant", "seed", *METRICS])
    for name, rows in results.items():
        for seed, row in enumerate(rows):
            writer.writerow([name, seed, *(row.get(m) for m in METRICS)])
    table = markdown(results)
    write_text(out / f"{config.grid}.csv", buffer.getvalue())
    write_text(out / f"{config.grid}.md", table)
    plot(grid, results, out / f"{config.grid}.png", f"{config.dataset}: {config.grid}")
    return table


def paper(config: PaperConfig) -> str:
    """Run the paper's tables, see `run_paper`."""
    return run_paper(config, lambda settings, changes: train(TrainConfig(**settings), changes), load_cached)


def main(argv: list[str] | None = None, prog: str = PROGRAM) -> int:
    """Entry point of `python -m il2vseg.experiment`."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["paper"]:
        return run_command(lambda: print(paper(parse(PaperConfig, f"{prog} paper", arguments[1:]))), prog)
    return run_command(lambda: print(run(parse(ExperimentConfig, prog, argv))), prog)


if __name__ == "__main__":
    raise SystemExit(main())
