"""`compare` reports what differs between two callables, whatever they are."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from il2vseg.base.images import Frame, read_frame
from il2vseg.export.parity import LIMITS, Limits, Output, compare

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


def test_no_frame_is_an_error() -> None:
    with pytest.raises(ValueError, match="no frame"):
        compare(reference, reference, [], LIMITS["fp32"])
