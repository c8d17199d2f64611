"""Clusters described without masks, their canonical order, and names that survive another training."""

import base64
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from il2vseg.base.errors import UserError
from il2vseg.learning.clusters import ClusterFacts, ClusterSurvey, save_names, scene_of, survey_store
from il2vseg.learning.preparation import resolve_clusters
from il2vseg.learning.selection import components_for
from il2vseg.models.names import NamedClusters, Views, carry_over
from il2vseg.models.segmenter import Classifier
from il2vseg.models.spec import AdaptSpec, LowLevelSpec, ModelSpec
from il2vseg.models.whitening import Whitening
from il2vseg.train import TrainConfig

DIM = 6
AXES = torch.eye(DIM)


def classifier(prototypes: Tensor, basis: Tensor | None = None, centre: bool = True) -> Classifier:
    """A model whose embeddings are the tokens themselves, in 64 dimensions."""
    basis = torch.eye(DIM) if basis is None else basis
    made = Classifier(Whitening(DIM, len(basis), centre), len(prototypes))
    made.whitening.basis.copy_(basis)
    made.set_prototypes(torch.nn.functional.pad(prototypes, (0, 64 - prototypes.shape[1])))
    return made.eval()


def frames(seed: int = 0, count: int = 3) -> Tensor:
    """Tokens (count, D, 4, 5)."""
    return torch.randn(count, DIM, 4, 5, generator=torch.Generator().manual_seed(seed))


def survey(model: Classifier, scenes: list[Tensor], adapt: AdaptSpec | None = None) -> ClusterFacts:
    found = ClusterSurvey(model, adapt)
    for scene, tokens in enumerate(scenes):
        found.update(tokens, scene)
    return found.facts()


def test_facts_are_what_slow_loops_find() -> None:
    scenes = [frames(0), frames(1, 2)]
    model = classifier(torch.eye(DIM)[:3])
    facts = survey(model, scenes)
    count, rows = np.zeros(3), np.zeros(3)
    units, tokens, centred = np.zeros((3, DIM)), np.zeros((3, DIM)), np.zeros((3, DIM))
    for image in torch.cat(scenes).double().numpy():
        mean = image.mean((1, 2))
        for i in range(4):
            for j in range(5):
                y = image[:, i, j] - mean
                k = int(np.argmax(y[:3]))  # the closest of the axes that are prototypes
                count[k] += 1
                rows[k] += (i + 0.5) / 4
                units[k] += y / math.sqrt(float(y @ y))
                tokens[k] += image[:, i, j]
                centred[k] += y
    np.testing.assert_allclose(facts.share, count / 100, atol=1e-6)
    np.testing.assert_allclose(facts.height, rows / count, atol=1e-6)
    assert facts.scenes.shape == (3, 8)
    np.testing.assert_allclose(facts.scenes.sum(1), count / 100, atol=1e-6)
    weights = facts.scenes[:, :, None] * 100
    np.testing.assert_allclose((facts.tokens * weights).sum(1), tokens, atol=1e-4)
    np.testing.assert_allclose((facts.centred * weights).sum(1), centred, atol=1e-4)
    first = survey(model, scenes[:1])
    torch.testing.assert_close(facts.tokens[:, 0], first.tokens[:, 0])
    torch.testing.assert_close(facts.centred[:, 0], first.centred[:, 0])
    lengths = [math.sqrt(float(u @ u)) / n for u, n in zip(units, count, strict=True)]
    np.testing.assert_allclose(facts.spread, 1 - np.array(lengths), atol=1e-5)


def two_scenes(second: Tensor) -> ClusterFacts:
    """Cluster 0 is the upper half of two scenes: along axis 0 in the first, along `second` in the other."""
    scenes = []
    for direction in (torch.eye(DIM)[0], second):
        tokens = torch.zeros(3, DIM, 4, 5)
        tokens[:, :, :2] = direction[:, None, None]
        tokens[:, :, 2:] = -direction[:, None, None]
        scenes.append(tokens)
    return survey(classifier(torch.stack([torch.ones(DIM), -torch.ones(DIM), torch.eye(DIM)[5] * 9])), scenes)


def test_a_cluster_of_two_things_agrees_little_across_scenes() -> None:
    alike, unlike = two_scenes(torch.eye(DIM)[0]), two_scenes(torch.eye(DIM)[1])
    torch.testing.assert_close(alike.agreement[:2], torch.ones(2))
    torch.testing.assert_close(unlike.agreement[:2], torch.zeros(2), atol=1e-6, rtol=0)
    assert alike.purity() == ["spread 0.00, agreement 1.00", "spread 0.00, agreement 1.00", "absent"]
    turned = alike.ordered(torch.tensor([0, 2, 1]))
    assert turned.purity() == ["spread 0.00, agreement 1.00", "absent", "spread 0.00, agreement 1.00"]
    assert unlike.purity()[0] == "spread 0.29, agreement 0.00, mixed?"
    facts = survey(classifier(torch.eye(DIM)[:2]), [frames()])
    assert bool(facts.agreement.isnan().all())
    assert facts.purity()[0].endswith("one scene")


