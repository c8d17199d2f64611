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
from il2vseg.export import parity
from il2vseg.export.parity import LIMITS, Limits, Output, Runner, compare, failures, least_alike

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
@settings(max_examples=30)
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


def test_a_report_as_plain_values() -> None:
    report = dataclasses.replace(
        compare(reference, reference, random_frames(1), LIMITS["fp32"]), reference_ms=2.0, candidate_ms=3.0
    )
    assert report.to_dict() == {
        "frames": 1, "max_score_difference": 0.0, "p999_score_difference": 0.0, "label_agreement": 1.0,
        "per_class_iou": [1.0, 1.0, 1.0], "non_finite": 0, "reference_ms": 2.0, "candidate_ms": 3.0,
        "limits": {"label_agreement": 0.999, "max_score_difference": 1e-3}, "failures": [], "passed": True,
        "worst_frames": [{"name": "f0", "label_agreement": 1.0}],
    }  # fmt: skip
    failed = dataclasses.replace(report, failures=["why"]).to_dict()
    assert (failed["passed"], failed["failures"]) == (False, ["why"])


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
    report.write_picture(tmp_path / "named.png", [(41, 167, 224), (90, 75, 164)])
    named = read_frame(tmp_path / "named.png")
    assert named[60, 60].tolist() == [224, 167, 41]
    assert named[60, 130].tolist() == [164, 75, 90]
    assert (below[:, 144:168] == 30).all()  # a third as bright where they agree
    assert (below[:, 168:] == 255).all()


class Clock:
    """Stands for the module `time`; runners move it."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def runner(self, *milliseconds: float) -> Runner:
        spent = iter(milliseconds)

        def run(frame: NDArray[np.uint8]) -> Output:
            self.now += next(spent) / 1000
            return reference(frame)

        return run


def test_latencies_are_each_ones_median(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(parity, "time", clock)
    report = compare(clock.runner(4, 30, 5), clock.runner(50, 8, 9), random_frames(3), LIMITS["fp32"])
    assert (report.reference_ms, report.candidate_ms) == (pytest.approx(5), pytest.approx(9))
    console = Console(file=io.StringIO(), width=120)
    console.print(report.table("t"))
    assert "latency, model / export │ 5 / 9 ms" in " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_the_tail_of_the_differences_is_their_thousandth() -> None:
    """Of the differences 0, 1e-4, 2e-4, ... all are looked at."""
    ramp = np.arange(9999, dtype=np.float32) * np.float32(1e-4)

    def with_scores(scores: NDArray[np.float32]) -> Runner:
        return lambda frame: (reference(frame)[0], scores.reshape(1, C, 33, 101))

    frames = random_frames(1)
    report = compare(with_scores(np.zeros_like(ramp)), with_scores(ramp), frames, LIMITS["int8"])
    assert report.p999_score_difference == pytest.approx(0.999 * 0.9998, abs=1e-6)
    assert report.max_score_difference == pytest.approx(0.9998)
    assert report.non_finite == 0
    assert parity.TAIL_SAMPLE == 20_000


def test_a_confidence_has_to_agree_as_scores_have() -> None:
    def sure(value: float) -> Runner:
        return lambda frame: (*reference(frame), np.full((1, 4, 6), value, np.float32))

    report = compare(sure(0.5), sure(0.75), random_frames(2), LIMITS["fp32"])
    assert report.max_score_difference == 0.25
    assert report.failures == ["scores differ by 2.5e-01, the limit is 1e-03"]


def test_classes_that_the_reference_does_not_have_are_counted_as_its_last() -> None:
    def strange(frame: NDArray[np.uint8]) -> Output:
        labels, scores = reference(frame)
        return np.where(labels == 2, np.uint8(7), labels), scores

    report = compare(reference, strange, random_frames(2), LIMITS["int8"])
    assert report.per_class_iou == [1.0, 1.0, 1.0]
    assert report.label_agreement < 1


def test_a_class_that_neither_shows_has_no_iou() -> None:
    dark = [("dark", np.zeros((H, W, 3), np.uint8))]
    assert compare(reference, reference, dark, LIMITS["int8"]).per_class_iou == [1.0, None, None]


def test_a_limit_may_be_reached() -> None:
    def runner(change: int, score: float) -> Runner:
        def run(frame: NDArray[np.uint8]) -> Output:
            labels, _ = reference(frame)
            labels[:, : H // 2] = (labels[:, : H // 2] + change) % C
            return labels, np.full((1, C, 2, 3), score, np.float32)

        return run

    report = compare(runner(0, 0.0), runner(1, 0.25), random_frames(2), Limits(0.5, 0.25))
    assert (report.label_agreement, report.max_score_difference, report.failures) == (0.5, 0.25, [])


def test_four_frames_are_kept_worst_first() -> None:
    shares = {"a": 0, "b": 30, "c": 10, "d": 40, "e": 20, "f": 0}
    wrong = iter(shares.values())

    def candidate(frame: NDArray[np.uint8]) -> Output:
        labels, scores = reference(frame)
        flat = labels.reshape(-1)
        count = next(wrong)
        flat[:count] = (flat[:count] + 1) % C
        return labels, scores

    frames = [(name, frame) for name, (_, frame) in zip(shares, random_frames(6), strict=True)]
    report = compare(reference, candidate, frames, LIMITS["int8"])
    assert [w.name for w in report.worst] == ["d", "b", "e", "c"]
    assert [w.agreement for w in report.worst] == pytest.approx([1 - n / 96 for n in (40, 30, 20, 10)])
    d = report.worst[0]
    np.testing.assert_array_equal(d.frame, dict(frames)["d"])
    assert (d.reference != d.candidate).sum() == 40
    np.testing.assert_array_equal(d.reference, reference(d.frame[None])[0][0])
    assert report.to_dict()["worst_frames"][0] == {"name": "d", "label_agreement": pytest.approx(1 - 40 / 96)}


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
