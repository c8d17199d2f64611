"""The loop, its presets, and exact resumption, on tokens whose classes are known."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from il2vseg.base.errors import UserError
from il2vseg.learning import clustering
from il2vseg.learning.draws import derangement, step_generator
from il2vseg.learning.selection import adjusted_rand_index, token_statistics
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