class Store:
    """Training images as a list of tokens, in the order of the footage."""

    grid = (4, 5)

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def tokens(self, images: Tensor) -> Tensor:
        return self.images[images].flatten(2).transpose(1, 2)


def test_training_images_are_surveyed_scene_by_scene_and_kept_with_their_names(tmp_path: Path) -> None:
    images = frames(0, 16)
    signs = 50.0 * torch.tensor([1.0, -1.0]).repeat(10).reshape(4, 5)
    images[14, 0], images[14, 1] = signs, -signs  # no token of cluster 2 there, and
    images[15, 2] = -5.0
    images[15, 2, 0, 0] = 95.0  # one here: less than 2 % of it in the last scene
    model = classifier(AXES[:3])
    facts = survey_store(model, Store(images), None)  # type: ignore[arg-type]
    expected = survey(model, [images[2 * i : 2 * i + 2] for i in range(8)])
    for name, values in vars(expected).items():
        torch.testing.assert_close(getattr(facts, name), values, equal_nan=True)
    spec = ModelSpec(
        "il2vseg",
        "tiny",
        "d1g3st",
        (64, 80),
        ("Böschung", "sky", "water"),
        0.0,
        0.1,
        True,
        LowLevelSpec(),
        "",
    )
    save_names(tmp_path, spec, facts)
    assert "Böschung" in (tmp_path / "names.yaml").read_text(encoding="utf-8")
    kept = NamedClusters.load(tmp_path / "names.yaml")
    assert (kept.backbone, kept.weights_sha256, kept.names) == ("tiny", "d1g3st", spec.class_names)
    shares = facts.scenes / facts.share[:, None]
    wanted = [(k, scene) for k in range(3) for scene in range(8) if shares[k, scene] >= 0.02]
    assert 0 < len(wanted) < 24
    assert kept.views.cluster.tolist() == [k for k, _ in wanted]
    at = tuple(torch.tensor(wanted).T)
    torch.testing.assert_close(kept.views.share, facts.scenes[at], atol=1e-5, rtol=0)
    torch.testing.assert_close(kept.views.tokens, facts.tokens[at], atol=5e-3, rtol=1e-3)
    torch.testing.assert_close(kept.views.centred, facts.centred[at], atol=5e-3, rtol=1e-3)


def test_scenes_are_equal_parts_of_the_footage() -> None:
    assert [scene_of(i, 16) for i in range(16)] == [i // 2 for i in range(16)]
    assert [scene_of(i, 3) for i in range(3)] == [0, 2, 5]


def test_the_order_of_clusters_is_from_top_to_bottom_whatever_their_numbers() -> None:
    scenes = [frames(0), frames(1)]
    axes = torch.eye(DIM)
    model = classifier(torch.stack([axes[0], -axes[0], 0 * axes[0], axes[1], -axes[1]]))
    model.set_prototypes(model.global_prototypes + torch.eye(64)[[63]] * torch.tensor([[0, 0, 1, 0, 0]]).T)
    before = survey(model, scenes)
    order = before.order()
    assert int(order[-1]) == 2  # absent
    heights = before.height[order[:-1]]
    assert bool((heights[1:] >= heights[:-1]).all())
    model.reorder(order)
    after = survey(model, scenes)
    torch.testing.assert_close(after.height, before.ordered(order).height)
    assert after.order().tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(model.local_prototypes, model.global_prototypes)


@pytest.mark.parametrize(
    ("classes", "clusters", "expected"),
    [(3, None, 6), (3, 12, 18), (3, 27, 40), (3, 32, 48), (3, 60, 64), (11, 12, 64)],
)
def test_dimensions_follow_the_number_of_clusters(classes: int, clusters: int | None, expected: int) -> None:
    assert components_for(classes, 384, clusters) == expected
    assert components_for(classes, 32, clusters) == min(32, expected)


def test_automatic_clusters_are_32() -> None:
    assert resolve_clusters(TrainConfig(clusters="auto")).clusters == 32
    assert resolve_clusters(TrainConfig(clusters="auto", num_classes=40)).clusters == 40
    assert resolve_clusters(TrainConfig(clusters=7)).clusters == 7
    assert resolve_clusters(TrainConfig()).clusters is None


def named(names: tuple[str, ...], views: list[tuple[int, float, Tensor]], digest: str = "x") -> NamedClusters:
    """Views (cluster, share, centred token); plain tokens are off by what an image's mean adds."""
    centred = torch.stack([vector for _, _, vector in views])
    share = torch.tensor([weight for _, weight, _ in views])
    return NamedClusters(
        "tiny", digest, names, Views(torch.tensor([k for k, _, _ in views]), share, centred + 2.0, centred)
    )


KNOWN = named(
    ("water", "sky", "boat", "water"),
    [(0, 0.2, AXES[0]), (0, 0.1, AXES[4]), (1, 0.3, AXES[1]), (2, 0.1, AXES[2]), (3, 0.3, AXES[3])],
)


def test_names_follow_what_clusters_look_like(tmp_path: Path) -> None:
    KNOWN.save(tmp_path / "names.yaml")
    read = NamedClusters.load(tmp_path / "names.yaml")
    assert (read.names, read.backbone, read.weights_sha256) == (KNOWN.names, "tiny", "x")
    assert read.views.cluster.tolist() == [0, 0, 1, 2, 3]
    torch.testing.assert_close(read.views.share, KNOWN.views.share)
    torch.testing.assert_close(read.views.centred, KNOWN.views.centred)
    torch.testing.assert_close(read.views.tokens, KNOWN.views.tokens, atol=2e-3, rtol=1e-3)
    turned = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(0)))[0]
    model = classifier(AXES[:4] @ turned.T, turned)
    near = 0.1 * AXES[5]
    new = named(
        ("a", "b", "c", "d"),
        [(0, 0.1, AXES[2] + near), (1, 0.3, AXES[4] + near), (2, 0.3, AXES[1]), (3, 0.3, AXES[3] + near)],
    )
    matches = carry_over(read, new, model)
    assert [m.name for m in matches] == ["boat", "water", "sky", "water"]
    assert all(m.problem is None for m in matches)


