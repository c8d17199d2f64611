"""What decides the whitening and the number of classes: which tokens are seen, in how many dimensions."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from il2vseg.base.errors import UserError
from il2vseg.learning import selection as module
from il2vseg.learning.draws import step_generator
from il2vseg.learning.selection import (
    Candidate,
    ClassCount,
    Proposal,
    Selection,
    choose_whitening,
    chosen_count,
    components_for,
    cross_scene_stability,
    propose_classes,
    token_statistics,
)
from tests.core.test_trainer import BandStore


class Store:
    """Images whose tokens tell which image and which position they are of, and noise in further channels."""

    def __init__(self, images: int, grid: tuple[int, int] = (3, 4), dim: int = 5) -> None:
        self.grid = grid
        n = grid[0] * grid[1]
        self._tokens = torch.randn(images, n, dim, generator=torch.Generator().manual_seed(0))
        self._tokens[..., 0] = torch.arange(images)[:, None]
        self._tokens[..., 1] = torch.arange(n)

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, images: Tensor) -> Tensor:
        return self._tokens[images]

    def view_tokens(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def colours(self, images: Tensor, scale: int) -> Tensor:
        raise NotImplementedError


def taken(store: Store) -> Tensor:
    """The tokens of the sample, as they are."""

    def whitening(tokens: Tensor, index: Tensor) -> Tensor:
        return torch.take_along_dim(tokens, index[..., None], 1)

    return module._sample(store)(whitening)  # type: ignore[arg-type]


def test_ninety_six_tokens_of_six_hundred_images_are_seen() -> None:
    sample = taken(Store(1199, (10, 12)))
    assert sample.shape == (600, 96, 5)
    assert sample[:, 0, 0].tolist() == list(range(0, 1199, 2))  # spread evenly, first and last among them
    assert (sample[..., 0] == sample[:, :1, 0]).all()
    generator = step_generator(0, "choose", 0)  # whatever the seed of the training
    positions = torch.rand(600, 120, generator=generator).argsort(1)[:, :96]
    assert torch.equal(sample[..., 1], positions.float())


def test_of_less_everything_is_seen() -> None:
    sample = taken(Store(3))
    assert sample.shape == (3, 12, 5)
    assert sample[:, 0, 0].tolist() == [0, 1, 2]
    assert [sorted(image) for image in sample[..., 1].tolist()] == [list(range(12))] * 3


def watched(
    monkeypatch: pytest.MonkeyPatch, scores: Sequence[float]
) -> list[tuple[tuple[int, ...], int, int]]:
    """What stability is asked of: shape of the tokens, classes, restarts; it answers `scores`."""
    seen: list[tuple[tuple[int, ...], int, int]] = []

    def stability(z: Tensor, num_classes: int, restarts: int = 3) -> list[float]:
        seen.append((tuple(z.shape), num_classes, restarts))
        return list(scores)

    monkeypatch.setattr(module, "cross_scene_stability", stability)
    return seen


@pytest.mark.parametrize(("dim", "most"), [(12, 11), (17, 16), (30, 16)])
def test_classes_up_to_sixteen_are_tried_in_one_dimension_more(
    monkeypatch: pytest.MonkeyPatch, dim: int, most: int
) -> None:
    seen = watched(monkeypatch, [0.5, 0.25, 0.25])
    store = Store(4, dim=dim)
    proposal = propose_classes(store, token_statistics(store), False)
    assert seen == [((4, 12, k + 1), k, 2) for k in range(2, most + 1)]
    assert proposal.curve == tuple(ClassCount(k, 0.3333, 0.1179) for k in range(2, most + 1))
    assert proposal.num_classes == most


def test_both_centrings_are_tried_where_none_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(4)
    statistics = token_statistics(store)
    asked: list[tuple[int, bool]] = []
    whitening = statistics.whitening
    monkeypatch.setattr(statistics, "whitening", lambda k, c: (asked.append((k, c)), whitening(k, c))[1])
    seen = watched(monkeypatch, [1.0])
    propose_classes(store, statistics)
    assert [k for _, k, _ in seen] == [2, 2, 3, 3, 4, 4]
    propose_classes(store, statistics, True)
    assert asked == [(5, False), (5, True), (5, True)]


def test_centring_is_decided_in_one_dimension_more_than_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched(monkeypatch, [0.5, 0.25, 0.25])
    store = Store(4)
    found = choose_whitening(store, token_statistics(store), 3)
    assert seen == [((4, 12, 4), 3, 3)] * 2
    assert found.candidates == (Candidate(4, False, 0.3333), Candidate(4, True, 0.3333))
    assert (found.components, found.centre) == (5, False)  # six, of five channels; as stable: not centred
    assert found.criterion == "stability across scenes 0.33 not centred, 0.33 centred"
    seen.clear()
    choose_whitening(store, token_statistics(store), 9)
    assert seen[0] == ((4, 12, 5), 9, 3)


def test_two_images_are_scenes_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched(monkeypatch, [1.0])
    store = Store(2)
    assert choose_whitening(store, token_statistics(store), 2).criterion.startswith("stability")
    assert propose_classes(store, token_statistics(store)).num_classes == 4
    assert len(seen) == 2 + 2 * 3


def test_what_is_asked_for_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched(monkeypatch, [1.0])
    store = Store(4, dim=40)
    statistics = token_statistics(store)
    assert choose_whitening(store, statistics, 3, 7, True) == Selection(
        7, True, "centring set by the user or the method"
    )
    assert choose_whitening(store, statistics, 3, centre=False, clusters=20).components == 30
    assert seen == []


def test_dimensions_for_clusters_to_be_named_are_half_as_many_again() -> None:
    assert [components_for(3, 384, clusters) for clusters in (None, 4, 5, 32, 50)] == [6, 6, 7, 48, 64]
    assert components_for(3, 40, 32) == 40
    assert module.AUTO_CLUSTERS == 32


def test_restarts_of_the_stability_have_seeds_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def prototypes(tokens: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        seeds.append(generator.initial_seed())
        torch.testing.assert_close(tokens.norm(dim=1), torch.ones(len(tokens)))
        return torch.eye(4)[:num_classes]

    monkeypatch.setattr(module, "over_clustered_prototypes", prototypes)
    cross_scene_stability(5 * torch.eye(4)[:, None].expand(4, 2, 4), 3)
    each = [step_generator(restart, "select", 0).initial_seed() for restart in (0, 0, 1, 1, 2, 2)]
    assert seeds == each + each


def test_statistics_are_of_every_image() -> None:
    statistics = token_statistics(Store(70))
    assert statistics.count == 70 * 12
    assert statistics.total[0] == 12 * sum(range(70))


def test_choices_in_words_and_as_plain_values() -> None:
    chosen = Selection(6, True, "why", (Candidate(4, True, 0.5),))
    assert chosen.summary() == "whitening: 6 dimensions, tokens centred per image (why)"
    assert dataclasses.replace(chosen, centre=False).summary() == (
        "whitening: 6 dimensions, tokens not centred (why)"
    )
    assert chosen.to_dict() == {
        "components": 6, "centre": True, "criterion": "why",
        "candidates": [{"components": 4, "centre": True, "stability": 0.5}],
    }  # fmt: skip
    proposal = Proposal(3, (ClassCount(2, 0.5, 0.1), ClassCount(3, 0.625, 0.2)))
    assert proposal.summary() == "number of classes: 3 (stability across scenes 2: 0.50, 3: 0.62)"
    assert proposal.to_dict() == {
        "num_classes": 3,
        "curve": [
            {"num_classes": 2, "stability": 0.5, "spread": 0.1},
            {"num_classes": 3, "stability": 0.625, "spread": 0.2},
        ],
    }


# --- on tokens whose classes are known ----------------------------------------------------------------------


class SceneStore(BandStore):
    """Band images from four scenes, each with an offset of its own that is larger than the classes."""

    def __init__(self) -> None:
        super().__init__(images=40)  # more than are whitened at once
        scene = torch.arange(40) // 10
        self._tokens = self._tokens + 12.0 * torch.eye(12)[4 + scene][:, None]


def test_centring_is_chosen_where_clusters_would_follow_scenes() -> None:
    store = SceneStore()
    selection = choose_whitening(store, token_statistics(store), 3)
    assert selection.centre
    by_centre = {c.centre: c.stability for c in selection.candidates}
    assert by_centre[True] > by_centre[False] + 0.2


class PlainStore(BandStore):
    """Images of a single class each: their mean tokens are all that tells them apart."""

    def __init__(self) -> None:
        super().__init__(images=16)
        generator = torch.Generator().manual_seed(1)
        self._tokens = 3.0 * torch.eye(3, 12)[torch.arange(16) % 3][:, None]
        self._tokens = self._tokens + 0.3 * torch.randn(16, 48, 12, generator=generator)


def test_centring_is_left_out_where_it_would_take_the_classes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CLASSES", 3)
    store = PlainStore()
    assert not choose_whitening(store, token_statistics(store), 3).centre
    statistics = token_statistics(store)
    either, not_centred = (propose_classes(store, statistics, centre) for centre in (None, False))
    assert either.curve[1] == not_centred.curve[1]
    assert either.curve[1].stability > 0.98


def test_one_image_is_not_centred() -> None:
    store = BandStore(images=1)
    selection = choose_whitening(store, token_statistics(store), 3)
    assert (selection.components, selection.centre, selection.candidates) == (6, False, ())


def test_scenes_are_the_halves_of_the_footage_and_its_alternate_quarters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[int]] = []

    def prototypes(tokens: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        seen.append(sorted(set(tokens.argmax(1).tolist())))
        return torch.eye(8)[:num_classes]

    monkeypatch.setattr(module, "over_clustered_prototypes", prototypes)
    images = torch.eye(8)[:, None].expand(8, 5, 8)  # image i points along axis i
    assert len(cross_scene_stability(images, 3)) == 2 * 3
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7]] * 3 + [[0, 1, 4, 5], [2, 3, 6, 7]] * 3
    seen.clear()
    cross_scene_stability(images[:3], 3, restarts=1)
    assert seen == [[0, 1], [2], [0, 2], [1]]
    seen.clear()
    cross_scene_stability(images[:2], 2, restarts=1)
    assert seen == [[0], [1]] * 2  # two images: every second one where the quarters do not divide them


def test_dimensions_follow_the_number_of_classes() -> None:
    assert [components_for(c, 384) for c in (2, 3, 11, 27)] == [3, 6, 64, 64]
    assert components_for(27, 12) == 12


def test_the_number_of_classes_that_the_scenes_agree_on_is_proposed() -> None:
    store = BandStore(images=16)
    proposal = propose_classes(store, token_statistics(store))
    assert proposal.num_classes == 3
    stability = {c.num_classes: c.stability for c in proposal.curve}
    assert stability[3] > 0.98 > stability[5]
    assert proposal.to_dict()["curve"][1]["num_classes"] == 3


def test_a_larger_number_counts_when_it_is_nearly_as_stable() -> None:
    curve = [ClassCount(2, 0.8, 0.1), ClassCount(3, 0.71, 0.2), ClassCount(4, 0.69, 0.3)]
    assert chosen_count(curve) == 3


def test_one_image_has_no_scenes_to_compare() -> None:
    store = BandStore(images=1)
    with pytest.raises(UserError, match="pass a number of classes"):
        propose_classes(store, token_statistics(store))
