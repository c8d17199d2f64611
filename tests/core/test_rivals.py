"""PriMaPs-EM and CAUSE: their losses, and a step of each, against slow references in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from il2vseg.learning.draws import step_generator
from il2vseg.learning.trainer import Trainer
from il2vseg.losses import clusterbook, principal_masks
from il2vseg.methods import load_method
from il2vseg.methods.base import Context
from il2vseg.methods.cause import Cause, ConceptContrast
from il2vseg.methods.primaps import MaskFitting, PriMaPs
from tests.steps import BATCH, IMAGES, C, N, Reference, assert_step, cosines, per_image, take, trainer


def slow_masks(x: Tensor) -> list[int]:
    """PriMaPs of one image (N, k), token by token."""
    masks, number = [-1] * len(x), 0
    while number < 20 and sum(m < 0 for m in masks) > 0.05 * len(x):
        left = [i for i, m in enumerate(masks) if m < 0]
        rest = x[left] - x[left].mean(0)
        direction = torch.linalg.svd(rest, full_matrices=True).Vh[0]
        like = max(left, key=lambda i: abs(float(cosines(x[i], direction[:, None].mT))))
        similarity = {i: float(cosines(x[i], x[like : like + 1])) for i in left}
        for i in left:
            if similarity[i] > 0.4 * max(similarity.values()):
                masks[i] = number
        number += 1
    return masks


def test_principal_masks() -> None:
    generator = torch.Generator().manual_seed(2)
    things = torch.randn(5, 9, generator=generator)
    x = things[torch.randint(5, (3, 60), generator=generator)] + 0.3 * torch.randn(
        3, 60, 9, generator=generator
    )
    x[2] = x[2, :1]  # an image of one token
    found = principal_masks.principal_masks(x)
    assert found[2].tolist() == [0] * 60
    for image in (0, 1):
        expected = slow_masks(x[image].double())
        assert 3 <= len(set(expected)) < 20
        assert found[image].tolist() == expected


def test_tokens_that_are_all_unlike_end_without_a_mask() -> None:
    found = principal_masks.principal_masks(torch.eye(60)[None])
    assert int(found.max()) == 19
    assert int((found == -1).sum()) == 40


def test_a_mask_takes_the_label_of_most_of_its_tokens() -> None:
    masks = torch.tensor([[0, 0, 0, 1, 1, -1], [0, 0, 0, 0, 0, 0]])
    labels = torch.tensor([[2, 2, 0, 3, 1, 1], [3, 3, 3, 0, 0, 0]])
    found = principal_masks.voted_labels(masks, labels, 4)
    assert found.tolist() == [[2, 2, 2, 1, 1, -1], [0, 0, 0, 0, 0, 0]]


def slow_focal(logits: Tensor, labels: Tensor) -> Tensor:
    p = logits.detach().softmax(-1)
    total = torch.zeros((), dtype=logits.dtype)
    for image in range(len(logits)):
        for token, label in enumerate(labels[image].tolist()):
            if label >= 0:
                weight = (1 - p[..., label].mean()) ** 2
                total = total - weight * logits[image, token].log_softmax(-1)[label]
    return total / labels.numel()


def test_classes_that_the_batch_is_sure_of_count_less() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 7, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, 4, (2, 7), generator=generator)
    assert (labels < 0).any()
    found = principal_masks.focal_loss(logits, labels)
    torch.testing.assert_close(found, slow_focal(logits, labels))


def test_a_step_of_primaps() -> None:
    t = trainer(PriMaPs())
    r = Reference(t, "mask_fitting")
    z = r.whiten(r.tokens)
    labels = r.logits(r.head(z), r.state["global_prototypes"]).argmax(-1)
    voted = torch.full((BATCH, N), -1)
    for image in range(BATCH):
        masks = torch.tensor(slow_masks(z[image].detach()))
        for mask in range(int(masks.max()) + 1):
            own = masks == mask
            voted[image, own] = labels[image, own].bincount(minlength=C).argmax()
    assert (voted >= 0).all(1).any()
    logits = r.logits(r.head(r.whiten(r.views)).detach(), r.parameters["local_prototypes"])
    taken = assert_step(t, "mask_fitting", {"focal": slow_focal(logits, voted)}, r)
    assert t.usage is not None
    known = voted[voted >= 0]
    assert t.usage.tolist() == pytest.approx([float((known == c).double().mean()) for c in range(C)])
    moved = taken.after["local_prototypes"] - taken.before["local_prototypes"]
    assert moved.abs().max() == pytest.approx(5e-3, rel=2e-2)
    kept = 0.98**0.1
    expected = kept * taken.before["global_prototypes"] + (1 - kept) * taken.after["local_prototypes"]
    torch.testing.assert_close(taken.after["global_prototypes"], expected)
    assert all(torch.equal(taken.before[k], taken.after[k]) for k in taken.before if k.startswith("head"))


def slow_modularity(concepts: Tensor, features: Tensor) -> Tensor:
    total = torch.zeros((), dtype=features.dtype)
    for x in features:
        s = len(x)
        a = cosines(x, x).clamp_min(0) * (1 - torch.eye(s, dtype=x.dtype))
        m2 = a.sum()
        c = cosines(x, concepts).clamp_min(0)
        for i in range(s):
            for j in range(s):
                shared = torch.stack(
                    [torch.tanh(c[i, k] * c[j, k] / 0.1) for k in range(len(concepts))]
                ).max()
                total = total + (a[i, j] - a[i].sum() * a[j].sum() / m2) * shared / m2
    return total / len(features)


def test_modularity() -> None:
    generator = torch.Generator().manual_seed(0)
    concepts = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    features = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    found = clusterbook.modularity(concepts, features)
    torch.testing.assert_close(found, slow_modularity(concepts, features))


def slow_contrast(e: Tensor, others: Tensor, m: Tensor, m_others: Tensor, *, itself: bool) -> Tensor:
    logits, alike = cosines(e, others) / 0.07, m @ m_others.T
    terms = []
    for i in range(len(e)):
        counted = [
            j
            for j in range(len(others))
            if alike[i, j] < 0.1 or (alike[i, j] > 0.3 and not (itself and i == j))
        ]
        for j in counted:
            if alike[i, j] > 0.3:
                terms.append(logits[i, counted].logsumexp(0) - logits[i, j])
    return torch.stack(terms).mean() if terms else torch.zeros((), dtype=e.dtype)


def test_without_positives_the_contrast_is_nothing() -> None:
    e = torch.randn(3, 4, requires_grad=True)
    loss = clusterbook.concept_contrast(e, torch.randn(2, 4), torch.eye(5)[:3], torch.eye(5)[3:])
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert e.grad is not None
    assert not e.grad.any()


def small(**changes: Any) -> ConceptContrast:
    return ConceptContrast(samples=6, bank=15, concepts=4, book_steps=3, **changes)


def test_a_step_of_cause() -> None:
    t = trainer(Cause(contrast=small()))
    r = Reference(t, "contrast")
    book = t.derived("contrast")["concepts"].double()
    positions = torch.rand(BATCH, N, generator=r.generator).argsort(1)[:, :6]
    z = per_image(r.whiten(r.tokens), positions)
    e, z = r.embed(z).flatten(0, 1), z.flatten(0, 1)
    images = torch.randperm(IMAGES, generator=r.generator)[:BATCH]
    others = torch.rand(BATCH, N, generator=r.generator).argsort(1)[:, :3]
    bank = per_image(r.whiten(r.all_tokens[images]), others).flatten(0, 1)
    unit = book / book.norm(dim=1, keepdim=True)
    m, m_bank = (unit[cosines(x, book).argmax(1)] for x in (z, bank))
    inside = slow_contrast(e, r.head(z).detach(), m, m, itself=True)
    outside = slow_contrast(e, r.head(bank).detach(), m, m_bank, itself=False)
    assert_step(t, "contrast", {"concepts": 0.5 * (inside + outside)}, r)


def test_the_clusterbook_gains_modularity_and_depends_on_the_footage_and_the_seed_alone() -> None:
    def book(stage: ConceptContrast, seed: int = 0, **changed: Tensor) -> Tensor:
        t = trainer(Cause(contrast=stage), seed=seed)
        t.classifier.load_state_dict(t.classifier.state_dict() | changed)
        return t.derived("contrast")["concepts"]

    generator = step_generator(0, "any", 0)
    t = trainer(Cause())
    everything = Context(t.store, t.classifier, t.recipe, t.device, torch.arange(IMAGES), generator, 0)
    features = everything.whitened()
    few = clusterbook.modularity(book(small()), features)
    many = clusterbook.modularity(book(ConceptContrast(samples=6, concepts=4, book_steps=60)), features)
    assert float(many) > float(few) + 0.002
    other_head = {"head.linear.weight": torch.zeros(64, 6)}
    assert torch.equal(book(small()), book(small(), **other_head))
    assert not torch.equal(book(small()), book(small(), 1))


def slow_book(t: Trainer, stage: ConceptContrast) -> Tensor:
    """The clusterbook step by step, in float64, with the draws that `derive` makes."""
    r = Reference(t, "contrast")
    generator = step_generator(0, "derive contrast", 0)

    def drawn(count: int) -> Tensor:
        images = torch.randperm(IMAGES, generator=generator)[:count]
        positions = torch.rand(count, N, generator=generator).argsort(1)[:, : stage.samples]
        return per_image(r.whiten(r.all_tokens[images]), positions)

    seeds = drawn(BATCH).flatten(0, 1)
    order = torch.randperm(len(seeds), generator=generator)[: stage.concepts]
    concepts = seeds[order] / seeds[order].norm(dim=1, keepdim=True)
    mean, square = torch.zeros_like(concepts), torch.zeros_like(concepts)
    for step in range(1, stage.book_steps + 1):
        concepts.requires_grad_()
        (gradient,) = torch.autograd.grad(-slow_modularity(concepts, drawn(BATCH // 2)), concepts)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        upward = mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        concepts = (concepts - stage.book_lr * upward).detach()
    return concepts


def test_the_clusterbook_is_adams_from_tokens_of_the_batch() -> None:
    stage = small()
    t = trainer(Cause(contrast=stage))
    found = t.derived("contrast")["concepts"]
    assert not found.requires_grad
    torch.testing.assert_close(found.double(), slow_book(t, stage), atol=2e-4, rtol=0)


def test_a_bank_has_a_token_of_every_image_at_least() -> None:
    t = trainer(Cause())
    generator = step_generator(0, "any", 0)
    context = Context(t.store, t.classifier, t.recipe, t.device, torch.arange(2), generator, 0)
    sizes = [len(ConceptContrast(bank=bank)._bank(context)) for bank in (1, BATCH, 2 * BATCH + 1)]
    assert sizes == [BATCH, BATCH, 2 * BATCH]


def test_without_a_mask_there_is_nothing_to_learn_and_nobody_labels() -> None:
    t = trainer(PriMaPs())
    t._derived["mask_fitting"] = {"masks": torch.full((IMAGES, N), -1, dtype=torch.int8)}
    taken = take(t, "mask_fitting")
    assert taken.losses == {"focal": 0.0}
    assert t.usage is not None
    assert t.usage.tolist() == [0.0] * C
    t._derived["mask_fitting"]["masks"][Reference(t, "mask_fitting").images[0], 3] = 0
    take(t, "mask_fitting")
    assert sorted(t.usage.tolist()) == [0.0] * (C - 1) + [1.0]  # of the single token that is known


def test_masks_are_of_all_images() -> None:
    t = trainer(PriMaPs())
    masks = t.derived("mask_fitting")["masks"]
    z = t.classifier.whitening(t.store.tokens(torch.arange(IMAGES)))
    assert torch.equal(masks, principal_masks.principal_masks(z).to(torch.int8))


def test_their_settings() -> None:
    assert load_method("primaps")().stages() == {"mask_fitting": MaskFitting(600, 5e-3, 0.98**0.1)}
    assert load_method("cause")().stages() == {
        "contrast": ConceptContrast(300, 5e-4, 64, 1024, 128, 150, 1e-2)
    }
    for name in ("primaps", "cause"):
        method = load_method(name)()
        assert (method.predict_alpha, method.adapts, method.low_level.refine) == (0.0, False, 0)