def test_plain_tokens_are_compared_where_images_are_not_centred() -> None:
    model = classifier(AXES[:2], centre=False)
    model.whitening.mean.fill_(2.0)
    new = named(("a", "b"), [(0, 0.5, AXES[1]), (1, 0.5, AXES[0])])
    new.views.centred.zero_()
    assert [m.name for m in carry_over(KNOWN, new, model)] == ["sky", "water"]


def test_clusters_that_are_like_none_or_like_several_are_unsure() -> None:
    views = [
        *((0, 0.2, AXES[5]),),
        *((1, 0.13, AXES[0]), (1, 0.07, AXES[1])),
        *((2, 0.11, AXES[0]), (2, 0.09, AXES[1])),
        *((3, 0.11, AXES[0]), (3, 0.09, AXES[5])),
        *((4, 0.09, AXES[0]), (4, 0.11, AXES[5])),
    ]
    new = named(("a", "b", "c", "d", "e", "f"), views)  # the last one never occurs
    alien, water, several, half, little, absent = carry_over(KNOWN, new, classifier(AXES))
    assert (water.name, half.name) == ("water", "water")
    assert water.votes == pytest.approx({"water": 0.65, "sky": 0.35})
    assert (alien.name, several.name, little.name, absent.name) == ("unsure",) * 4
    assert alien.problem == little.problem == absent.problem == "is like no named cluster"
    assert several.problem == "is like several: 55 % water, 45 % sky"


@pytest.mark.parametrize(("likeness", "name"), [(0.38, "unsure"), (0.42, "water")])
def test_a_view_must_be_like_a_named_one_to_vote(likeness: float, name: str) -> None:
    vector = likeness * AXES[0] + math.sqrt(1 - likeness**2) * AXES[5]
    found = carry_over(KNOWN, named(("a",), [(0, 1.0, vector)]), classifier(AXES))
    assert found[0].name == name


def test_names_of_another_backbone_are_refused() -> None:
    with pytest.raises(UserError, match="another backbone"):
        carry_over(KNOWN, named(("a",), [(0, 1.0, AXES[0])], "y"), classifier(AXES))


DAMAGED_TOKEN = base64.b64encode(b"xyz").decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just words",
        "clusters: 3",
        "{",
        "backbone: a\nweights_sha256: b\nclusters: []\n",
        "backbone: a\nweights_sha256: b\nclusters:\n"
        f"- {{name: a, views: [{{share: 1, token: {DAMAGED_TOKEN}}}]}}",
    ],
)
def test_a_damaged_file_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "names.yaml").write_text(text)
    with pytest.raises(UserError, match=r"not a names\.yaml"):
        NamedClusters.load(tmp_path / "names.yaml")
    with pytest.raises(UserError, match="no such file"):
        NamedClusters.load(tmp_path / "none.yaml")
