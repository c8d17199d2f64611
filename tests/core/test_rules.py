"""Rules of a student's scores."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from il2vseg.models.rules import rules

NAMES = ("water", "sky", "obstacle")


def sea() -> Tensor:
    """Scores (1, 3, 32, 32) of a frame of 64x64: sky above row 12, water below."""
    scores = torch.zeros(1, 3, 32, 32)
    scores[:, 1, :12], scores[:, 0, 12:] = 1.0, 1.0
    return scores


def mixed(*shares: float) -> Tensor:
    """One cell's scores of water, sky and obstacle."""
    return torch.tensor(shares)[:, None, None]


def test_sky_with_water_above_it_is_an_obstacle() -> None:
    rule = rules(NAMES, (64, 64), 2)
    scores = sea()
    scores[:, :, 24:28, 8:16] = mixed(0.1, 0.8, 0.1)
    settled = rule(scores)
    assert (settled[0, :, 24:28, 8:16].argmax(0) == 2).all()
    torch.testing.assert_close(settled[:, :, :12], scores[:, :, :12])
    near = scores.clone()
    near[:, :, 12:14] = scores[:, :, 24:26, 8:9]
    assert (rule(near)[0, :, 12:14, 20].argmax(0) == 1).all(), "sky at the water's edge stays"


@pytest.mark.parametrize("stride", [2, 4])
def test_the_odds_of_an_obstacle_double_in_open_water_and_nowhere_else(stride: int) -> None:
    size = 256 // stride
    scores = torch.zeros(1, 3, size, size)
    half = size // 2
    scores[:, :, :half], scores[:, :, half:] = mixed(0.0, 0.7, 0.3), mixed(0.7, 0.0, 0.3)
    scores[:, :, half + half // 2 :] = mixed(1.0, 0.0, 0.0)
    scores[:, :, -size // 8 :, 4:8] = mixed(0.65, 0.0, 0.35)
    settled = rules(NAMES, (256, 256), stride)(scores)[0]
    odds = settled[2] / (1 - settled[2])
    torch.testing.assert_close(odds[: half - 1], torch.full_like(odds[: half - 1], 3 / 7))
    floating = odds[-size // 8 :, 4:8]
    torch.testing.assert_close(floating, torch.full_like(floating, 2.01375 * 35 / 65))
    assert (settled[:, -size // 8 :, 4:8].argmax(0) == 2).all(), "35 % are enough there"
    assert (settled[:, half : half + 2].argmax(0) == 0).all(), "and 30 % at the shore are not"


@settings(max_examples=30)
@given(st.integers(0, 2**31 - 1), st.permutations((*NAMES, "other")))
def test_scores_stay_a_distribution_whatever_the_order_of_the_classes(seed: int, names: list[str]) -> None:
    generator = torch.Generator().manual_seed(seed)
    first = ("other", *NAMES)
    logits = 4 * torch.randn(2, 4, 16, 24, generator=generator)
    logits[:, 1] += 4  # mostly water
    scores = logits.softmax(1)
    settled = rules(names, (64, 96), 4)(scores[:, [first.index(n) for n in names]])
    assert settled.min() >= 0
    torch.testing.assert_close(settled.sum(1), torch.ones(2, 16, 24))
    torch.testing.assert_close(settled, rules(first, (64, 96), 4)(scores)[:, [first.index(n) for n in names]])


def test_on_a_road_the_odds_of_an_obstacle_double_everywhere() -> None:
    scores = (4 * torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(3))).softmax(1)
    settled = rules(("road", "sky", "obstacle"), (64, 96), 4)(scores)
    torch.testing.assert_close(settled.sum(1), torch.ones(2, 16, 24))
    odds, before = (x[:, 2] / x[:, :2].sum(1) for x in (settled, scores))
    torch.testing.assert_close(odds / before, torch.full_like(odds, 2.01375))


@pytest.mark.parametrize(
    "names", [("road", "sky", "car"), ("lawn", "sky", "obstacle"), ("water", "sky", "hull")]
)
def test_other_classes_know_no_such_rules(names: tuple[str, ...]) -> None:
    scores = torch.rand(1, 3, 32, 32)
    assert torch.equal(rules(names, (64, 64), 2)(scores), scores)
