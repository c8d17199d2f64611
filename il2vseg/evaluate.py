"""`python -m il2vseg.evaluate`: score a checkpoint, or an export of it, on a data set with masks.

One confusion matrix for the whole split. Clusters are matched to classes one to one (Hungarian, the
literature's) and many to one; `--assignment` scores with a mapping that was found on another split. Several
splits, `--split val val_dusk`, are scored under one assignment: a class is one class by day and at dusk.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.command import IGNORE_MASK_HELP, MAX_COUNT, MAX_SEED, Settings, flag, parse
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.files import require_writable_dir, write_json
from il2vseg.base.ignore import IgnoreMask
from il2vseg.base.mounting import camera_height_flag, check_mounting, danger_zone_flag, fov_flag, pitch_flag
from il2vseg.base.outputs import footage_files, model_files, protect
from il2vseg.data import Crop, Dataset, open_dataset
from il2vseg.evaluation.metrics import UNASSIGNED, transfer
from il2vseg.evaluation.obstacles import ObstacleScore, table, write_mistakes
from il2vseg.evaluation.scoring import (
    EvaluationReport,
    evaluate,
    evaluate_splits,
    false_alarms,
    obstacle_score,
    splits_table,
)

if TYPE_CHECKING:
    from rich.progress import Progress

    from il2vseg.evaluation.danger import DangerZone
    from il2vseg.models.network import Predictor

__all__ = ["EvaluationReport", "evaluate", "evaluate_splits", "false_alarms", "main", "obstacle_score", "run"]

PROGRAM = "python -m il2vseg.evaluate"
PLOTS = ("iou.png", "confusion.png", "sheet.png", "obstacles.jpg")


@dataclass(frozen=True)
class EvaluateConfig(Settings):
    """Score a model on a data set with masks: accuracy and IoU, one to one and many to one."""

    checkpoint: Path | None = flag(None, "checkpoint folder that il2vseg train wrote", metavar="DIR")
    model: Path | None = flag(
        None, "instead: an export, or one of its files, run as on a device", metavar="DIR|FILE"
    )
    provider: Literal["auto", "cpu", "cuda", "tensorrt", "openvino"] = flag(
        "auto", "which runtime runs --model"
    )
    dataset: str = flag("synthetic", "data set: mastr1325, intcatch, camvid, ..., synthetic")
    root: Path | None = flag(None, "folder of the data set")
    split: tuple[str, ...] = flag(
        ("val",), "split with masks, or several to be scored under one assignment", metavar="SPLIT"
    )
    ignore_mask: str | None = flag(None, IGNORE_MASK_HELP, metavar="FILE|POLYGON")
    crop: Crop = flag("none", "score whole images, their central squares, or five crops of each")
    alpha: float | None = flag(
        None, "weight of the low-level branch; default: the checkpoint's", low=0, high=1
    )
    flip: bool = flag(False, "average the scores with those of the mirrored frame")
    crf: bool = flag(False, "refine with a dense CRF (extra `crf`)")
    protocol: Literal["own", "paper"] = flag(
        "own",
        "paper: evaluate as the literature does, by cosine mini-batch k-means of the embeddings (one cluster "
        "per class) instead of the trained prototypes, bilinear upsampling and a dense CRF",
    )
    cluster_split: str | None = flag(
        None,
        "with --protocol paper, the split to be clustered; default: those that are scored",
        metavar="SPLIT",
    )
    assignment: Path | None = flag(
        None, "use the cluster-to-class mapping in this JSON, found on another split"
    )
    by_name: bool = flag(
        False, "match clusters to classes by the names that il2vseg-name gave them; unsure counts as wrong"
    )
    obstacles: bool = flag(
        False,
        "also count what stands in the water or on the road: found, missed, false alarms; `--dataset folder` "
        "is footage without obstacles, where each is a false alarm; of clips also those "
        "that remain when they are followed over time as il2vseg-run does",
    )
    danger_zone: float | None = danger_zone_flag(
        "with --obstacles, also count those no farther than this (MODS: 15)"
    )
    camera_height: float | None = camera_height_flag()
    fov: float | None = fov_flag("ranges")
    pitch: float | None = pitch_flag()
    batch_size: int = flag(8, "frames per forward pass", low=1, high=4096)
    limit: int | None = flag(None, "at most this many images, evenly spread", low=1, high=MAX_COUNT)
    seed: int = flag(
        0, "seed of the scenes of --dataset synthetic and of --protocol paper", low=0, high=MAX_SEED
    )
    weights: Path | None = flag(None, "weights file of the backbone, where it cannot be downloaded")
    json: Path | None = flag(None, "write the numbers to this file")
    plots: Path | None = flag(None, "write IoU bars, confusion matrix and a sheet of examples to this folder")


def read_assignment(path: Path, class_names: Sequence[str]) -> NDArray[np.int64]:
    """Read the mapping of clusters to classes from a JSON that this command wrote, by class name.

    Args:
        path: file written with --json.
        class_names: classes to score against; see `metrics.transfer` where they differ.
    Raises:
        UserError: the file is missing or holds no assignment.
    """
    import json

    try:
        found = json.loads(path.read_text())
        assignment, names = [int(c) for c in found["assignment"]], [str(n) for n in found["classes"]]
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; write one with il2vseg evaluate --json on the split that decides"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: holds no assignment; write one with il2vseg evaluate --json") from None
    if any(not UNASSIGNED <= c < len(names) for c in assignment):
        raise UserError(f"{path}: the assignment names classes that the file does not list")
    return transfer(assignment, names, class_names)


def named_assignment(names: Sequence[str], class_names: Sequence[str]) -> NDArray[np.int64]:
    """The mapping of clusters (K,) to classes that their names say; see `metrics.transfer`.

    Raises:
        UserError: no cluster has the name of a class.
    """
    known = tuple(dict.fromkeys(names))
    if not set(known) & set(class_names):
        raise UserError(
            f"--by-name: no cluster is called {', '.join(class_names)}; name them with il2vseg-name"
        )
    return transfer([known.index(name) for name in names], known, class_names)


def open_model(config: EvaluateConfig) -> "Predictor":
    """Load what the configuration names.

    Raises:
        UserError: it is missing, damaged, or cannot run here.
    """
    if config.model is not None:
        from il2vseg.evaluation.exported import ExportedModel

        return ExportedModel.open(config.model, config.provider)
    assert config.checkpoint is not None
    import torch

    from il2vseg.models.checkpoint import load_checkpoint
    from il2vseg.models.segmenter import with_alpha

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = load_checkpoint(config.checkpoint, weights=config.weights).to(device)
    return with_alpha(network, config.alpha)


def check(config: EvaluateConfig) -> None:
    """Refuse flags that contradict each other, and outputs that would replace what is read.

    Raises:
        UserError: there are such.
    """
    if (config.checkpoint is None) == (config.model is None):
        raise UserError("pass --checkpoint DIR or --model DIR|FILE (and not both)")
    if config.model is not None and config.alpha is not None:
        raise UserError(
            "--alpha cannot be changed in an export; pass it to il2vseg-export, or evaluate the checkpoint"
        )
    if config.by_name and config.assignment is not None:
        raise UserError("--by-name and --assignment cannot be used together")
    unmasked = config.obstacles and config.dataset == "folder"
    if config.protocol == "paper" and (config.by_name or config.assignment is not None or unmasked):
        raise UserError(
            "--protocol paper finds clusters of its own and matches them to masks; leave --by-name, "
            "--assignment and --dataset folder out"
        )
    if config.protocol != "paper" and config.cluster_split is not None:
        raise UserError("--cluster-split is for --protocol paper")
    check_zone(config)
    outputs = [] if config.json is None else [config.json]
    if config.plots is not None:
        outputs += [config.plots / name for name in PLOTS]
    models = [*model_files(config.checkpoint), *model_files(config.model)]
    read = [path for path in (config.assignment, config.weights) if path is not None]
    protect(outputs, [*footage_files(config.root), *models, *read])


def check_zone(config: EvaluateConfig) -> None:
    """Refuse a danger zone without what it needs, and a mounting without a danger zone.

    Raises:
        UserError: it is so.
    """
    mounted = any(value is not None for value in (config.camera_height, config.fov, config.pitch))
    if config.danger_zone is None:
        if mounted:
            raise UserError("--camera-height, --fov and --pitch are for --danger-zone METRES")
        return
    if not config.obstacles:
        raise UserError("--danger-zone needs --obstacles")
    if config.crop != "none":
        raise UserError("--danger-zone needs whole frames; leave --crop out")
    if config.dataset != "synthetic":
        check_mounting(config.camera_height, config.fov, config.danger_zone)
    elif mounted:
        raise UserError(
            "--dataset synthetic knows the camera of each scene; leave --camera-height, --fov and --pitch out"
        )


def zone_of(config: EvaluateConfig) -> "DangerZone | None":
    """The danger zone, if there is one."""
    from il2vseg.evaluation.danger import DangerZone

    if config.danger_zone is None:
        return None
    return DangerZone.of(config.danger_zone, config.camera_height, config.fov, config.pitch)


def open_split(config: EvaluateConfig, split: str, labelled: bool = True) -> Dataset:
    """Open a split as the flags say."""
    return open_dataset(
        config.dataset,
        config.root,
        split,
        labelled=labelled,
        seed=config.seed,
        limit=config.limit,
        crop=config.crop,
        ignore=IgnoreMask.of(config.ignore_mask),
    )


def clustered(
    config: EvaluateConfig, model: "Predictor", datasets: Sequence[Dataset], bar: "Progress"
) -> "Predictor":
    """The model with clusters of its embeddings as classes, see `as_in_paper`; `datasets` are scored."""
    from il2vseg.evaluation.protocol import as_in_paper

    split = config.cluster_split
    frames = datasets if split is None else [open_split(config, split, labelled=False)]
    task = bar.add_task("clustering the embeddings", total=sum(map(len, frames)))
    return as_in_paper(
        model,
        frames,
        len(datasets[0].class_names),
        config.seed,
        progress=lambda done: bar.update(task, completed=done),
    )


def run_false_alarms(config: EvaluateConfig) -> ObstacleScore:
    """Run the command on footage without masks and without obstacles."""
    from rich.console import Console

    ignore = IgnoreMask.of(config.ignore_mask)
    dataset = open_dataset(config.dataset, config.root, config.split[0], limit=config.limit, ignore=ignore)
    score = false_alarms(open_model(config), dataset, ignore, zone_of(config))
    if note := dataset.skipped_note():
        print(note, file=sys.stderr)
    Console().print(table(score.counts, f"{config.root}, {score.counts.frames} frames without obstacles"))
    if config.json is not None:
        write_json(config.json, {"obstacles": score.counts.to_json()})
    if config.plots is not None:
        write_mistakes(config.plots / "obstacles.jpg", score.mistakes)
    return score


def run(config: EvaluateConfig) -> EvaluationReport | ObstacleScore:
    """Run the command.

    Returns:
        the report, of all splits together; of footage without masks (`--dataset folder --obstacles`) the
        count of what was found.
    Raises:
        UserError: anything wrong with the flags, the checkpoint or the data.
    """
    check(config)
    for folder in (config.plots, config.json.parent if config.json is not None else None):
        if folder is not None:
            require_writable_dir(folder)
    if config.obstacles and config.dataset == "folder":
        return run_false_alarms(config)
    datasets = [open_split(config, split) for split in config.split]
    names = datasets[0].class_names
    assignment = None if config.assignment is None else read_assignment(config.assignment, names)

    from rich.console import Console
    from rich.progress import Progress

    model = open_model(config)
    if config.by_name:
        assignment = named_assignment(model.class_names, names)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        if config.protocol == "paper":
            model = clustered(config, model, datasets, bar)
        total = sum(map(len, datasets))
        task = bar.add_task(f"evaluating {config.dataset} {' '.join(config.split)}", total=total)
        reports, report = evaluate_splits(
            model,
            datasets,
            flip=config.flip,
            crf=config.crf or config.protocol == "paper",
            batch_size=config.batch_size,
            assignment=assignment,
            obstacles=config.obstacles,
            zone=zone_of(config),
            progress=lambda done: bar.update(task, completed=done),
        )
    show(config, datasets, reports, report, "one to one" if assignment is None else "given")
    if config.json is not None:
        write_json(config.json, to_json(config, reports, report, model.alpha))
    return report


def show(
    config: EvaluateConfig,
    datasets: Sequence[Dataset],
    reports: Sequence[EvaluationReport],
    report: EvaluationReport,
    first: str,
) -> None:
    """Print tables and write plots; `first` says how the assignment was made."""
    from rich.console import Console

    title = f"{config.dataset} {' '.join(config.split)}, {report.images} images"
    Console().print(report.table(title, first))
    if len(reports) > 1:
        Console().print(splits_table(dict(zip(config.split, reports, strict=True)) | {"all": report}, first))
    if report.obstacles is not None:
        Console().print(table(report.obstacles.counts, "what stands on the ground"))
    for dataset in datasets:
        if note := dataset.skipped_note():
            print(note, file=sys.stderr)
    if config.plots is not None:
        report.write_plots(config.plots, title)
        print(f"plots: {config.plots}/iou.png, confusion.png, sheet.png", file=sys.stderr)


def to_json(
    config: EvaluateConfig, reports: Sequence[EvaluationReport], report: EvaluationReport, alpha: float
) -> dict[str, Any]:
    """The numbers of all splits together, the setting, and, of several splits, those of each."""
    several = len(reports) > 1
    setting: dict[str, Any] = {
        "dataset": config.dataset,
        "split": list(config.split) if several else config.split[0],
        "checkpoint": None if config.checkpoint is None else str(config.checkpoint),
        "model": None if config.model is None else str(config.model),
        "alpha": alpha,
        "flip": config.flip,
        "crf": config.crf or config.protocol == "paper",
        "protocol": config.protocol,
    }
    if several:
        setting["splits"] = {name: part.to_json() for name, part in zip(config.split, reports, strict=True)}
    return report.to_json() | setting


def main(argv: list[str] | None = None, prog: str = PROGRAM) -> int:
    """Run `python -m il2vseg.evaluate` and return its exit code."""

    def command() -> None:
        run(parse(EvaluateConfig, prog, argv))

    return run_command(command, prog)


if __name__ == "__main__":
    sys.exit(main())
