"""python -m il2vseg.experiment: grids of trainings, each scored, in one table.

A run's scores are kept beside its checkpoint, so that an interrupted grid goes on where it stopped.
"""

import csv
import io
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from il2vseg.command import flag, parse
from il2vseg.errors import run_command
from il2vseg.files import require_writable_dir, write_json, write_text
from il2vseg.train import TrainConfig, train

PROGRAM = "il2vseg.experiment"


@dataclass
class ExperimentConfig:
    """Train and score a grid of settings; write results.csv, results.md and results.png."""

    grid: Literal["methods", "ablation", "alpha"] = flag(
        "methods", "methods: the four presets; ablation: without each loss; alpha: weight at prediction"
    )
    dataset: Literal["mastr1325", "intcatch", "camvid", "cityscapes", "cocostuff", "potsdam", "synthetic"] = (
        flag("synthetic", "layout of the data")
    )
    root: Path | None = flag(None, "where the data are", metavar="DIR")
    train_split: str = flag("train", "split to train on")
    split: str = flag("val", "labelled split to score on")
    transfer_split: str | None = flag(
        None, "further split, scored with the classes that --split assigned", metavar="NAME"
    )
    num_classes: int = flag(3, "number of classes", metavar="K")
    backbone: str = flag("dinov2_vits14", "frozen feature extractor", metavar="NAME")
    seeds: int = flag(3, "seeds 0 to N-1", metavar="N")
    limit: int | None = flag(None, "use at most this many frames of every split", metavar="N")
    size: tuple[int, int] | None = flag(None, "input height and width", metavar="PIXELS")
    steps: int | None = flag(None, "optimisation steps; default: the method's own", metavar="N")
    out: Path | None = flag(None, "output folder; default: runs/experiments/DATASET-GRID", metavar="DIR")


@dataclass(frozen=True)
class Variant:
    """A row of the table: settings of the training, of its recipe, and α at prediction."""

    name: str
    train: dict[str, Any]
    recipe: dict[str, Any]
    alpha: float | None = None

    @property
    def run_name(self) -> str:
        """Folder of its runs; variants that differ only at prediction share one."""
        changes = [f"{k}-{v}" for k, v in {**self.train, **self.recipe}.items()]
        return "_".join(changes) or "default"


GRIDS: dict[str, list[Variant]] = {
    "methods": [Variant(m, {"method": m}, {}) for m in ("kmeans", "smooseg", "stego", "il2vseg")],
    "ablation": [
        Variant("all losses", {}, {}),
        Variant("without L_corr", {}, {"correspondence_weight": 0.0}),
        Variant("without L_smo", {}, {"smoothness_weight": 0.0}),
        Variant("without L_fused", {}, {"fused_weight": 0.0}),
        Variant("without L_fs", {}, {"gamma": 0.0}),
        Variant("without L_reg", {}, {"beta": 0.0}),
    ],
    "alpha": [Variant(f"α = {a}", {}, {}, a) for a in (0.0, 0.15, 0.3, 0.5, 0.75, 1.0)],
}

METRICS = ("accuracy", "miou", "many_to_one", "boundary_f2", "water_edge", "transfer_water_iou")
HEADINGS = (
    "Acc",
    "mIoU",
    "mIoU many-to-one",
    "boundary F (2 px)",
    "water edge RMSE (px)",
    "water IoU elsewhere",
)


