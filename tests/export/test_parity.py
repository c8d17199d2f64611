"""`compare` reports what differs between two callables, whatever they are."""

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console

from il2vseg.base.images import Frame, read_frame
from il2vseg.export.parity import LIMITS, Limits, Output, compare, failures, least_alike

H, W, C = 8, 12, 3


def reference(frame: NDArray[np.uint8]) -> Output:
    """Labels by brightness; scores are constant."""
    labels = (frame[..., 0] // 86).astype(np.uint8)
    return labels, np.full((1, C, 2, 3), 1 / C, np.float32)


def random_frames(count: int, seed: int = 0) -> list[tuple[str, Frame]]:
    rng = np.random.default_rng(seed)
    return [(f"f{i}", rng.integers(0, 256, (H, W, 3), dtype=np.uint8)) for i in range(count)]


def test_a_model_agrees_with_itself() -> None:
    report = compare(reference, reference, random_frames(3), LIMITS["fp32"])
    assert report.passed
    assert report.frames == 3
    assert report.label_agreement == 1.0
    assert report.max_score_difference == report.p999_score_difference == 0.0
    assert report.per_class_iou == [1.0] * C
    assert report.reference_ms >= 0


@given(changed=st.integers(0, H * W), offset=st.floats(0, 0.5, width=32), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_differences_are_counted_exactly(changed: int, offset: float, seed: int) -> None:
    def candidate(frame: NDArray[np.uint8]) -> Output:
        labels, scores = reference(frame)
        labels = labels.copy()
        flat = labels.reshape(-1)
        flat[:changed] = (flat[:changed] + 1) % C
        return labels, scores + np.float32(offset)

    report = compare(reference, candidate, random_frames(2, seed), Limits(0.9, 0.1))
    assert report.label_agreement == pytest.approx(1 - changed / (H * W))
    assert report.max_score_difference == pytest.approx(offset, abs=1e-6)
    assert report.passed == (report.label_agreement >= 0.9 and report.max_score_difference <= 0.1)


def test_iou_is_of_the_candidates_labels_with_the_references() -> None:
    def one_class(frame: NDArray[np.uint8]) -> Output:
        return np.zeros((1, H, W), np.uint8), reference(frame)[1]

    frames = random_frames(2)
    report = compare(reference, one_class, frames, LIMITS["int8"])
    share = np.mean([(f[..., 0] // 86 == 0).mean() for _, f in frames])
    assert report.per_class_iou == [pytest.approx(share), 0.0, 0.0]
    assert not report.passed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_fail(value: float) -> None:
    def candidate(frame: NDArray[np.uint8]) -> Output:
        labels, scores = reference(frame)
        scores = scores.copy()
        scores[0, 1, 0, 0] = value
        return labels, scores

    report = compare(reference, candidate, random_frames(2), LIMITS["int8"])
    assert report.non_finite == 2
    assert any("NaN or infinite" in reason for reason in report.failures)
    json.dumps(report.to_dict(), allow_nan=False)


def test_the_worst_frames_are_kept_and_drawn(tmp_path: Path) -> None:
    frames = random_frames(7)
    bad = {frames[2][1].tobytes(), frames[5][1].tobytes()}

    def candidate(frame: NDArray[np.uint8]) -> Output:
        labels, scores = reference(frame)
        return (2 - labels if frame[0].tobytes() in bad else labels).astype(np.uint8), scores

    report = compare(reference, candidate, frames, LIMITS["int8"])
    assert {w.name for w in report.worst[:2]} == {"f2", "f5"}
    report.write_picture(tmp_path / "parity.png")
    assert read_frame(tmp_path / "parity.png").shape == (len(report.worst) * H, 4 * W, 3)


def test_the_picture_shows_frame_labels_and_what_differs(tmp_path: Path) -> None:
    frame = np.full((64, 48, 3), 90, np.uint8)

    def labels(value: int) -> Output:
        return np.full((1, 64, 48), value, np.uint8), np.full((1, C, 2, 3), 1 / C, np.float32)

    def candidate(_: NDArray[np.uint8]) -> Output:
        found, scores = labels(0)
        found[0, :, 24:] = 1
        return found, scores

    report = compare(lambda _: labels(0), candidate, [("a", frame)], LIMITS["int8"])
    report.write_picture(tmp_path / "parity.png")
    below = read_frame(tmp_path / "parity.png")[40:]  # the text is above
    assert (below[:, :48] == 90).all()
    assert (below[:, 48:96] == below[0, 48]).all()
    assert (below[:, 96:120] == below[0, 48]).all()
    assert not (below[0, 120] == below[0, 48]).all()
    assert (below[:, 144:168] == 30).all()  # a third as bright where they agree
    assert (below[:, 168:] == 255).all()


def test_the_table_has_every_measure_beside_its_limit() -> None:
    console = Console(file=io.StringIO(), width=120)
    report = compare(reference, reference, random_frames(3), LIMITS["fp32"])
    console.print(dataclasses.replace(report, label_agreement=0.99987, max_score_difference=2e-4).table("t"))
    rows = [re.split(r"\s*[│┃]\s*", line)[1:4] for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert ["frames", "3", ""] in rows
    assert ["label agreement", "99.9870%", "≥ 99.9%"] in rows
    assert ["scores, max difference", "2.00e-04", "≤ 1e-03"] in rows
    assert ["scores, 99.9th percentile", "0.00e+00", ""] in rows
    assert ["NaN or infinite scores", "0", "0"] in rows


@pytest.mark.parametrize(
    ("precision", "changed", "offset", "passed"),
    [
        ("fp32", 9, 0.0, True), ("fp32", 11, 0.0, False),
        ("fp32", 0, 9e-4, True), ("fp32", 0, 1.1e-3, False),
        ("fp16", 99, 0.4, True), ("fp16", 101, 0.0, False),
        ("int8", 299, 0.4, True), ("int8", 301, 0.0, False),
    ],
)  # fmt: skip
def test_the_limits_of_every_precision(precision: str, changed: int, offset: float, passed: bool) -> None:
    """Labels agree on 99.9, 99 and 97 %; fp32 scores differ by 1e-3 at most."""
    frame = np.zeros((100, 100, 3), np.uint8)

    def candidate(given: NDArray[np.uint8]) -> Output:
        labels, scores = reference(given)
        labels.reshape(-1)[:changed] = 1
        return labels, scores + np.float32(offset)

    report = compare(reference, candidate, [("grey", frame)], LIMITS[precision])
    assert report.passed == passed


def test_a_report_that_failed_is_shown_before_one_that_agrees_less() -> None:
    report = compare(reference, reference, random_frames(1), LIMITS["fp32"])
    good, fair, failed = (
        dataclasses.replace(report, label_agreement=share, failures=reasons)
        for share, reasons in ((1.0, []), (0.97, []), (0.99, ["labels differ"]))
    )
    assert least_alike([good, fair]) is fair
    assert least_alike([good, failed, fair]) is failed
    assert failures({"a": good, "b": failed}) == "b: labels differ"
    assert failures({"a": good, "c": fair}) == ""


def test_no_frame_is_an_error() -> None:
    with pytest.raises(ValueError, match="no frame"):
        compare(reference, reference, [], LIMITS["fp32"])
