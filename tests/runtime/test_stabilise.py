"""Steadiness against accuracy, on clips whose masks are exact."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from il2vseg.base.images import Frame, Labels
from il2vseg.data.synthetic import render
from il2vseg.runtime.engine import Scores, upsampled_argmax
from il2vseg.runtime.stabilise import Smoother

SIZE = (180, 320)
GRID = (30, 53)
FRAMES = 30

Clip = list[tuple[Frame, Labels, Scores]]


def noisy_scores(labels: Labels, rng: np.random.Generator) -> Scores:
    """Scores as a model gives them: the mask at the grid's resolution, with noise that changes each frame."""
    onehot = np.stack([(labels == i) for i in range(3)], 2).astype(np.float32)
    cells = cv2.resize(onehot, GRID[::-1], interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    logits = 4 * cells + 1.2 * rng.standard_normal(cells.shape)
    scores = np.exp(logits)
    return (scores / scores.sum(0)).astype(np.float32)


@pytest.fixture(scope="module", params=[3, 7, 11])
def clip(request: pytest.FixtureRequest) -> Clip:
    rng = np.random.default_rng(0)
    frames = [render(request.param, i, SIZE) for i in range(FRAMES)]
    return [(frame, labels, noisy_scores(labels, rng)) for frame, labels in frames]


def measure(clip: Clip, smoother: Smoother | None) -> tuple[float, float, float]:
    """Flicker (share of pixels that change without cause), mIoU and IoU of obstacles, after warming up."""
    predicted = []
    for frame, _, scores in clip:
        steady = scores if smoother is None else smoother(frame, scores)
        predicted.append(upsampled_argmax(steady, SIZE))
    truth = [labels for _, labels, _ in clip]
    flicker = np.mean(
        [
            ((predicted[i] != predicted[i - 1]) & (truth[i] == truth[i - 1])).mean()
            for i in range(5, len(clip))
        ]
    )
    p, t = np.stack(predicted[5:]), np.stack(truth[5:])
    ious = [((p == i) & (t == i)).sum() / ((p == i) | (t == i)).sum() for i in range(3)]
    return float(flicker), float(np.mean(ious)), float(ious[0])


def test_labels_flicker_less_and_obstacles_are_not_smeared(clip: Clip) -> None:
    raw, plain, flow = (measure(clip, s) for s in (None, Smoother(0.7, flow=False), Smoother(0.7)))
    for name, (flicker, miou, obstacle) in (("raw", raw), ("plain", plain), ("flow", flow)):
        print(f"{name}: flicker {100 * flicker:.2f} %, mIoU {100 * miou:.1f}, obstacle {100 * obstacle:.1f}")
    assert flow[0] < 0.5 * raw[0]
    assert flow[1] > raw[1]
    assert flow[1] >= plain[1] - 0.002
    assert flow[2] > plain[2] - 0.005


@given(st.integers(1, 9), st.integers(2, 12), st.integers(2, 12), st.floats(0, 0.95), st.booleans())
def test_scores_stay_distributions(c: int, h: int, w: int, weight: float, flow: bool) -> None:
    rng = np.random.default_rng(c)
    smoother = Smoother(weight, flow=flow)
    for _ in range(3):
        frame = rng.integers(0, 255, (8 * h, 8 * w, 3), dtype=np.uint8)
        scores = rng.dirichlet(np.ones(c), (h, w)).transpose(2, 0, 1).astype(np.float32)
        steady = smoother(frame, scores)
        assert steady.shape == scores.shape
        np.testing.assert_allclose(steady.sum(0), 1, atol=1e-4)
        assert steady.min() >= -1e-6


def test_the_past_follows_the_picture() -> None:
    rng = np.random.default_rng(1)
    wide = cv2.GaussianBlur(rng.integers(0, 255, (120, 260, 3), dtype=np.uint8), (0, 0), 3)
    smoother = Smoother(0.9)
    onehot = np.zeros((2, 20, 20), np.float32)
    onehot[0] = 1
    onehot[:, 8:12, 8:12] = [[[0.0]], [[1.0]]]
    smoother(np.ascontiguousarray(wide[:, 60:180]), onehot)
    # The camera turns by two cells; the new scores say nothing.
    steady = smoother(np.ascontiguousarray(wide[:, 72:192]), np.full((2, 20, 20), 0.5, np.float32))
    rows, columns = np.nonzero(steady[1] > 0.6)
    assert columns.mean() == pytest.approx(7.5, abs=0.8)
    assert rows.mean() == pytest.approx(9.5, abs=0.8)


def test_a_cut_forgets_the_past() -> None:
    smoother = Smoother(0.9)
    past = np.zeros((2, 10, 10), np.float32)
    past[0] = 1
    smoother(np.zeros((60, 60, 3), np.uint8), past)
    new = past[::-1].copy()
    np.testing.assert_allclose(smoother(np.full((60, 60, 3), 200, np.uint8), new), new, atol=1e-3)


@pytest.mark.parametrize(
    ("grid", "picture"), [((24, 32), (144, 192)), ((176, 320), (176, 320)), ((6, 8), (66, 88))]
)
def test_the_picture_of_the_flow_stays_small(grid: tuple[int, int], picture: tuple[int, int]) -> None:
    """A student's scores are ten times as fine as a ViT's: six pixels a cell would be 1920 across."""
    smoother = Smoother(0.5)
    smoother(np.zeros((352, 640, 3), np.uint8), np.full((3, *grid), 1 / 3, np.float32))
    assert smoother._past is not None
    assert smoother._past[0].shape == picture
