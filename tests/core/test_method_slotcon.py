"""SlotCon: its losses, and a step of it, against slow references in float64."""

import pytest
import torch
from torch import Tensor

from il2vseg.learning.crops import overlap
from il2vseg.learning.draws import step_generator
from il2vseg.losses import slots
from il2vseg.methods.slotcon import SlotCon, SlotGroups
from tests.slow_crops import slow_boxes, slow_crop
from tests.steps import (
    BATCH,
    GRID,
    IMAGES,
    STEP,
    C,
    Reference,
    assert_step,
    cosines,
    set_up,
    trainer,
)


def slow_slots(z: Tensor, s: Tensor) -> Tensor:
    """Slots (K, d) of one image (N, d) with prototypes (K, d)."""
    a = (cosines(z, s) / 0.07).softmax(1) + 1e-6
    return torch.stack([sum(a[p, k] * z[p] for p in range(len(z))) / a[:, k].sum() for k in range(len(s))])


def slow_grouping(q: Tensor, k: Tensor, centre: Tensor) -> Tensor:
    terms = []
    for a, b in zip(q.flatten(0, 1), k.flatten(0, 1), strict=True):
        target = ((b - centre) / 0.07).softmax(0).detach()
        terms.append(sum(-target[i] * ((a / 0.1)[i] - (a / 0.1).logsumexp(0)) for i in range(len(a))))
    return torch.stack(terms).mean()


def slow_slot_contrast(q: Tensor, k: Tensor, in_q: list[set[int]], in_k: list[set[int]]) -> Tensor:
    """q, k: (B, K, d); the slots that are present in each image."""
    keys = [k[i, j].detach() for i, present in enumerate(in_k) for j in sorted(present)]
    terms = []
    for image in range(len(q)):
        for slot in sorted(in_q[image] & in_k[image]):
            own = cosines(q[image, slot][None], k[image, slot].detach()[None])[0, 0] / 0.2
            every = torch.stack([cosines(q[image, slot][None], key[None])[0, 0] / 0.2 for key in keys])
            terms.append(every.logsumexp(0) - own)
    return torch.stack(terms).mean() * 0.4


def test_without_slots_in_both_views_the_contrast_is_nothing() -> None:
    predicted = torch.randn(2, 3, 4, requires_grad=True)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    loss = slots.slot_contrast(predicted, torch.randn(2, 3, 4), nothing, nothing)
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert predicted.grad is not None
    assert not predicted.grad.any()


def test_a_step_of_slotcon() -> None:
    t = set_up(trainer(SlotCon()), "slot_groups")
    centre = t.classifier.parts.state_dict()["centre"].double()
    r = Reference(t, "slot_groups")
    with torch.no_grad():  # the centre follows the teacher before the step
        drawn = torch.randperm(IMAGES, generator=step_generator(0, "before slot_groups", STEP))[:BATCH]
        seen = cosines(r.head(r.whiten(r.all_tokens[drawn])), r.state["global_prototypes"])
        centre = 0.9 * centre + 0.1 * seen.mean((0, 1))
    local, teacher = r.parameters["local_prototypes"], r.state["global_prototypes"]
    boxes = [slow_boxes(r, 0.6) for _ in range(2)]
    z = [slow_crop(r.whiten(x), box, GRID) for x, box in zip((r.tokens, r.views), boxes, strict=True)]
    e = [r.embed(x, "parts.head") for x in z]
    f = [r.head(x).detach() for x in z]
    q, k = [cosines(x, local) for x in e], [cosines(x, teacher) for x in f]
    meeting = overlap(boxes[0], boxes[1])
    grouping, contrast = [], []
    weights = [r.parameters[f"parts.predictor.{i}.{x}"] for i in (0, 2) for x in ("weight", "bias")]
    for a, b in ((0, 1), (1, 0)):
        here, there = slow_crop(q[a], meeting[a], GRID), slow_crop(k[b], meeting[b], GRID)
        grouping.append(slow_grouping(here, there, centre))
        s = torch.stack([slow_slots(x, local) for x in e[a]])
        predicted = torch.nn.functional.gelu(s @ weights[0].T + weights[1]) @ weights[2].T + weights[3]
        s_teacher = torch.stack([slow_slots(x, teacher) for x in f[b]])
        in_q, in_k = ([set(x.argmax(1).tolist()) for x in y] for y in (q[a], k[b]))
        assert any(len(x) < C for x in in_k)
        contrast.append(slow_slot_contrast(predicted, s_teacher, in_q, in_k))
    expected = {"grouping": 0.5 * sum(grouping), "slots": 0.5 * sum(contrast)}
    taken = assert_step(t, "slot_groups", expected, r)
    torch.testing.assert_close(taken.after["parts.centre"].double(), centre, atol=1e-5, rtol=1e-4)
    for slow, fast in (
        ("global_prototypes", "local_prototypes"),
        ("head.linear.weight", "parts.head.linear.weight"),
        ("head.mlp.0.bias", "parts.head.mlp.0.bias"),
    ):
        assert not torch.equal(taken.before[fast], taken.after[fast])
        torch.testing.assert_close(taken.after[slow], 0.99 * taken.before[slow] + 0.01 * taken.after[fast])
    assert t.usage is not None
    assert t.usage.tolist() == pytest.approx(
        [float((k[0].argmax(-1) == c).double().mean()) for c in range(C)]
    )


def test_the_student_starts_as_its_teacher() -> None:
    t = trainer(SlotCon())
    t.optimizer = t.make_optimizer(SlotGroups())
    state = t.classifier.state_dict()
    for name in ("linear.weight", "mlp.2.bias"):
        assert torch.equal(state[f"head.{name}"], state[f"parts.head.{name}"])
    weight = state["parts.predictor.0.weight"]
    assert float(weight.std()) == pytest.approx(0.02, rel=0.05)
    assert not state["parts.predictor.2.bias"].any()
