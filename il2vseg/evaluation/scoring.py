"""Scoring a model on labelled data: one confusion matrix, one assignment, over one split or several."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.classes import GROUNDS, OBSTACLE, ground_of, merge
from il2vseg.base.errors import UserError
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
from il2vseg.data import Dataset, Sample
from il2vseg.data.dataset import RangeAt, spread
from il2vseg.evaluation.metrics import (
    IGNORE,
    UNASSIGNED,
    Assignment,
    BoundaryScore,
    Confusion,
    Counts,
    Scores,
    WaterEdge,
    apply,
    hungarian,
    many_to_one,
    score,
)
from il2vseg.evaluation.obstacles import SHEET_WIDTH, Follow, ObstacleScore, write_mistakes
from il2vseg.evaluation.plots import SheetRow, confusion_matrix, iou_bars, sheet
from il2vseg.evaluation.prediction import Reading, predictions

if TYPE_CHECKING:
    from rich.table import Table

    from il2vseg.evaluation.danger import DangerZone
    from il2vseg.models.network import Predictor

BOUNDARY_TOLERANCES = (2, 5)
SHEET_ROWS = 8


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
        obstacles: what stands in the water or on the road, where it was asked for.
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


@dataclass(frozen=True)
class _Judged:
    """A scored image, kept small until the assignment is known: labels as PNG, the frame as JPEG."""

    name: str
    predicted: bytes
    truth: bytes
    frame: bytes
    range_at: RangeAt | None

    @classmethod
    def pack(cls, sample: Sample, predicted: Labels) -> "_Judged":
        assert sample.labels is not None, "the data set was opened without labels"
        small = resize_frame(sample.frame, _sheet_size(sample.frame, SHEET_WIDTH))
        labels = encode_png(predicted), encode_png(sample.labels)
        return cls(sample.name, *labels, encode_jpeg(small, 95), sample.range_at)

    def picture(self) -> Frame:
        """Return the frame, SHEET_WIDTH wide."""
        return decode_frame(self.frame)

    def unpack(self) -> tuple[Labels, Labels]:
        """Return predicted clusters and true classes, both at the size of the mask."""
        predicted, truth = decode_labels(self.predicted), decode_labels(self.truth)
        return resize_labels(predicted, (truth.shape[0], truth.shape[1])), truth


@dataclass(frozen=True)
class Judgement:
    """Predictions on a split beside their masks, before anyone knows which cluster stands for which class."""

    dataset: Dataset
    counts: Counts
    judged: tuple[_Judged, ...]
    skipped: tuple[str, ...]


def judge(
    model: "Predictor",
    dataset: Dataset,
    progress: Callable[[int], None] | None = None,
    **reading: Unpack[Reading],
) -> Judgement:
    """Predict every frame of a labelled data set; arguments as `evaluate`."""
    confusion = Confusion(len(model.class_names), len(dataset.class_names))
    judged: list[_Judged] = []
    for batch, found in predictions(model, dataset, **reading):
        for sample, predicted in zip(batch, found, strict=True):
            assert sample.labels is not None, "the data set was opened without labels"
            confusion.update(resize_labels(predicted, sample.labels.shape[:2]), sample.labels)
            judged.append(_Judged.pack(sample, predicted))
        if progress is not None:
            progress(len(judged))
    return Judgement(dataset, confusion.counts, tuple(judged), tuple(dataset.skipped))


def _report(
    parts: Sequence[Judgement], chosen: Assignment, many: Assignment, pieces: ObstacleScore | None
) -> EvaluationReport:
    """Score several splits as one."""
    names, counts = parts[0].dataset.class_names, np.sum([part.counts for part in parts], axis=0)
    judged = [packed for part in parts for packed in part.judged]
    boundaries, edge = BoundaryScore(len(names), BOUNDARY_TOLERANCES), WaterEdge()
    for packed in judged:
        predicted, truth = packed.unpack()
        given = apply(chosen, predicted)
        boundaries.update(given, truth)
        if "water" in names:
            water = names.index("water")
            edge.update(given == water, truth == water, truth == IGNORE)
        if pieces is not None:
            picture, range_at = packed.picture(), packed.range_at
            if pieces.zone is not None and range_at is None:
                range_at = pieces.zone.range_at(truth, names, picture.shape)
            pieces.update(packed.name, picture, given, truth, range_at=range_at)
    rows = []
    for packed in (judged[index] for index in spread(len(judged), SHEET_ROWS)):
        predicted, truth = packed.unpack()
        picture = packed.picture()
        small = resize_frame(picture, _sheet_size(picture, 320))
        rows.append(SheetRow(packed.name, small, apply(chosen, predicted), truth))
    return EvaluationReport(
        class_names=names,
        palette=parts[0].dataset.palette,
        images=len(judged),
        skipped=tuple(line for part in parts for line in part.skipped),
        confusion=counts,
        assignment=chosen,
        one_to_one=score(counts, chosen),
        many_to_one_assignment=many,
        many_to_one=score(counts, many),
        boundary_f={tolerance: boundaries.mean(tolerance) for tolerance in BOUNDARY_TOLERANCES},
        water_edge_rmse=edge.rmse,
        examples=tuple(rows),
        obstacles=pieces,
    )


def evaluate_splits(
    model: "Predictor",
    datasets: Sequence[Dataset],
    *,
    assignment: Assignment | None = None,
    obstacles: bool = False,
    zone: "DangerZone | None" = None,
    progress: Callable[[int], None] | None = None,
    **reading: Unpack[Reading],
) -> tuple[list[EvaluationReport], EvaluationReport]:
    """Score a model on several splits under one assignment: a class is one class on all of them.

    Arguments and errors as `evaluate`; the data sets have the same classes.

    Returns:
        a report of each split, and one of all together.
    Raises:
        UserError: they have not.
    """
    names = datasets[0].class_names
    for dataset in datasets:
        if dataset.class_names != names:
            raise UserError(
                f"splits with the classes {', '.join(names)} and {', '.join(dataset.class_names)} have no "
                "assignment in common; score them one by one"
            )
    if assignment is not None and len(assignment) != len(model.class_names):
        raise UserError(
            f"the assignment maps {len(assignment)} clusters; this model has {len(model.class_names)}"
        )
    parts: list[Judgement] = []
    for dataset in datasets:
        done = sum(len(part.judged) for part in parts)
        tell = None if progress is None else partial(_tell, progress, done)
        parts.append(judge(model, dataset, tell, **reading))
    counts = np.sum([part.counts for part in parts], axis=0)
    chosen = hungarian(counts) if assignment is None else assignment
    many = many_to_one(counts)

    def pieces() -> ObstacleScore | None:
        return obstacle_score(names, zone=zone) if obstacles else None

    reports = [_report([part], chosen, many, pieces()) for part in parts]
    return reports, reports[0] if len(parts) == 1 else _report(parts, chosen, many, pieces())


def _tell(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


def evaluate(
    model: "Predictor",
    dataset: Dataset,
    *,
    assignment: Assignment | None = None,
    obstacles: bool = False,
    zone: "DangerZone | None" = None,
    progress: Callable[[int], None] | None = None,
    **reading: Unpack[Reading],
) -> EvaluationReport:
    """Score a model on a labelled data set.

    Frames are resized to the model's size and the predicted labels back to the size of the mask, as at
    run time.

    Args:
        model: a network in eval mode, or an export; `segmenter.with_alpha` changes its low-level branch.
        dataset: opened with `labelled=True`.
        reading: flip, crf and batch_size, see `Reading`.
        assignment: class of every cluster (K,) found elsewhere; None finds the best one to one.
        obstacles: count what stands in the water, or on the road; the data set has those classes.
        zone: with `obstacles`, count apart what is in it, too.
        progress: called with the number of images done, after every batch.
    Raises:
        UserError: nothing readable, the assignment is not for this model, or the CRF is not installed.
    """
    return evaluate_splits(
        model, [dataset], assignment=assignment, obstacles=obstacles, zone=zone, progress=progress, **reading
    )[1]


def obstacle_score(
    class_names: Sequence[str], follow: Follow | None = None, zone: "DangerZone | None" = None
) -> ObstacleScore:
    """An empty score for classes of these names; see `ObstacleScore`.

    Raises:
        UserError: obstacle, or what it stands on, is not among them.
    """
    ground = ground_of(class_names)
    if ground is None:
        missing = OBSTACLE if OBSTACLE not in class_names else " or ".join(GROUNDS)
        raise UserError(
            f"--obstacles: no class is called {missing}; the classes are {', '.join(class_names)}"
        )
    return ObstacleScore(class_names.index(OBSTACLE), class_names.index(ground), follow, zone)


def false_alarms(
    model: "Predictor",
    dataset: Dataset,
    ignore: IgnoreMask | None = None,
    zone: "DangerZone | None" = None,
) -> ObstacleScore:
    """Count what a model sees in the water, or on the road, of footage without obstacles; it needs no masks.

    Of clips also what of that remains when it is followed over time as the runtime does.

    Args:
        dataset: opened without labels.
        ignore: what belongs to the own vessel: no obstacle there is a false alarm.
        zone: its false alarms also count apart, below the horizon that the model sees.
    Raises:
        UserError: nothing readable, or no cluster is called obstacle, or water or road.
    """
    from il2vseg.evaluation.following import Follower

    classes, clusters = merge(model.class_names)
    score = obstacle_score(classes, Follower(), zone)
    assignment = np.array(clusters)
    for batch, found in predictions(model, dataset, batch_size=1):
        for sample, predicted in zip(batch, found, strict=True):
            truth = None
            if ignore is not None:
                own = ignore.pixels(predicted.shape)
                truth = np.where(own, np.uint8(IGNORE), np.uint8(score.ground))
            given = apply(assignment, predicted)
            range_at = None if zone is None else zone.range_at(given, classes, sample.frame.shape)
            score.update(sample.name, sample.frame, given, truth, sample.seconds, range_at)
    return score


def _sheet_size(frame: Frame, width: int) -> tuple[int, int]:
    return round(width * frame.shape[0] / frame.shape[1]), width


def splits_table(reports: Mapping[str, EvaluationReport], first: str = "one to one") -> "Table":
    """A row for each of several reports under one assignment; `first` says how that was made."""
    from rich.table import Table

    table = Table(title="under one assignment, %", title_justify="left")
    for heading in ("split", "images", "accuracy", f"mean IoU, {first}", "mean IoU, many to one"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for name, report in reports.items():
        numbers = (report.one_to_one.accuracy, report.one_to_one.miou, report.many_to_one.miou)
        table.add_row(name, str(report.images), *(f"{number:.1f}" for number in numbers))
    return table
