"""`python -m il2vseg.evaluate`: score a checkpoint, or an export of it, on a data set with masks.

One confusion matrix for the whole split. Clusters are matched to classes one to one (Hungarian, the
literature's) and many to one; `--assignment` scores with a mapping that was found on another split.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.classes import merge
from il2vseg.base.command import IGNORE_MASK_HELP, MAX_COUNT, MAX_SEED, Settings, flag, parse
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.files import require_writable_dir, write_json
from il2vseg.base.ignore import IgnoreMask
from il2vseg.base.images import (
    Frame,
    Labels,
    decode_frame,
    decode_labels,
    encode_jpeg,
    encode_png,
    resize_frame,
    resize_labels,
)
from il2vseg.base.outputs import footage_files, model_files, protect
from il2vseg.data import Crop, Dataset, Sample, open_dataset
from il2vseg.data.dataset import spread
from il2vseg.evaluation.metrics import (
    IGNORE,
    UNASSIGNED,
    BoundaryScore,
    Confusion,
    Scores,
    WaterEdge,
    apply,
    hungarian,
    many_to_one,
    score,
    transfer,
)
from il2vseg.evaluation.obstacles import SHEET_WIDTH, ObstacleScore, table, write_mistakes
from il2vseg.evaluation.plots import SheetRow, confusion_matrix, iou_bars, sheet

if TYPE_CHECKING:
    from rich.table import Table

    from il2vseg.models.network import Predictor

PROGRAM = "python -m il2vseg.evaluate"
BOUNDARY_TOLERANCES = (2, 5)
PLOTS = ("iou.png", "confusion.png", "sheet.png", "obstacles.jpg")
SHEET_ROWS = 8


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
    split: str = flag("val", "split with masks")
    ignore_mask: str | None = flag(None, IGNORE_MASK_HELP, metavar="FILE|POLYGON")
    crop: Crop = flag("none", "score whole images, their central squares, or five crops of each")
    alpha: float | None = flag(
        None, "weight of the low-level branch; default: the checkpoint's", low=0, high=1
    )
    flip: bool = flag(False, "average the scores with those of the mirrored frame")
    crf: bool = flag(False, "refine with a dense CRF (extra `crf`)")
    assignment: Path | None = flag(
        None, "use the cluster-to-class mapping in this JSON, found on another split"
    )
    by_name: bool = flag(False, "match clusters to classes by the names that il2vseg-name gave them")
    obstacles: bool = flag(
        False,
        "also count what stands in the water: found, missed, false alarms; `--dataset folder` is footage "
        "without obstacles, where each is a false alarm",
    )
    batch_size: int = flag(8, "frames per forward pass", low=1, high=4096)
    limit: int | None = flag(None, "at most this many images, evenly spread", low=1, high=MAX_COUNT)
    seed: int = flag(0, "seed of the scenes of --dataset synthetic", low=0, high=MAX_SEED)
    weights: Path | None = flag(None, "weights file of the backbone, where it cannot be downloaded")
    json: Path | None = flag(None, "write the numbers to this file")
    plots: Path | None = flag(None, "write IoU bars, confusion matrix and a sheet of examples to this folder")


@dataclass(frozen=True)
class EvaluationReport:
    """The result of an evaluation.

    Attributes:
        class_names: of the data set.
        palette: one RGB colour per class.
        images: number of images scored.
        skipped: those that could not be read, one line each.
        confusion: pixels of cluster k on class c (K, C).
        assignment: class of every cluster (K,), -1 = none: one to one, or the mapping that was given.
        one_to_one: scores under `assignment`.
        many_to_one_assignment: class that every cluster covers most (K,).
        many_to_one: scores under it.
        boundary_f: tolerance in pixels -> mean boundary F over classes in %, under `assignment`.
        water_edge_rmse: pixels, under `assignment`; None where no class is called water.
        examples: a few images for the sheet.
        obstacles: what stands in the water, where it was asked for.
    """

    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    images: int
    skipped: tuple[str, ...]
    confusion: NDArray[np.int64]
    assignment: NDArray[np.int64]
    one_to_one: Scores
    many_to_one_assignment: NDArray[np.int64]
    many_to_one: Scores
    boundary_f: dict[int, float | None]
    water_edge_rmse: float | None
    examples: tuple[SheetRow, ...] = ()
    obstacles: ObstacleScore | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON values; percentages are 0-100."""

        def plain(scores: Scores) -> dict[str, Any]:
            per_class = dict(zip(self.class_names, scores.per_class_iou, strict=True))
            return {
                "accuracy": scores.accuracy,
                "miou": scores.miou,
                "per_class_iou": per_class,
                "unassigned": scores.unassigned,
            }

        return {
            **plain(self.one_to_one),
            "assignment": self.assignment.tolist(),
            "many_to_one": {**plain(self.many_to_one), "assignment": self.many_to_one_assignment.tolist()},
            "boundary_f": {str(t): f for t, f in self.boundary_f.items()},
            "water_edge_rmse": self.water_edge_rmse,
            "images": self.images,
            "skipped": len(self.skipped),
            "classes": list(self.class_names),
            "confusion": self.confusion.tolist(),
            **({} if self.obstacles is None else {"obstacles": self.obstacles.counts.to_json()}),
        }

    def table(self, title: str, first: str = "one to one") -> "Table":
        """Return the numbers as a table; `first` says how `assignment` was made."""
        from rich.table import Table

        def percent(value: float | None) -> str:
            return "–" if value is None else f"{value:.1f}"

        table = Table(title=title, title_justify="left")
        table.add_column("IoU, %")
        table.add_column(first, justify="right")
        table.add_column("many to one", justify="right")
        ious = (self.one_to_one.per_class_iou, self.many_to_one.per_class_iou)
        for name, one, many in zip(self.class_names, *ious, strict=True):
            table.add_row(name, percent(one), percent(many))
        table.add_section()
        table.add_row("mean IoU", percent(self.one_to_one.miou), percent(self.many_to_one.miou), style="bold")
        table.add_row("accuracy", percent(self.one_to_one.accuracy), percent(self.many_to_one.accuracy))
        if self.one_to_one.unassigned:
            table.add_row("of no class", percent(self.one_to_one.unassigned), "")
        for tolerance, f in self.boundary_f.items():
            table.add_row(f"boundary F, {tolerance} px", percent(f), "")
        if self.water_edge_rmse is not None:
            table.add_row("water edge, RMSE px", f"{self.water_edge_rmse:.1f}", "")
        return table

    def write_plots(self, folder: Path, title: str) -> None:
        """Write iou.png, confusion.png and sheet.png to `folder`."""
        series = {"one to one": self.one_to_one.per_class_iou, "many to one": self.many_to_one.per_class_iou}
        iou_bars(folder / "iou.png", self.class_names, series, title)
        # Clusters in the order of their classes, so that what is right lies on the diagonal.
        order = np.argsort(np.where(self.assignment == UNASSIGNED, len(self.class_names), self.assignment))
        given = [self.class_names[c] if c != UNASSIGNED else "none" for c in self.assignment]
        rows = [f"{k} → {given[k]}" for k in order]
        confusion_matrix(folder / "confusion.png", self.confusion[order], rows, self.class_names, title)
        sheet(folder / "sheet.png", self.examples, self.class_names, self.palette)
        if self.obstacles is not None:
            write_mistakes(folder / "obstacles.jpg", self.obstacles.mistakes)


