"""Prototypes adapted to the image, against a slow, obvious float64 reference."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from il2vseg.models.adapt import adapted_logits, adapted_prototypes, class_directions, class_membership
from il2vseg.models.backbones import build_backbone
from il2vseg.models.checkpoint import assemble, load_checkpoint, load_tensors, save_checkpoint, save_tensors
from il2vseg.models.segmenter import Classifier, Segmenter
from il2vseg.models.spec import AdaptSpec, LowLevelSpec, ModelSpec
from il2vseg.models.whitening import Whitening

F64 = NDArray[np.float64]
NAMES = ("water", "sky", "water", "unsure", "obstacle")
TEMPERATURE = 0.1


def unit(v: F64) -> F64:
    norm = math.sqrt(float((v * v).sum()))
    return v / norm if norm > 0 else v


def reference(tokens: F64, embeddings: F64, prototypes: F64, spec: AdaptSpec, names: tuple[str, ...]) -> F64:
    """Logits of one image, token by token: tokens (N, D), embeddings (N, d), prototypes (K, d)."""
    n, k = len(tokens), len(prototypes)
    x = [unit(e) for e in embeddings]
    mu = [unit(m) for m in prototypes]
    p = np.zeros((n, k))
    for i in range(n):
        odds = [math.exp(float(x[i] @ mu[j]) / TEMPERATURE) for j in range(k)]
        p[i] = np.array(odds) / sum(odds)
    v = [unit(sum(p[i, j] * x[i] for i in range(n)) + spec.strength * mu[j]) for j in range(k)]
    logits = np.array([[float(x[i] @ v[j]) for j in range(k)] for i in range(n)])
    known = [name for name in dict.fromkeys(names) if name != "unsure"]
    if len(known) < sum(name != "unsure" for name in names) and spec.class_weight:
        centre = tokens.mean(0)
        y = [unit(t - centre) for t in tokens]
        for name in known:
            members = [j for j in range(k) if names[j] == name]
            total, direction = 0.0, np.zeros(tokens.shape[1])
            for i in range(n):
                q = {c: sum(p[i, j] for j in range(k) if names[j] == c) for c in known}
                certain = min(max((max(q.values()) - spec.sure) / 0.1 + 0.5, 0.0), 1.0)
                total += q[name] * certain
                direction = direction + q[name] * certain * y[i]
            size = min(max(total / spec.min_tokens - 1.0, 0.0), 1.0)
            for i in range(n):
                for j in members:
                    logits[i, j] += spec.class_weight * size * float(y[i] @ unit(direction))
    return logits / TEMPERATURE


def scene(seed: int = 0, n: int = 40, dim: int = 12, d: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (2, N, D), embeddings (2, N, d) and five prototypes, in loose groups."""
    g = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(5, d, generator=g)
    group = torch.randint(5, (2, n), generator=g)
    embeddings = prototypes[group] + 0.6 * torch.randn(2, n, d, generator=g)
    means = torch.randn(5, dim, generator=g)
    return means[group] + torch.randn(2, n, dim, generator=g) + 3.0, embeddings, prototypes


@pytest.mark.parametrize(
    "spec",
    [
        AdaptSpec(),
        AdaptSpec(strength=5.0, class_weight=0.6, min_tokens=4.0),
        AdaptSpec(strength=0.5, class_weight=0.3, sure=0.8, min_tokens=2.0),
        AdaptSpec(class_weight=0.0),
    ],
    ids=["default", "strong", "sure", "clusters alone"],
)
@pytest.mark.parametrize("names", [NAMES, ("a", "b", "c", "d", "e")], ids=["named", "not named"])
def test_logits_equal_the_equations(spec: AdaptSpec, names: tuple[str, ...]) -> None:
    tokens, embeddings, prototypes = scene()
    found = adapted_logits(tokens, embeddings, prototypes, TEMPERATURE, spec, class_membership(names))
    assert found.dtype == torch.float32
    for image in range(2):
        arrays = (a.double().numpy() for a in (tokens[image], embeddings[image], prototypes))
        expected = reference(*arrays, spec, names)
        np.testing.assert_allclose(found[image].numpy(), expected, atol=2e-4)


