"""Classes in another look: where, how often, and of what."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from il2vseg.learning.batches import Batches, Looks
from il2vseg.learning.restyle import Restyling, clouds, recolour, restyle, waves
from il2vseg.learning.views import Augmentation
from tests.core.test_distiller import png

SIZE = (64, 96)
HORIZON = 30
NEVER = Restyling(0.0, 0.0, 0.0)


def scene() -> tuple[NDArray[np.uint8], list[NDArray[np.float32]]]:
    """A frame (64, 96, 3) of sky above water, with some texture, and the coverage of both."""
    rng = np.random.default_rng(5)
    frame = rng.integers(90, 130, (*SIZE, 3)).astype(np.uint8)
    frame[HORIZON:] //= 2
    sky = np.zeros(SIZE, np.float32)
    sky[:HORIZON] = 1
    return frame, [sky, 1 - sky]


def changed(after: NDArray[np.uint8], before: NDArray[np.uint8]) -> tuple[bool, bool]:
    """Whether sky and water differ."""
    difference = (after != before).any(2)
    return bool(difference[:HORIZON].any()), bool(difference[HORIZON:].any())


@pytest.mark.parametrize(
    ("settings", "ground", "sky", "expected"),
    [
        (NEVER, 1, 0, (False, False)),
        (Restyling(0.0, 1.0, 0.0), 1, 0, (False, True)),
        (Restyling(0.0, 1.0, 0.0), None, 0, (False, False)),
        (Restyling(0.0, 0.0, 1.0), 1, 0, (True, False)),
        (Restyling(0.0, 0.0, 1.0), 1, None, (False, False)),
        (Restyling(1.0, 0.0, 0.0), None, None, (True, True)),
    ],
)
def test_each_change_stays_in_its_class(
    settings: Restyling, ground: int | None, sky: int | None, expected: tuple[bool, bool]
) -> None:
    frame, regions = scene()
    before = frame.copy()
    seen = [False, False]
    for seed in range(5):
        after = restyle(np.random.default_rng(seed), frame, regions, ground, sky, settings)
        assert after.dtype == np.uint8
        seen = [a or b for a, b in zip(seen, changed(after, before), strict=True)]
    assert tuple(seen) == expected
    np.testing.assert_array_equal(frame, before)


def test_shares_are_probabilities_of_each_region_by_itself() -> None:
    frame, regions = scene()
    counts = np.zeros((2, 2))
    for seed in range(200):
        after = restyle(np.random.default_rng(seed), frame, regions, None, None, Restyling(0.5, 1.0, 1.0))
        sky, water = changed(after, frame)
        counts[int(sky), int(water)] += 1
    assert (counts / 200 > 0.15).all()


def test_colours_change_the_mean_and_the_contrast_of_a_region_alone() -> None:
    frame, (_, water) = scene()
    gains, contrasts = [], []
    for seed in range(60):
        out = frame.astype(np.float32)
        recolour(np.random.default_rng(seed), out, water)
        np.testing.assert_array_equal(out[:HORIZON], frame[:HORIZON])
        gains.append(out[HORIZON:].mean() / frame[HORIZON:].mean())
        contrasts.append(out[HORIZON:, :, 0].std() / frame[HORIZON:, :, 0].std())
    assert min(gains) < 0.65
    assert max(gains) > 1.5
    assert min(contrasts) < 0.6
    assert max(contrasts) > 1.6
    few = np.zeros(SIZE, np.float32)
    few[0, :5] = 1  # less than sixteen pixels have no look
    out = frame.astype(np.float32)
    recolour(np.random.default_rng(0), out, few)
    np.testing.assert_array_equal(out, frame)


def test_waves_are_finer_far_away() -> None:
    """Across a row, waves at the water's edge change sign more often than those at the bottom."""
    water = np.zeros((120, 200), np.float32)
    water[40:] = 1
    crossings = {60: 0, 115: 0}
    for seed in range(12):
        out = np.full((120, 200, 3), 100, np.float32)
        waves(np.random.default_rng(seed), out, water)
        assert (out[:40] == 100).all()
        for row in crossings:
            line = out[row, :, 0] - out[row, :, 0].mean()
            crossings[row] += int((line[1:] * line[:-1] < 0).sum())
    assert crossings[60] > 1.5 * crossings[115] > 0
    dry = np.full((120, 200, 3), 100, np.float32)
    waves(np.random.default_rng(0), dry, np.zeros((120, 200), np.float32))
    assert (dry == 100).all()


def test_clouds_are_smooth_and_leave_some_of_the_sky() -> None:
    shares = []
    for seed in range(20):
        out = np.full((96, 128, 3), 10, np.float32)
        clouds(np.random.default_rng(seed), out, np.ones((96, 128), np.float32))
        shares.append(float((out > 12).any(2).mean()))
        steps = np.abs(np.diff(out[..., 0], axis=0))
        assert np.median(steps) < 12
    assert 0.2 < np.mean(shares) < 0.8
    assert min(shares) < 0.5


def test_batches_show_the_classes_of_their_targets_in_other_looks() -> None:
    frame, regions = scene()
    frame[..., 1:] = frame[..., :1]  # a grey frame has no hue to turn
    scores = np.stack([cv2.resize(r, (24, 16)) for r in regions])[None].repeat(2, 0)
    still = Augmentation(zoom=1.0, stretch=1.0, tilt=0.0, colour=0.0, shade=0.0, dim=0.0, degrade=0.0)

    def crops(looks: Looks | None) -> NDArray[np.uint8]:
        frames = [png(frame), png(frame)]
        cells = (scores * 255).astype(np.uint8)
        batches = Batches(frames, cells, SIZE, SIZE, 4, 2, 3, still, None, looks)
        return np.asarray(batches(0).crops[0])

    plain = crops(None)
    np.testing.assert_array_equal(crops(Looks(1, 0, NEVER)), plain)
    waved = crops(Looks(1, 0, Restyling(0.0, 1.0, 0.0)))
    np.testing.assert_array_equal(plain[: HORIZON - 6], waved[: HORIZON - 6])
    assert (plain[HORIZON + 6 :] != waved[HORIZON + 6 :]).mean() > 0.3