def _batches(dataset: Dataset, size: int) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    for sample in dataset:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _predict(
    model: "Predictor", frames: Sequence[Frame], flip: bool
) -> tuple[list[Labels], NDArray[np.float32]]:
    """Segment frames of the model's size: cluster ids (H, W) each, and scores (B, C, gh, gw)."""
    import torch

    stacked = torch.from_numpy(np.stack(frames))
    labels, scores = model.predict(stacked)
    if flip:
        mirrored = model.predict(stacked.flip(2))[1].flip(3)
        scores = (scores + mirrored) / 2
        labels = model.label(scores, stacked)
    return list(labels.cpu().numpy()), np.asarray(scores.cpu().numpy(), dtype=np.float32)


@dataclass(frozen=True)
class _Judged:
    """A scored image, kept small until the assignment is known: labels as PNG, the frame as JPEG."""

    name: str
    predicted: bytes
    truth: bytes
    frame: bytes

    @classmethod
    def pack(cls, sample: Sample, predicted: Labels) -> "_Judged":
        assert sample.labels is not None, "the data set was opened without labels"
        small = resize_frame(sample.frame, _sheet_size(sample.frame, SHEET_WIDTH))
        return cls(sample.name, encode_png(predicted), encode_png(sample.labels), encode_jpeg(small, 95))

    def picture(self) -> Frame:
        """Return the frame, SHEET_WIDTH wide."""
        return decode_frame(self.frame)

    def unpack(self) -> tuple[Labels, Labels]:
        """Return predicted clusters and true classes, both at the size of the mask."""
        predicted, truth = decode_labels(self.predicted), decode_labels(self.truth)
        return resize_labels(predicted, (truth.shape[0], truth.shape[1])), truth


