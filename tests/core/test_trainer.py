"""The loop, its presets, and exact resumption, on tokens whose classes are known."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from il2vseg.base.errors import UserError
from il2vseg.learning import clustering
from il2vseg.learning import selection as selection_module
from il2vseg.learning.draws import derangement, step_generator
from il2vseg.learning.selection import (
    ClassCount,
    adjusted_rand_index,
    choose_whitening,
    chosen_count,
    components_for,
    cross_scene_stability,
    propose_classes,
    token_statistics,
)
from il2vseg.learning.trainer import Trainer
from il2vseg.methods import METHODS, load_method
from il2vseg.methods.base import Recipe
from il2vseg.methods.joint import FusedSmoothness, Joint
from il2vseg.methods.stego import Correspondence, Stego

SHORT = Recipe(
    Joint(
        correspondence=Correspondence(steps=6, samples=12),
        smoothness=FusedSmoothness(steps=8, samples=12, eigen_samples=8),
    ),
    batch=4,
)


class BandStore:
    """Tokens of n images on a grid of 6x8, D = 12: class j fills rows 2j and 2j+1, its mean is axis j."""

    grid = (6, 8)

    def __init__(self, images: int = 12, noise: float = 0.3, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.truth = (torch.arange(48) // 16).expand(images, -1)
        means = 3.0 * torch.eye(3, 12)
        self._tokens = means[self.truth] + noise * torch.randn(images, 48, 12, generator=generator)
        self._views = self._tokens + 0.1 * torch.randn(images, 48, 12, generator=generator)
        colours = torch.tensor([[0.2, 0.3, 0.9], [0.2, 0.7, 0.2], [0.9, 0.2, 0.2]])[self.truth]
        self._colours = colours.transpose(1, 2).reshape(images, 3, 6, 8)

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, images: Tensor) -> Tensor:
        return self._tokens[images]

    def view_tokens(self, images: Tensor) -> Tensor:
        return self._views[images]

    def colours(self, images: Tensor, scale: int) -> Tensor:
        return self._colours[images].repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def trainer(recipe: Recipe, seed: int = 0) -> Trainer:
    store = BandStore(seed=seed)
    return Trainer(store, token_statistics(store).whitening(4, False), recipe)


def labels(t: Trainer) -> Tensor:
    images = torch.arange(len(t.store))
    tokens = t.store.tokens(images).transpose(1, 2).reshape(len(images), -1, *t.store.grid)
    with torch.no_grad():
        return t.classifier(tokens).argmax(1).flatten()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_well_separated_classes(method: str) -> None:
    t = trainer(dataclasses.replace(SHORT, method=load_method(method)().with_steps(14)))
    t.run()
    assert adjusted_rand_index(labels(t), t.store.truth.flatten()) > 0.98  # type: ignore[attr-defined]


def test_the_same_seed_gives_the_same_model_twice() -> None:
    a, b = trainer(SHORT), trainer(SHORT)
    a.run()
    b.run()
    for name, value in a.classifier.state_dict().items():
        assert torch.equal(value, b.classifier.state_dict()[name]), name


@pytest.mark.parametrize("stop", [1, 5, 6, 7, 13])
def test_resuming_takes_exactly_the_steps_that_were_left(stop: int) -> None:
    whole: list[dict[str, float]] = []
    trainer(SHORT).run(lambda report: whole.append(report.losses))

    class Killed(Exception):
        pass

    first = trainer(SHORT)
    seen: list[dict[str, float]] = []

    def kill(report: object) -> None:
        seen.append(report.losses)  # type: ignore[attr-defined]
        if len(seen) == stop:
            raise Killed

    with pytest.raises(Killed):
        first.run(kill)
    second = trainer(SHORT)
    second.restore(*first.state())
    second.run(lambda report: seen.append(report.losses))
    assert seen == whole


@pytest.mark.parametrize("method", ["iic", "picie_h", "slotcon", "transfgu"])
def test_resuming_restores_the_parts_of_a_stage_and_the_end_drops_them(method: str) -> None:
    recipe = dataclasses.replace(SHORT, method=load_method(method)().with_steps(6))
    whole: list[dict[str, float]] = []
    finished = trainer(recipe)
    keys = set(finished.classifier.state_dict())
    finished.run(lambda report: whole.append(report.losses))
    assert set(finished.classifier.state_dict()) == keys

    class Killed(Exception):
        pass

    def kill(report: object) -> None:
        if report.step == 3:  # type: ignore[attr-defined]
            raise Killed

    first, second = trainer(recipe), trainer(recipe)
    with pytest.raises(Killed):
        first.run(kill)
    assert any(key.startswith("classifier.parts.") for key in first.state()[0])
    second.restore(*first.state())
    rest: list[dict[str, float]] = []
    second.run(lambda report: rest.append(report.losses))
    assert rest == whole[4:]


def test_a_finished_run_resumes_at_its_end() -> None:
    first, second = trainer(SHORT), trainer(SHORT)
    first.run()
    second.restore(*first.state())
    assert second.steps_done() == 14
    seen: list[object] = []
    second.run(seen.append)
    assert seen == []
    for name, value in first.classifier.state_dict().items():
        assert torch.equal(value, second.classifier.state_dict()[name]), name


def test_a_state_goes_through_a_file(tmp_path: Path) -> None:
    first, second = trainer(SHORT), trainer(SHORT)
    with pytest.raises(UserError, match="state: nothing to resume; start without --resume"):
        second.resume(tmp_path / "state")
    saved: list[int] = []
    first.run(save=lambda: saved.append(first.steps_done()))
    assert saved == []  # every fifty steps
    first.save(tmp_path / "state")
    assert second.resume(tmp_path / "state") == 14
    for name, value in first.classifier.state_dict().items():
        assert torch.equal(value, second.classifier.state_dict()[name]), name


def test_a_state_is_saved_every_fifty_steps() -> None:
    t = trainer(dataclasses.replace(SHORT, method=Stego(correspondence=Correspondence(steps=101, samples=4))))
    saved: list[int] = []
    t.run(save=lambda: saved.append(t.steps_done()))
    assert saved == [50, 100]


def test_a_state_of_another_recipe_is_refused() -> None:
    state = trainer(SHORT).state()
    with pytest.raises(UserError, match="settings differ"):
        trainer(dataclasses.replace(SHORT, seed=1)).restore(*state)


def test_a_state_of_other_footage_is_refused() -> None:
    first = trainer(SHORT)
    first.footage = "harbour"
    other = trainer(SHORT)
    other.footage = "river"
    with pytest.raises(UserError, match="saw other frames; give it the same footage"):
        other.restore(*first.state())
    tensors, description = first.state()
    del description["footage"]  # states of older versions do not say
    other.restore(tensors, description)


def test_a_derangement_pairs_nothing_with_itself() -> None:
    for n in (2, 3, 16):
        order = derangement(n, step_generator(0, "test", n))
        assert sorted(order.tolist()) == list(range(n))
        assert not bool((order == torch.arange(n)).any())


def test_whitened_tokens_have_unit_variance_and_no_mean() -> None:
    store = BandStore()
    whitening = token_statistics(store).whitening(5, centre=False)
    z = whitening(store.tokens(torch.arange(len(store)))).flatten(0, 1)
    torch.testing.assert_close(z.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.T @ z / len(z), torch.eye(5), atol=1e-3, rtol=0)


def test_whitening_of_selected_positions_is_that_of_all() -> None:
    store = BandStore()
    whitening = token_statistics(store).whitening(5, centre=True)
    tokens = store.tokens(torch.arange(3))
    index = torch.tensor([4, 0, 30])
    torch.testing.assert_close(whitening(tokens, index), whitening(tokens)[:, index])


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
    monkeypatch.setattr(selection_module, "MAX_CLASSES", 3)
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

    monkeypatch.setattr(selection_module, "over_clustered_prototypes", prototypes)
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


def test_rand_index_of_equal_and_unrelated_labelings() -> None:
    a = torch.arange(3000) % 3
    assert adjusted_rand_index(a, (a + 1) % 3) == pytest.approx(1.0)
    assert adjusted_rand_index(torch.arange(3000) % 6, a) == adjusted_rand_index(a, torch.arange(3000) % 6)
    assert 0.3 < adjusted_rand_index(torch.arange(3000) % 6, a) < 0.8
    b = torch.randint(3, (3000,), generator=torch.Generator().manual_seed(0))
    assert abs(adjusted_rand_index(a, b)) < 0.01


@pytest.mark.parametrize("recluster", [False, True])
def test_mini_batch_prototypes_find_well_separated_classes(recluster: bool) -> None:
    t = trainer(dataclasses.replace(SHORT, clustering="minibatch", recluster=recluster))
    t.run()
    assert adjusted_rand_index(labels(t), t.store.truth.flatten()) > 0.98  # type: ignore[attr-defined]


def test_mini_batch_centroids_are_the_running_means_of_their_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.nn.functional.normalize(torch.randn(4, 16, generator=generator), dim=1)
    x = means.repeat_interleave(600, 0) + 0.05 * torch.randn(2400, 16, generator=generator)
    batches = x[torch.randperm(2400, generator=generator)].split(300)
    found = clustering.minibatch_kmeans(iter(batches), 4, generator)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    assert float((found @ means.T).amax(0).min()) > 0.99


@pytest.mark.parametrize("recluster", [False, True])
def test_trained_prototypes_stay_unless_reclustering_is_asked_for(recluster: bool) -> None:
    t = trainer(dataclasses.replace(SHORT, recluster=recluster))
    c = t.run()
    lengths = c.global_prototypes.norm(dim=1)
    assert torch.equal(c.global_prototypes, c.local_prototypes.data) == recluster
    assert (
        torch.allclose(lengths, torch.ones(3)) == recluster
    )  # clusters are directions, what is trained is not


def test_living_prototypes_are_counted_over_all_micro_batches() -> None:
    t = trainer(dataclasses.replace(SHORT, micro_batches=2))
    seen: list[int | None] = []
    t.run(lambda report: seen.append(report.alive))
    assert seen == [None] * 6 + [3] * 8
    assert t.usage is not None
    assert float(t.usage.sum()) == pytest.approx(1.0)


def test_a_prototype_that_labels_nothing_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    t = trainer(SHORT)

    def step(name: str, index: int) -> dict[str, float]:
        t.usage = torch.tensor([0.7, 0.0, 0.3])
        return {}

    monkeypatch.setattr(t, "step", step)
    seen: list[int | None] = []
    t.run(lambda report: seen.append(report.alive))
    assert set(seen) == {2}


def test_score_maps_are_distributions_that_the_prediction_fuses() -> None:
    t = trainer(SHORT)
    t.run()
    maps = t.score_maps(torch.arange(2))
    assert list(maps) == ["F_seg", "F_l", "F_f"]
    for scores in maps.values():
        torch.testing.assert_close(scores.sum(1), torch.ones(2, 6, 8))
    alpha = 0.15
    torch.testing.assert_close(maps["F_f"], (1 - alpha) * maps["F_seg"] + alpha * maps["F_l"])


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
