"""How a trainer finds prototypes: by which clustering, of which embeddings, with which draws."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from il2vseg.learning import clustering
from il2vseg.learning import trainer as trainer_module
from il2vseg.learning.draws import step_generator
from il2vseg.learning.processes import Processes
from il2vseg.learning.store import sample_embeddings
from il2vseg.learning.trainer import Trainer
from il2vseg.methods.base import Context, Method, Recipe, Stage
from il2vseg.methods.il2vseg import IL2Vseg
from il2vseg.methods.kmeans import KMeans
from il2vseg.models.segmenter import low_level_scores
from il2vseg.models.spec import LowLevelSpec
from tests.steps import GRID, IMAGES, C, N, trainer


@pytest.mark.parametrize(
    ("setting", "restarts", "used"),
    [
        ("ward", 1, ("over_clustered_prototypes",)),
        ("ward", 2, ("agreeing_prototypes", 2)),
        ("ward", 16, ("agreeing_prototypes", 16)),
        ("minibatch", 1, ("minibatch_kmeans",)),
        ("minibatch", 16, ("minibatch_kmeans",)),
    ],
)
def test_prototypes_are_found_by_the_clustering_asked_for(
    monkeypatch: pytest.MonkeyPatch, setting: str, restarts: int, used: tuple[object, ...]
) -> None:
    calls: list[tuple[object, ...]] = []
    data: list[list[Tensor]] = []

    def watch(name: str) -> None:
        def cluster(x: Tensor, k: int, generator: torch.Generator, *rest: object) -> object:
            data.append(list(x) if name == "minibatch_kmeans" else [x])
            calls.append((name, *rest))
            assert generator.initial_seed() == step_generator(5, "clusters", 0).initial_seed()
            return torch.eye(64)[:k]

        monkeypatch.setattr(clustering, name, cluster)

    for name in ("over_clustered_prototypes", "agreeing_prototypes", "minibatch_kmeans"):
        watch(name)
    t = trainer(KMeans(restarts=restarts), clustering=setting, seed=5)
    torch.testing.assert_close(t.find_prototypes(), torch.eye(64)[:C])
    assert calls == [used]
    everything = t.classifier.head(t.classifier.whitening(t.store.tokens(torch.arange(IMAGES)))).flatten(0, 1)
    (seen,) = data
    assert [len(part) for part in seen] == [IMAGES * N]  # every token of every image
    torch.testing.assert_close(
        torch.cat(seen).double().sort(0).values, everything.detach().double().sort(0).values
    )
    if setting == "ward":
        torch.testing.assert_close(seen[0], sample_embeddings(t.classifier, t.store, 5))
    else:  # images in an order of their own
        order = torch.randperm(IMAGES, generator=step_generator(5, "clusters", 0))
        first = everything.unflatten(0, (IMAGES, N))[order[0]]
        torch.testing.assert_close(seen[0][:N].sort(0).values, first.detach().sort(0).values)


def test_another_seed_finds_other_prototypes() -> None:
    one, two = (trainer(KMeans(), seed=seed).find_prototypes() for seed in (0, 1))
    assert not torch.equal(one, two)


def test_a_method_without_stages_ends_with_prototypes() -> None:
    t = trainer(KMeans())
    t.run()
    torch.testing.assert_close(t.classifier.global_prototypes, t.find_prototypes())
    assert (t.steps_done(), t.position, t.usage) == (0, (0, 0), None)


def test_features_are_brought_to_the_device_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = trainer(KMeans())
    assert plain.store.grid == GRID
    given: list[tuple[object, torch.device]] = []
    monkeypatch.setattr(
        trainer_module,
        "FeatureStoreOnDevice",
        lambda store, device: (given.append((store, device)), store)[1],
    )
    device = torch.device("meta")
    recipe = dataclasses.replace(Recipe(KMeans()), num_classes=C)
    Trainer(plain.store, plain.classifier.whitening, recipe, Processes(device))
    assert given == [(plain.store, device)]


def test_score_maps_are_those_of_the_classifier_and_of_the_colours() -> None:
    t = trainer(IL2Vseg())
    images = torch.tensor([2, 0])
    maps = t.score_maps(images)
    embeddings = t.classifier.head(t.classifier.whitening(t.store.tokens(images)))
    p_seg = t.classifier.logits(embeddings, t.classifier.global_prototypes).softmax(2)
    torch.testing.assert_close(maps["F_seg"].flatten(2).transpose(1, 2), p_seg.detach())
    f_l = low_level_scores(t.store.colours(images, 1), maps["F_seg"], LowLevelSpec())
    torch.testing.assert_close(maps["F_l"], f_l)
    torch.testing.assert_close(maps["F_f"], 0.85 * maps["F_seg"] + 0.15 * f_l)


@pytest.mark.parametrize("grid", [(10, 2), (2, 10)])
def test_mini_batches_are_of_all_tokens_of_any_grid(
    monkeypatch: pytest.MonkeyPatch, grid: tuple[int, int]
) -> None:
    t = trainer(KMeans(), clustering="minibatch")
    t.store.grid = grid
    sizes: list[int] = []

    def cluster(batches: Iterable[Tensor], k: int, generator: torch.Generator) -> Tensor:
        sizes.extend(map(len, batches))
        return torch.eye(64)[:k]

    monkeypatch.setattr(clustering, "minibatch_kmeans", cluster)
    t.find_prototypes()
    assert sizes == [IMAGES * N]


def test_what_a_stage_derives_is_found_once_from_all_images_by_the_seed_and_its_name() -> None:
    found: list[Context] = []

    @dataclass(frozen=True)
    class Deriving(Stage):
        def derive(self, context: Context) -> dict[str, Tensor]:
            found.append(context)
            return {"answer": torch.tensor(42)}

        def losses(self, context: Context) -> dict[str, Tensor]:
            return {}

    @dataclass(frozen=True)
    class Once(Method):
        first: Deriving = Deriving()

    t = trainer(Once(), seed=5)
    assert [t.derived("first")["answer"].item() for _ in range(2)] == [42, 42]
    (context,) = found
    assert context.generator.initial_seed() == step_generator(5, "derive first", 0).initial_seed()
    assert context.images.tolist() == list(range(IMAGES))
    assert (context.step, context.store, context.classifier) == (0, t.store, t.classifier)
