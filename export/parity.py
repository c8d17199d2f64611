"""Parity: does a candidate compute what a reference computes, on real frames?"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Frame, Labels, write_image
from il2vseg.base.palette import Color, color_table, default_palette

if TYPE_CHECKING:
    from rich.table import Table

Output = tuple[NDArray[Any], ...]
"""labels (1, H, W), scores (1, C, gh, gw), and the confidence (1, h, w) of models that have one."""

Runner = Callable[[NDArray[np.uint8]], Output]
"""Maps a frame (1, H, W, 3) uint8 BGR to its output."""

WORST_KEPT = 4
TAIL_SAMPLE = 20_000
"""Score differences kept of each frame for the percentile over all of them."""


@dataclass(frozen=True)
class Limits:
    """What a candidate may differ by: label agreement in [0, 1] at least, score difference at most."""

    label_agreement: float
    max_score_difference: float | None = None


LIMITS: dict[str, Limits] = {
    "fp32": Limits(label_agreement=0.999, max_score_difference=1e-3),
    "fp16": Limits(label_agreement=0.99),
    "int8": Limits(label_agreement=0.97),
}


@dataclass(frozen=True)
class WorstFrame:
    """A frame where the two disagree, kept for the picture."""

    name: str
    agreement: float
    frame: Frame
    reference: Labels
    candidate: Labels


@dataclass
class ParityReport:
    """Differences of a candidate from its reference over a set of frames.

    Attributes:
        label_agreement: share of all pixels with the same label, [0, 1].
        per_class_iou: IoU of the candidate's labels with the reference's; None for a class neither shows.
        non_finite: NaN or infinite scores of the candidate.
        reference_ms, candidate_ms: median latency, interleaved.
        failures: why the limits are not met; empty when they are.
    """

    frames: int
    max_score_difference: float
    p999_score_difference: float
    label_agreement: float
    per_class_iou: list[float | None]
    non_finite: int
    reference_ms: float
    candidate_ms: float
    limits: Limits
    failures: list[str] = field(default_factory=list)
    worst: list[WorstFrame] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every limit is met."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Plain values for parity.json and the manifest."""
        values = {k: v for k, v in vars(self).items() if k != "worst"}
        return values | {
            "passed": self.passed,
            "limits": asdict(self.limits),
            "worst_frames": [{"name": w.name, "label_agreement": w.agreement} for w in self.worst],
        }

    def table(self, title: str) -> "Table":
        """The report as a table for people."""
        from rich.table import Table

        limit = self.limits.max_score_difference
        table = Table(title=title)
        for heading in ("measure", "value", "limit"):
            table.add_column(heading, justify="left" if heading == "measure" else "right")
        table.add_row("frames", str(self.frames), "")
        table.add_row(
            "label agreement", f"{self.label_agreement:.4%}", f"≥ {self.limits.label_agreement:.1%}"
        )
        table.add_row(
            "scores, max difference", f"{self.max_score_difference:.2e}", f"≤ {limit:.0e}" if limit else ""
        )
        table.add_row("scores, 99.9th percentile", f"{self.p999_score_difference:.2e}", "")
        table.add_row("NaN or infinite scores", str(self.non_finite), "0")
        table.add_row("latency, model / export", f"{self.reference_ms:.0f} / {self.candidate_ms:.0f} ms", "")
        return table

    def write_picture(self, path: Path, colors: Sequence[Color] = ()) -> None:
        """Write the worst frames: frame, reference, candidate and where they differ, side by side.

        Args:
            colors: RGB of every label; without them, any that are distinct.
        """
        palette = color_table(colors or default_palette(256))
        rows = []
        for w in self.worst:
            differ = np.where((w.reference != w.candidate)[..., None], np.uint8(255), w.frame // 3)
            parts = [w.frame, palette[w.reference], palette[w.candidate], differ.astype(np.uint8)]
            row = np.ascontiguousarray(np.hstack(parts))
            text = f"{w.name}: agreement {w.agreement:.3%} | model | export | difference"
            for place, grey in (((9, 21), 0), ((8, 20), 255)):  # bolder strokes would be wider, too
                cv2.putText(row, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (grey,) * 3, 1, cv2.LINE_AA)
            rows.append(row)
        write_image(path, np.vstack(rows))


def compare(
    reference: Runner, candidate: Runner, frames: Iterable[tuple[str, Frame]], limits: Limits
) -> ParityReport:
    """Run both on every frame, in turn, and report how they differ.

    Args:
        frames: (name, BGR uint8 (H, W, 3)) of the graph's size.
    Raises:
        ValueError: there is no frame.
    """
    agreements: list[float] = []
    tails: list[NDArray[np.float32]] = []
    times: tuple[list[float], list[float]] = ([], [])
    worst: list[WorstFrame] = []
    max_difference, non_finite = 0.0, 0
    confusion: NDArray[np.int64] | None = None
    rng = np.random.default_rng(0)
    for name, frame in frames:
        outputs = []
        for runner, spent in zip((reference, candidate), times, strict=True):
            start = time.perf_counter()
            outputs.append(runner(frame[None]))
            spent.append(1000 * (time.perf_counter() - start))
        (labels_r, scores_r, *more_r), (labels_c, scores_c, *more_c) = outputs
        # A confidence is from 0 to 1, too, and has to agree as the scores have.
        values_r, values_c = (
            np.concatenate([x.ravel() for x in (scores, *more)])
            for scores, more in ((scores_r, more_r), (scores_c, more_c))
        )
        finite = np.isfinite(values_c)
        non_finite += int(values_c.size - finite.sum())
        difference = np.abs(values_c - values_r)[finite]
        if difference.size:
            max_difference = max(max_difference, float(difference.max()))
            tails.append(rng.choice(difference, min(TAIL_SAMPLE, difference.size), replace=False))
        classes = scores_r.shape[1]
        pairs = labels_r.astype(np.int64) * classes + np.minimum(labels_c, classes - 1)
        counts = np.bincount(pairs.ravel(), minlength=classes * classes).reshape(classes, classes)
        confusion = counts if confusion is None else confusion + counts
        agreements.append(float((labels_r == labels_c).mean()))
        worst.append(WorstFrame(name, agreements[-1], frame, labels_r[0], labels_c[0]))
        worst = sorted(worst, key=lambda w: w.agreement)[:WORST_KEPT]
    if confusion is None:
        raise ValueError("no frame to compare on")
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    report = ParityReport(
        frames=len(agreements),
        max_score_difference=max_difference,
        p999_score_difference=float(np.quantile(np.concatenate(tails), 0.999)) if tails else 0.0,
        label_agreement=float(np.mean(agreements)),
        per_class_iou=[float(t / u) if u else None for t, u in zip(confusion.diagonal(), union, strict=True)],
        non_finite=non_finite,
        reference_ms=float(np.median(times[0])),
        candidate_ms=float(np.median(times[1])),
        limits=limits,
        worst=worst,
    )
    report.failures = _failures(report)
    return report


def least_alike(reports: Iterable[ParityReport]) -> ParityReport:
    """The report to show of several: one that failed, else the one that agrees least."""
    return min(reports, key=lambda r: (r.passed, r.label_agreement))


def failures(reports: dict[str, ParityReport]) -> str:
    """Why reports failed, by name; empty when all passed."""
    return "; ".join(f"{name}: {', '.join(r.failures)}" for name, r in reports.items() if not r.passed)


def _failures(report: ParityReport) -> list[str]:
    limits = report.limits
    failures = []
    if report.non_finite:
        failures.append(f"{report.non_finite} scores are NaN or infinite")
    if report.label_agreement < limits.label_agreement:
        failures.append(
            f"labels agree on {report.label_agreement:.3%}, the limit is {limits.label_agreement:.1%}"
        )
    bound = limits.max_score_difference
    if bound is not None and report.max_score_difference > bound:
        failures.append(f"scores differ by {report.max_score_difference:.1e}, the limit is {bound:.0e}")
    return failures
