"""python -m il2vseg.experiment: grids of trainings, each scored, in one table.

Trainings and their scores are kept, so that an interrupted grid goes on where it stopped, and grids of one
data set share what they have in common.
"""

import csv
import dataclasses
import io
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, Literal

from il2vseg.base.command import (
    MAX_COUNT,
    MAX_SIDE,
    Settings,
    flag,
    parse,
    read_yaml,
    to_dict,
    to_yaml,
)
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.files import require_writable_dir, write_json, write_text
from il2vseg.methods import METHODS
from il2vseg.models.spec import PREDICTION_ALPHA, LowLevelSpec
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
        "trained on each site and scored on every other",
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


@dataclass(frozen=True)
class Variant:
    """A row of the table: settings of the training, of its recipe, and of the branch at prediction.

    Attributes:
        recipe: settings by their paths, see `Recipe.changed`.
        alpha, low_level: changes to what the training left in its checkpoint.
        curve: of a sweep, the name of its curve and the place on it.
    """

    name: str
    train: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    alpha: float | None = None
    low_level: dict[str, Any] = field(default_factory=dict)
    curve: tuple[str, float] | None = None

    @property
    def run_name(self) -> str:
        """Folder of its runs; variants that differ only at prediction share one."""
        return _name({**self.train, **self.recipe}) or "default"

    @property
    def scores_name(self) -> str:
        """File of its scores in a run's folder."""
        at_prediction = {} if self.alpha is None else {"alpha": self.alpha}
        return "-".join(filter(None, ("scores", _name(at_prediction | self.low_level)))) + ".json"


def _name(changes: dict[str, Any]) -> str:
    return "_".join(f"{k}-{v}" for k, v in changes.items())


WITHOUT_BRANCH: dict[str, Any] = {"alpha": 0.0, "low_level": {"refine": 0}}
WITH_BRANCH: dict[str, Any] = {"alpha": PREDICTION_ALPHA, "low_level": {"refine": LowLevelSpec().refine}}


def _ablation() -> list[Variant]:
    """The losses of the paper's Table 4 and L_fused, each with and without the branch at prediction."""
    smoothness = "method.smoothness"
    no_corr = {"method.correspondence.steps": 0, f"{smoothness}.correspondence_weight": 0.0}
    no_eigen = {f"{smoothness}.gamma": 0.0, f"{smoothness}.beta": 0.0}
    no_fused = {f"{smoothness}.fused_weight": 0.0}
    trainings: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("none (prototypes)", {"method": "kmeans"}, {}),
        ("L_smo", {}, no_corr | no_eigen | no_fused),
        ("L_smo + L_fs + L_reg", {}, no_corr | no_fused),
        ("L_corr", {"method": "stego"}, {}),
        ("L_smo + L_corr", {}, no_eigen | no_fused),
        ("L_smo + L_corr + L_fs + L_reg (paper)", {}, no_fused),
        ("L_smo + L_corr + L_fused", {}, no_eigen),
        ("all", {}, {}),
    ]
    return [
        Variant(f"{name}{suffix}", train, recipe, **branch)
        for name, train, recipe in trainings
        for suffix, branch in (("", WITHOUT_BRANCH), (" + branch", WITH_BRANCH))
    ]


def _alpha() -> list[Variant]:
    """α in training (prediction at its default), at prediction (training at its default), in both."""
    values = (0.0, 0.25, 0.5, 0.75, 1.0)
    trained = {a: {f"method.smoothness.{name}": a for name in ("train_alpha", "fused_alpha")} for a in values}
    return [
        *(Variant(f"training α = {a:g}", {}, trained[a], curve=("training", a)) for a in values),
        *(Variant(f"prediction α = {a:g}", alpha=a, curve=("prediction", a)) for a in values),
        *(Variant(f"both α = {a:g}", {}, trained[a], a, curve=("both", a)) for a in values),
    ]


def _low_level() -> list[Variant]:
    """Forms of the low-level branch, all on the same trainings."""
    literal = {"space": "rgb", "xy_weight": 0.0, "prior": "none", "sigma": 0.1}
    forms: list[tuple[str, float, dict[str, Any]]] = [
        ("no branch", 0.0, {"refine": 0}),
        ("F_l of the paper, α = 0.5", 0.5, literal | {"refine": 0}),
        ("F_l, α = 0.3", 0.3, {"refine": 0}),
        ("F_l, α = 0.15", 0.15, {"refine": 0}),
        ("guided, 1 cell", 0.0, {"refine": 1}),
        ("guided, ε = 0.01", 0.0, {"refine": 2, "refine_eps": 0.01}),
        ("guided", 0.0, {"refine": 2}),
        ("guided, F_l, α = 0.15", 0.15, {"refine": 2}),
        ("guided, F_l, α = 0.3", 0.3, {"refine": 2}),
    ]
    return [Variant(name, alpha=alpha, low_level=changes) for name, alpha, changes in forms]


def _backbones() -> list[Variant]:
    from il2vseg.models.backbones import BACKBONES

    return [Variant(name, {"backbone": name}) for name, spec in BACKBONES.items() if not spec.random]