def run_variant(config: ExperimentConfig, variant: Variant, seed: int, out: Path) -> dict[str, Any]:
    """Train (unless that was done) and score one cell of the grid."""
    from il2vseg.checkpoint import FILE_NAME, load_checkpoint
    from il2vseg.data import open_dataset
    from il2vseg.evaluate import evaluate
    from il2vseg.metrics import transfer

    folder = out / f"{variant.run_name}_seed{seed}"
    scores_file = folder / ("scores.json" if variant.alpha is None else f"scores-alpha{variant.alpha}.json")
    if scores_file.exists():
        known: dict[str, Any] = json.loads(scores_file.read_text())
        return known
    training = TrainConfig(
        dataset=config.dataset,
        root=config.root,
        split=config.train_split,
        num_classes=config.num_classes,
        backbone=config.backbone,
        limit=config.limit,
        size=config.size,
        steps=config.steps,
        seed=seed,
        out=folder,
    )
    if not (folder / FILE_NAME).exists():
        print(f"── {variant.name}, seed {seed}", file=sys.stderr)
        train(replace(training, **variant.train), variant.recipe)
    segmenter = load_checkpoint(folder)
    labelled = open_dataset(config.dataset, config.root, config.split, labelled=True, limit=config.limit)
    report = evaluate(segmenter, labelled, alpha=variant.alpha)
    scores: dict[str, Any] = {
        "accuracy": report.one_to_one.accuracy,
        "miou": report.one_to_one.miou,
        "many_to_one": report.many_to_one.miou,
        "boundary_f2": report.boundary_f[2],
        "water_edge": report.water_edge_rmse,
        "transfer_water_iou": None,
    }
    if config.transfer_split is not None:
        other = open_dataset(
            config.dataset, config.root, config.transfer_split, labelled=True, limit=config.limit
        )
        names = [report.class_names[a] if a >= 0 else "" for a in report.assignment]
        mapped = transfer(report.assignment.tolist(), report.class_names, other.class_names)
        elsewhere = evaluate(segmenter, other, alpha=variant.alpha, assignment=mapped)
        if "water" in names and "water" in other.class_names:
            water = other.class_names.index("water")
            scores["transfer_water_iou"] = elsewhere.one_to_one.per_class_iou[water]
    write_json(scores_file, scores)
    return scores


def shown(values: list[float | None]) -> str:
    """Mean and, of several seeds, standard deviation: "68.9 ± 0.8"; "" without values."""
    known = [v for v in values if v is not None]
    if not known:
        return ""
    return f"{mean(known):.1f}" + (f" ± {stdev(known):.1f}" if len(known) > 1 else "")


def markdown(results: dict[str, list[dict[str, Any]]]) -> str:
    """The table of all variants, with the mIoU of every seed; columns without values are left out."""
    columns = [
        i for i, m in enumerate(METRICS) if any(r[m] is not None for rows in results.values() for r in rows)
    ]
    seeds = len(next(iter(results.values())))
    header = ["", *(HEADINGS[i] for i in columns), f"mIoU of seeds 0-{seeds - 1}"]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for name, rows in results.items():
        cells = [shown([r[METRICS[i]] for r in rows]) for i in columns]
        cells.append(", ".join(f"{r['miou']:.1f}" for r in rows))
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines) + "\n"


def plot(results: dict[str, list[dict[str, Any]]], path: Path, title: str) -> None:
    """Bars of the mean mIoU with a dot for every seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(1.2 + 1.3 * len(results), 4), layout="constrained")
    for i, rows in enumerate(results.values()):
        values = [r["miou"] for r in rows]
        axes.bar(i, mean(values), color="#4c78a8", alpha=0.6)
        axes.plot([i] * len(values), values, "o", color="#1f3d5c", markersize=4)
    axes.set_xticks(range(len(results)), list(results), rotation=20, ha="right")
    axes.set_ylabel("mIoU (%)")
    axes.set_title(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run(config: ExperimentConfig) -> str:
    """Run the grid, write its three files and return the Markdown table."""
    out = require_writable_dir(config.out or Path("runs/experiments") / f"{config.dataset}-{config.grid}")
    results = {
        variant.name: [run_variant(config, variant, seed, out) for seed in range(config.seeds)]
        for variant in GRIDS[config.grid]
    }
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["variant", "seed", *METRICS])
    for name, rows in results.items():
        for seed, row in enumerate(rows):
            writer.writerow([name, seed, *(row[m] for m in METRICS)])
    table = markdown(results)
    write_text(out / "results.csv", buffer.getvalue())
    write_text(out / "results.md", table)
    plot(results, out / "results.png", f"{config.dataset}: {config.grid}")
    return table


def main(argv: list[str] | None = None) -> int:
    """Entry point of `python -m il2vseg.experiment`."""
    return run_command(lambda: print(run(parse(ExperimentConfig, f"python -m {PROGRAM}", argv))), PROGRAM)


if __name__ == "__main__":
    raise SystemExit(main())
