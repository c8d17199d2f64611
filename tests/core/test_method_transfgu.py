"""TransFGU: its losses, and a step of it, against slow references in float64."""

import pytest
import torch
from torch import Tensor

from il2vseg.losses import class_maps
from il2vseg.methods.transfgu import Bootstrapping, TransFGU
from tests.steps import (
    C,
    K,
    Reference,
    assert_step,
    cosines,
    cross_entropy,
    set_up,
    trainer,
)


def slow_maps(z: Tensor, categories: Tensor) -> Tensor:
    maps = []
    for x in z:
        m = cosines(x, categories).clamp_min(0)
        maps.append((m - m.min()) / (m.max() - m.min()))
    return torch.stack(maps)


def test_windows_slide_over_the_grid_by_half_their_side() -> None:
    z = torch.randn(2, 8 * 16, 3, generator=torch.Generator().manual_seed(0))
    found = class_maps.window_tokens(z, (8, 16))
    on_grid = z.unflatten(1, (8, 16))
    slow = [on_grid[:, y : y + 2, x : x + 4].mean((1, 2)) for y in range(0, 7, 1) for x in range(0, 13, 2)]
    torch.testing.assert_close(found, torch.stack(slow, 1))
    assert class_maps.window_tokens(z[:, :6], (2, 3)).shape == (2, 6, 3)


def test_refining_losses() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    unsure = []
    for p in logits.softmax(2).flatten(0, 1).tolist():
        first, second = sorted(p)[:-3:-1]
        unsure.append(1 - (first - second))
    assert float(class_maps.uncertainty_loss(logits)) == pytest.approx(sum(unsure) / len(unsure))
    e = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    pairs = [float(1 + cosines(e[i][None], e[j][None])) for i in range(4) for j in range(i + 1, 4)]
    assert float(class_maps.embedding_loss(e)) == pytest.approx(sum(pairs) / 6)
    y, y2 = (torch.randint(4, (2, 5), generator=generator) for _ in "ab")
    right, wrong = cross_entropy(logits, y), cross_entropy(logits, y2)
    torch.testing.assert_close(class_maps.category_loss(logits, y, None, 0.5), right)
    torch.testing.assert_close(class_maps.category_loss(logits, y, y2, 0.5), right - 0.5 * wrong)


@pytest.mark.parametrize("round_steps", [10, 2])
def test_a_step_of_transfgu(round_steps: int) -> None:
    """Step 3 lies in the first round, without a teacher, or in the second, half way."""
    t = set_up(trainer(TransFGU(bootstrapping=Bootstrapping(round=round_steps))), "bootstrapping")
    r = Reference(t, "bootstrapping")
    categories = t.derived("bootstrapping")["categories"].double()
    assert categories.shape == (C, K)
    z_view = r.whiten(r.views)
    maps = slow_maps(r.whiten(r.tokens), categories)
    if round_steps == 2:
        taught = r.logits(r.head(z_view, "parts.head"), r.state["parts.prototypes"]).softmax(-1)
        labels = (0.5 * maps + 0.5 * taught).argmax(-1)
        assert not torch.equal(labels, maps.argmax(-1))
        wrong = torch.randperm(C, generator=r.generator)[labels]
    else:
        labels = maps.argmax(-1)
    local = r.parameters["local_prototypes"]
    logits = r.logits(r.embed(z_view), local)
    category = cross_entropy(logits, labels)
    if round_steps == 2:
        category = category - (0.03 + 0.07 * 0.5) * cross_entropy(logits, wrong)
    expected = {
        "category": category,
        "uncertainty": 0.3 * class_maps.uncertainty_loss(logits),
        "embedding": class_maps.embedding_loss(local),
    }
    taken = assert_step(t, "bootstrapping", expected, r)
    assert torch.equal(taken.after["global_prototypes"], taken.after["local_prototypes"])
    for key in taken.before:
        assert not key.startswith("parts") or torch.equal(taken.before[key], taken.after[key])
    assert t.usage is not None
    assert t.usage.tolist() == pytest.approx([float((labels == c).double().mean()) for c in range(C)])


def test_the_teacher_becomes_the_student_at_the_end_of_a_round() -> None:
    t = set_up(trainer(TransFGU(bootstrapping=Bootstrapping(round=2))), "bootstrapping")
    student = {k: v.clone() for k, v in t.classifier.state_dict().items() if not k.startswith("parts")}
    t.step("bootstrapping", 3)
    assert not torch.equal(t.classifier.parts.state_dict()["prototypes"], student["local_prototypes"])
    student = {k: v.clone() for k, v in t.classifier.state_dict().items() if not k.startswith("parts")}
    t.step("bootstrapping", 4)
    teacher = t.classifier.parts.state_dict()
    assert torch.equal(teacher["prototypes"], student["local_prototypes"])
    assert torch.equal(teacher["head.linear.weight"], student["head.linear.weight"])


def test_prototypes_start_as_the_categories() -> None:
    t = trainer(TransFGU())
    t.begin("bootstrapping")
    categories = t.derived("bootstrapping")["categories"]
    torch.testing.assert_close(t.classifier.local_prototypes.detach(), t.classifier.head(categories).detach())
    assert torch.equal(t.classifier.local_prototypes.detach(), t.classifier.global_prototypes)


def test_wrong_labels_weigh_more_towards_the_end_of_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    t = set_up(trainer(TransFGU(bootstrapping=Bootstrapping(round=4))), "bootstrapping")
    seen: list[tuple[float, bool]] = []

    def category(logits: Tensor, labels: Tensor, wrong: Tensor | None, alpha: float) -> Tensor:
        seen.append((alpha, wrong is not None))
        return logits.mean()

    monkeypatch.setattr(class_maps, "category_loss", category)
    for step in (3, 4, 5, 11):
        t.step("bootstrapping", step)
    assert [second for _, second in seen] == [
        False,
        True,
        True,
        True,
    ]  # in the first round there is no teacher
    assert [alpha for alpha, _ in seen] == pytest.approx([0.0825, 0.03, 0.0475, 0.0825])
