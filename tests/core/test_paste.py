"""Pasting: what is labelled obstacle is what was drawn, on water, and images in the water stay water."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from il2vseg.base.classes import ground_of
from il2vseg.learning.batches import Batches, Standing, afloat, ahead
from il2vseg.learning.paste import PASTINGS, Cutout, Pasting, cut_out, paste
from il2vseg.learning.paste.decoys import DECOYS, night
from il2vseg.learning.paste.shapes import SHAPES, silhouette
from il2vseg.learning.views import Augmentation

SHAPE = (96, 160)
EDGE = 40


def scene() -> tuple[np.ndarray, np.ndarray]:
    frame = np.full((*SHAPE, 3), 90, np.uint8)
    frame[:EDGE] = 200
    water = np.zeros(SHAPE, np.float32)
    water[EDGE:] = 1
    return frame, water


@given(seed=st.integers(0, 2**31))
@settings(max_examples=30)
def test_what_changed_above_the_water_was_pasted_and_stands_in_it(seed: int) -> None:
    frame, water = scene()
    pasted = paste(np.random.default_rng(seed), frame, water, settings=Pasting(share=1.0, night=0.0))
    changed = (pasted.frame != frame).any(2)
    assert not (changed[:EDGE] & (pasted.solid[:EDGE] == 0)).any()
    assert (pasted.weight[pasted.solid > 127] >= 1).all()
    assert (pasted.weight[cv2.dilate(pasted.solid, np.ones((15, 15))) == 0] == 1).all()
    assert pasted.solid[EDGE:].any()
    assert np.array_equal(frame, scene()[0])


def test_something_is_pasted_as_often_as_asked() -> None:
    frame, water = scene()
    half = Pasting(share=0.5, night=0.5)
    made = [paste(np.random.default_rng(i), frame, water, settings=half) for i in range(60)]
    assert 15 < sum(p.solid.any() for p in made) < 45
    assert 15 < sum(p.frame[:EDGE].mean() < 120 for p in made) < 45
    never = paste(np.random.default_rng(0), frame, water, settings=Pasting(share=0.0, decoys=0.0, night=0.0))
    assert np.array_equal(never.frame, frame)
    assert not never.solid.any()


def test_a_road_has_markings_and_shadows_and_is_seldom_a_mirror() -> None:
    assert {kind.__name__ for kind in PASTINGS["road"].decoy_kinds} == {"wake", "shadow"}
    frame, ground = scene()
    below = []
    for mirrored in (0.0, 1.0):
        on = replace(PASTINGS["road"], share=1.0, decoys=0.0, mirrored=mirrored)
        all_pasted = [paste(np.random.default_rng(i), frame, ground, settings=on) for i in range(8)]
        below.append(sum(((p.frame != frame).any(2) & (p.solid == 0)).sum() for p in all_pasted))
    assert below[0] == 0 < below[1]
    assert PASTINGS["road"].mirrored < 0.5 < PASTINGS["water"].mirrored


@pytest.mark.parametrize("ground", ["water", "road"])
def test_there_is_something_to_paste_on_every_ground(ground: str) -> None:
    assert ground_of(["sky", "obstacle", ground]) == ground
    assert ground in PASTINGS
    assert len(PASTINGS) == 2


def test_without_water_nothing_is_pasted() -> None:
    frame, water = scene()
    pasted = paste(np.random.default_rng(0), frame, water * 0, settings=Pasting(share=1.0, decoys=1.0))
    assert np.array_equal(pasted.frame, frame)
    assert not pasted.solid.any()


@pytest.mark.parametrize("decoy", DECOYS, ids=lambda d: d.__name__)
def test_decoys_change_water_alone(decoy) -> None:
    frame, water = scene()
    frame[:EDGE] = np.random.default_rng(1).integers(0, 255, (EDGE, SHAPE[1], 3))
    changed = frame.copy()
    for seed in range(5):
        decoy(np.random.default_rng(seed), changed, water, EDGE)
    assert np.array_equal(changed[:EDGE], frame[:EDGE])
    assert (changed[EDGE:] != frame[EDGE:]).any()


def test_at_night_all_is_dark_but_lamps_and_their_streaks_which_are_water() -> None:
    frame, water = scene()
    brightest = []
    for seed in range(8):
        dark = Pasting(share=0.0, decoys=0.0, night=1.0)
        pasted = paste(np.random.default_rng(seed), frame, water, settings=dark)
        assert not pasted.solid.any()
        assert np.median(pasted.frame[:EDGE]) < 0.6 * 200
        assert np.median(pasted.frame[EDGE:]) < 0.6 * 90
        brightest.append(pasted.frame[EDGE + 12 :].max())
    assert max(brightest) > 150


def test_what_hides_the_water_hides_the_streaks() -> None:
    frame, water = scene()
    water[EDGE + 10 :] = 0
    for seed in range(8):
        changed = frame.copy()
        night(np.random.default_rng(seed), changed, water)
        assert (changed[-10:] == changed[-1, 0]).all()


@given(seed=st.integers(0, 2**31), size=st.floats(4, 120))
@settings(max_examples=30)
def test_silhouettes_have_the_size_that_was_asked_for(seed: int, size: float) -> None:
    mask = silhouette(np.random.default_rng(seed), size)
    assert abs(max(mask.shape) - max(3, size)) <= 1
    assert (mask > 127).any()


def test_every_silhouette_fills_a_fair_share_of_its_box() -> None:
    for shape, _ in SHAPES:
        shares = []
        for seed in range(20):
            mask = np.zeros((60, 60), np.uint8)
            shape(np.random.default_rng(seed), mask)
            shares.append((mask > 127).mean())
        assert 0.08 < np.mean(shares) < 0.95, shape.__name__


def test_a_small_piece_counts_more_per_pixel_than_a_large_one() -> None:
    frame, water = scene()
    square = [Cutout(np.zeros((n, n, 3), np.uint8), np.full((n, n), 255, np.uint8)) for n in (6, 40)]
    weights = []
    for cutout in square:
        fixed = Pasting(
            share=1.0, most=1, cutouts=1.0, smallest=max(cutout.mask.shape), decoys=0.0, night=0.0
        )
        sized = Pasting(**{**vars(fixed), "largest": fixed.smallest + 0.1})
        pasted = [paste(np.random.default_rng(i), frame, water, (), [cutout], sized) for i in range(5)]
        weights.append(max(float(p.weight.max()) for p in pasted))
    assert weights[0] > 3.5
    assert weights[1] < 1.5


def test_pieces_afloat_are_found_and_land_is_not() -> None:
    water = np.full((40, 60), 255, np.uint8)
    solid = np.zeros_like(water)
    solid[20:26, 10:20] = 255  # a boat
    solid[5:12, 40:60] = 255  # a pier from the side
    solid[0:4, :] = 255
    water[solid > 0] = 0
    assert afloat(solid, water) == [(10, 20, 10, 6)]
    frame = np.zeros((40, 60, 3), np.uint8)
    (piece,) = cut_out(frame, solid > 127, [(9, 19, 12, 8)])
    assert piece.mask.sum() == 255 * 60


def batches(standing: Standing | None) -> Batches:
    rng = np.random.default_rng(0)
    frames = [
        cv2.imencode(".png", rng.integers(0, 255, (96, 192, 3), np.uint8))[1].tobytes() for _ in range(3)
    ]
    scores = np.zeros((3, 2, 24, 48), np.uint8)
    scores[:, 0, :8], scores[:, 1, 8:] = 255, 255
    return Batches(frames, scores, (96, 192), (64, 96), 2, 2, 0, Augmentation(), standing)


def test_a_batch_holds_what_was_pasted_at_the_stride_of_the_scores() -> None:
    batch = batches(Standing(ground=1, obstacle=0, pasting=Pasting(share=1.0)))(0)
    assert batch.crops.shape == (2, 64, 96, 3)
    assert batch.solid.shape == batch.weight.shape == (2, 32, 48)
    assert batch.solid.max() > 200
    plain = batches(None)(0)
    assert not plain.solid.any()
    assert (plain.weight == 1).all()


def test_workers_make_the_same_batches_in_the_same_order() -> None:
    source = batches(Standing(ground=1, obstacle=0))
    alone, together = (list(ahead(source, range(3), workers)) for workers in (0, 1))
    for a, b in zip(alone, together, strict=True):
        assert np.array_equal(a.crops, b.crops)
        assert np.array_equal(a.solid, b.solid)