def evaluate(
    model: "Predictor",
    dataset: Dataset,
    *,
    flip: bool = False,
    crf: bool = False,
    batch_size: int = 8,
    assignment: NDArray[np.int64] | None = None,
    obstacles: bool = False,
    progress: Callable[[int], None] | None = None,
) -> EvaluationReport:
    """Score a model on a labelled data set.

    Frames are resized to the model's size and the predicted labels back to the size of the mask, as at
    run time.

    Args:
        model: a network in eval mode, or an export; `segmenter.with_alpha` changes its low-level branch.
        dataset: opened with `labelled=True`.
        flip: average the scores with those of the mirrored frame.
        crf: refine every frame with a dense CRF.
        batch_size: frames a forward pass.
        assignment: class of every cluster (K,) found elsewhere; None finds the best one to one.
        obstacles: count what stands in the water; the data set has the classes obstacle and water.
        progress: called with the number of images done, after every batch.
    Raises:
        UserError: nothing readable, the assignment is not for this model, or the CRF is not installed.
    """
    clusters, classes = len(model.class_names), len(dataset.class_names)
    if assignment is not None and len(assignment) != clusters:
        raise UserError(f"the assignment maps {len(assignment)} clusters; this model has {clusters}")
    confusion = Confusion(clusters, classes)
    judged: list[_Judged] = []
    shown = set(spread(len(dataset), SHEET_ROWS))
    examples: list[int] = []
    for batch, predictions in _predictions(model, dataset, flip, crf, batch_size):
        for sample, predicted in zip(batch, predictions, strict=True):
            assert sample.labels is not None, "the data set was opened without labels"
            if len(judged) in shown:
                examples.append(len(judged))
            confusion.update(resize_labels(predicted, sample.labels.shape[:2]), sample.labels)
            judged.append(_Judged.pack(sample, predicted))
        if progress is not None:
            progress(len(judged))
    chosen = hungarian(confusion.counts) if assignment is None else assignment
    many = many_to_one(confusion.counts)
    boundaries, edge = BoundaryScore(classes, BOUNDARY_TOLERANCES), WaterEdge()
    pieces = obstacle_score(dataset.class_names) if obstacles else None
    for packed in judged:
        predicted, truth = packed.unpack()
        given = apply(chosen, predicted)
        boundaries.update(given, truth)
        if "water" in dataset.class_names:
            water = dataset.class_names.index("water")
            edge.update(given == water, truth == water, truth == IGNORE)
        if pieces is not None:
            pieces.update(packed.name, packed.picture(), given, truth)
    rows = []
    for packed in (judged[index] for index in examples):
        predicted, truth = packed.unpack()
        picture = packed.picture()
        small = resize_frame(picture, _sheet_size(picture, 320))
        rows.append(SheetRow(packed.name, small, apply(chosen, predicted), truth))
    return EvaluationReport(
        class_names=dataset.class_names,
        palette=dataset.palette,
        images=len(judged),
        skipped=tuple(dataset.skipped),
        confusion=confusion.counts,
        assignment=chosen,
        one_to_one=score(confusion.counts, chosen),
        many_to_one_assignment=many,
        many_to_one=score(confusion.counts, many),
        boundary_f={tolerance: boundaries.mean(tolerance) for tolerance in BOUNDARY_TOLERANCES},
        water_edge_rmse=edge.rmse,
        examples=tuple(rows),
        obstacles=pieces,
    )


def obstacle_score(class_names: Sequence[str]) -> ObstacleScore:
    """An empty score for classes of these names.

    Raises:
        UserError: obstacle or water is not among them.
    """
    missing = {"obstacle", "water"} - set(class_names)
    if missing:
        raise UserError(
            f"--obstacles: no class is called {' or '.join(sorted(missing))}; the classes are "
            f"{', '.join(class_names)}"
        )
    return ObstacleScore(class_names.index("obstacle"), class_names.index("water"))


def false_alarms(model: "Predictor", dataset: Dataset, ignore: IgnoreMask | None = None) -> ObstacleScore:
    """Count what a model sees in the water of footage without obstacles; it needs no masks.

    Args:
        dataset: opened without labels.
        ignore: what belongs to the own vessel: no obstacle there is a false alarm.
    Raises:
        UserError: nothing readable, or no cluster is called obstacle or water.
    """
    classes, clusters = merge(model.class_names)
    score = obstacle_score(classes)
    assignment = np.array(clusters)
    for batch, predictions in _predictions(model, dataset, False, False, 1):
        for sample, predicted in zip(batch, predictions, strict=True):
            truth = None
            if ignore is not None:
                own = ignore.pixels(predicted.shape)
                truth = np.where(own, np.uint8(IGNORE), np.uint8(classes.index("water")))
            score.update(sample.name, sample.frame, apply(assignment, predicted), truth)
    return score