def test_prototypes_move_to_the_tokens_that_look_like_them_and_an_absent_one_stays() -> None:
    mu = torch.eye(3)
    x = torch.tensor([[[0.8, 0.6, 0.0]]]).expand(1, 30, 3)
    p = torch.tensor([[[1.0, 0.0, 0.0]]]).expand(1, 30, 3)
    v = adapted_prototypes(x, p, mu, strength=30.0)[0]
    half_way = torch.tensor([0.9, 0.3, 0.0]) / math.sqrt(0.9)
    torch.testing.assert_close(v[0], half_way)
    torch.testing.assert_close(v[1:], mu[1:])


@pytest.mark.parametrize(("tokens", "length"), [(8, 0.0), (12, 0.5), (16, 1.0), (40, 1.0)])
def test_a_small_class_contributes_little_and_a_tiny_one_nothing(tokens: int, length: float) -> None:
    y = torch.tensor([[[0.0, 1.0]]]).expand(1, 50, 2)
    q = torch.zeros(1, 50, 2)
    q[:, :tokens, 0] = 1.0
    u = class_directions(y, q, sure=0.6, min_tokens=8.0)
    torch.testing.assert_close(u[0].norm(dim=1), torch.tensor([length, 0.0]))


@pytest.mark.parametrize(("q", "share"), [(0.55, 0.0), (0.60, 0.5), (0.65, 1.0)])
def test_tokens_that_could_be_anything_do_not_speak(q: float, share: float) -> None:
    y = torch.tensor([[[0.0, 1.0]]]).expand(1, 100, 2)
    odds = torch.tensor([[[q, 1.0 - q]]]).expand(1, 100, 2)
    mass = 100 * q * share
    u = class_directions(y, odds, sure=0.6, min_tokens=mass / 1.5 if mass else 8.0)
    torch.testing.assert_close(u[0, 0].norm(), torch.tensor(0.5 if mass else 0.0))


def test_clusters_named_unsure_belong_to_no_class() -> None:
    member = class_membership(NAMES)
    assert member is not None
    assert member.tolist() == [[1, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]
    assert class_membership(("water", "sky", "obstacle")) is None
    assert class_membership(("unsure", "ignore", "Unsure", "sky")) is None
    assert class_membership(("unsure", "unsure")) is None


def make(adapt: AdaptSpec | None, names: tuple[str, ...] = NAMES) -> Segmenter:
    spec = ModelSpec(
        method="il2vseg",
        backbone="tiny",
        weights_sha256="random",
        size=(64, 96),
        class_names=names,
        alpha=0.0,
        temperature=TEMPERATURE,
        centre=True,
        low_level=LowLevelSpec(refine=0),
        training_data="nothing",
        adapt=adapt,
    )
    backbone = build_backbone("tiny", spec.size, None)
    generator = torch.Generator().manual_seed(1)
    classifier = Classifier(Whitening(backbone.dim, 5, spec.centre), 5)
    classifier.whitening.basis.normal_(generator=generator)
    classifier.set_prototypes(torch.randn(5, 64, generator=generator))
    return assemble(backbone, classifier, spec)


def frames(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (2, 64, 96, 3), dtype=torch.uint8, generator=generator)


def test_a_model_adapts_to_every_image_by_itself_as_its_checkpoint_says(tmp_path: Path) -> None:
    spec = AdaptSpec(strength=3.0, class_weight=0.5, min_tokens=1.0)
    model, fixed = make(spec), make(None)
    save_checkpoint(tmp_path, model.classifier, model.spec)
    loaded = load_checkpoint(tmp_path)
    assert loaded.adapt == spec
    scores = model.predict(frames(0))[1]
    assert torch.equal(loaded.predict(frames(0))[1], scores)
    torch.testing.assert_close(loaded.predict(frames(0)[1:])[1], scores[1:])
    assert float((fixed.predict(frames(0))[1] - scores).abs().max()) > 0.02
    loaded.adapt = None
    assert torch.equal(loaded.predict(frames(0))[1], fixed.predict(frames(0))[1])
    without_classes = make(dataclasses.replace(spec, class_weight=0.0))
    assert float((without_classes.predict(frames(0))[1] - scores).abs().max()) > 0.02


def test_a_checkpoint_of_format_1_does_not_adapt(tmp_path: Path) -> None:
    model = make(None)
    path = save_checkpoint(tmp_path, model.classifier, model.spec)
    tensors, description = load_tensors(path)
    assert description["format_version"] == 2
    del description["adapt"]
    save_tensors(path, tensors, description | {"format_version": 1})
    loaded = load_checkpoint(tmp_path)
    assert loaded.adapt is None
    assert torch.equal(loaded.predict(frames(0))[1], model.predict(frames(0))[1])