def _transfer() -> list[Variant]:
    """Every method with what it chooses for itself, and plain clusters in the form that transfers best."""
    centred = {"method": "kmeans", "centre": True, "whitening": 128}
    return [
        *(Variant(name, {} if name == TrainConfig.method else {"method": name}) for name in METHODS),
        Variant("kmeans, centred, 128 dimensions", centred),
        Variant("the same, prototypes adapted to the image", centred | {"adapt": True}),
    ]


def variants(grid: str) -> list[Variant]:
    """The rows of a grid."""
    if grid == "backbones":
        return _backbones()
    return {
        "methods": [
            Variant(name, {} if name == TrainConfig.method else {"method": name}) for name in METHODS
        ],
        "ablation": _ablation(),
        "alpha": _alpha(),
        "low-level": _low_level(),
        "seeds": [Variant("il2vseg")],
        "transfer": _transfer(),
    }[grid]


CONSISTENCY_FRAMES = 30
"""Unlabelled frames on which forms of the low-level branch are compared without masks."""

METRICS = (
    "consistency",
    "accuracy",
    "miou",
    "many_to_one",
    "boundary_f2",
    "boundary_f5",
    "water_edge",
    "transfer_water_iou",
)
HEADINGS = (
    "outlines like those at twice the size (no masks)",
    "Acc",
    "mIoU",
    "mIoU many-to-one",
    "boundary F (2 px)",
    "boundary F (5 px)",
    "water edge RMSE (px)",
    "water IoU elsewhere",
)


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


def shown(values: list[float | None]) -> str:
    """Mean and, of several seeds, standard deviation: "68.9 ± 0.8"; "" without values."""
    known = [v for v in values if v is not None]
    if not known:
        return ""
    return f"{mean(known):.1f}" + (f" ± {stdev(known):.1f}" if len(known) > 1 else "")


def markdown(results: dict[str, list[dict[str, Any]]]) -> str:
    """The table of all variants, with the mIoU of every seed; columns without values are left out."""
    columns = [
        i
        for i, m in enumerate(METRICS)
        if any(r.get(m) is not None for rows in results.values() for r in rows)
    ]
    seeds = len(next(iter(results.values())))
    header = ["", *(HEADINGS[i] for i in columns), f"mIoU of seeds 0-{seeds - 1}"]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for name, rows in results.items():
        cells = [shown([r.get(METRICS[i]) for r in rows]) for i in columns]
        cells.append(", ".join(f"{r['miou']:.1f}" for r in rows))
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines) + "\n"


def plot(grid: list[Variant], results: dict[str, list[dict[str, Any]]], path: Path, title: str) -> None:
    """Draw the mean mIoU with a dot for every seed: curves of a sweep, else bars."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    miou = {name: [r["miou"] for r in rows] for name, rows in results.items()}
    curves: dict[str, list[tuple[float, list[float]]]] = {}
    for variant in grid:
        if variant.curve is not None:
            curves.setdefault(variant.curve[0], []).append((variant.curve[1], miou[variant.name]))
    height = 4.0 if curves else 1.0 + 0.3 * len(miou)
    figure, axes = plt.subplots(figsize=(7, height), layout="constrained")
    for name, points in curves.items():
        (line,) = axes.plot([x for x, _ in points], [mean(values) for _, values in points], label=name)
        for x, values in points:
            axes.plot([x] * len(values), values, "o", color=line.get_color(), markersize=3, alpha=0.6)
    if curves:
        axes.set_xlabel("α")
        axes.set_ylabel("mIoU (%)")
        axes.legend(frameon=False)
    else:
        for i, values in enumerate(miou.values()):
            axes.barh(i, mean(values), color="#4c78a8", alpha=0.6)
            axes.plot(values, [i] * len(values), "o", color="#1f3d5c", markersize=3)
        axes.set_yticks(range(len(miou)), list(miou))
        axes.invert_yaxis()
        axes.set_xlabel("mIoU (%)")
    axes.set_title(title)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def check_settings(config: ExperimentConfig, out: Path) -> None:
    """Make sure that the results kept in `out` are of the same settings; write those of a new folder.

    Raises:
        UserError: they are not.
    """
    path = out / "settings.yaml"
    ours = {k: v for k, v in to_dict(config).items() if k not in ("grid", "seeds", "out")}
    if path.exists():
        theirs = read_yaml(path)
        changed = [k for k in ours if ours[k] != theirs.get(k)]
        if changed:
            raise UserError(
                f"{out} holds results of other settings ({', '.join(changed)}); use another --out"
            )
    else:
        write_text(path, to_yaml(replace(config, out=None)))


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
    check_settings(config, out)
    grid = with_weights(variants(config.grid))
    if config.grid == "transfer":
        from il2vseg.evaluation.transfer import run_transfer, write

        return write(run_transfer(config, grid, out, training_of(config), train, load_cached), out, shown)
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


def main(argv: list[str] | None = None, prog: str = PROGRAM) -> int:
    """Entry point of `python -m il2vseg.experiment`."""
    return run_command(lambda: print(run(parse(ExperimentConfig, prog, argv))), prog)


if __name__ == "__main__":
    raise SystemExit(main())