def _sheet_size(frame: Frame, width: int) -> tuple[int, int]:
    return round(width * frame.shape[0] / frame.shape[1]), width


def _predictions(
    model: "Predictor", dataset: Dataset, flip: bool, crf: bool, batch_size: int
) -> Iterator[tuple[list[Sample], list[Labels]]]:
    """Yield batches with their predicted cluster ids at the model's size."""
    from contextlib import ExitStack

    from il2vseg.evaluation.crf import CrfPool

    with ExitStack() as stack:
        pool = stack.enter_context(CrfPool()) if crf else None
        for batch in _batches(dataset, batch_size):
            frames = [resize_frame(sample.frame, model.size) for sample in batch]
            labels, scores = _predict(model, frames, flip)
            if pool is not None:
                labels = list(pool.refine(zip(frames, scores, strict=True)))
            yield batch, labels


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
        from il2vseg.runtime.backends.providers import open_engine

        return ExportedModel(open_engine(config.model, config.provider))
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
    outputs = [] if config.json is None else [config.json]
    if config.plots is not None:
        outputs += [config.plots / name for name in PLOTS]
    models = [*model_files(config.checkpoint), *model_files(config.model)]
    read = [path for path in (config.assignment, config.weights) if path is not None]
    protect(outputs, [*footage_files(config.root), *models, *read])


def run_false_alarms(config: EvaluateConfig) -> ObstacleScore:
    """Run the command on footage without masks and without obstacles."""
    from rich.console import Console

    ignore = IgnoreMask.of(config.ignore_mask)
    dataset = open_dataset(config.dataset, config.root, config.split, limit=config.limit, ignore=ignore)
    score = false_alarms(open_model(config), dataset, ignore)
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
        the report; of footage without masks (`--dataset folder --obstacles`) the count of what was found.
    Raises:
        UserError: anything wrong with the flags, the checkpoint or the data.
    """
    check(config)
    for folder in (config.plots, config.json.parent if config.json is not None else None):
        if folder is not None:
            require_writable_dir(folder)
    if config.obstacles and config.dataset == "folder":
        return run_false_alarms(config)
    dataset = open_dataset(
        config.dataset,
        config.root,
        config.split,
        labelled=True,
        seed=config.seed,
        limit=config.limit,
        crop=config.crop,
        ignore=IgnoreMask.of(config.ignore_mask),
    )
    assignment = None
    if config.assignment is not None:
        assignment = read_assignment(config.assignment, dataset.class_names)

    from rich.console import Console
    from rich.progress import Progress

    model = open_model(config)
    if config.by_name:
        assignment = named_assignment(model.class_names, dataset.class_names)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"evaluating {config.dataset} {config.split}", total=len(dataset))
        report = evaluate(
            model,
            dataset,
            flip=config.flip,
            crf=config.crf,
            batch_size=config.batch_size,
            assignment=assignment,
            obstacles=config.obstacles,
            progress=lambda done: bar.update(task, completed=done),
        )
    title = f"{config.dataset} {config.split}, {report.images} images"
    Console().print(report.table(title, "one to one" if assignment is None else "given"))
    if report.obstacles is not None:
        Console().print(table(report.obstacles.counts, "what stands in the water"))
    if note := dataset.skipped_note():
        print(note, file=sys.stderr)
    if config.json is not None:
        setting = {
            "dataset": config.dataset,
            "split": config.split,
            "checkpoint": None if config.checkpoint is None else str(config.checkpoint),
            "model": None if config.model is None else str(config.model),
            "alpha": model.alpha,
            "flip": config.flip,
            "crf": config.crf,
        }
        write_json(config.json, report.to_json() | setting)
    if config.plots is not None:
        report.write_plots(config.plots, title)
        print(f"plots: {config.plots}/iou.png, confusion.png, sheet.png", file=sys.stderr)
    return report


def main(argv: list[str] | None = None, prog: str = PROGRAM) -> int:
    """Run `python -m il2vseg.evaluate` and return its exit code."""

    def command() -> None:
        run(parse(EvaluateConfig, prog, argv))

    return run_command(command, prog)


if __name__ == "__main__":
    sys.exit(main())
