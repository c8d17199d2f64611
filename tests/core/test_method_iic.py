"""IIC: its loss, and a step of it, against slow references in float64."""

import math

import pytest
import torch
from torch import Tensor

from il2vseg.losses import mutual_information
from il2vseg.methods.iic import IIC, Information
from tests.steps import (
    GRID,
    C,
    Reference,
    assert_step,
    set_up,
    trainer,
)


def distributions(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=generator, dtype=torch.float64)).softmax(-1)


def slow_information(p: Tensor, q: Tensor, grid: tuple[int, int], radius: int) -> Tensor:
    """−mean_t I(P_t), position by position."""
    (h, w), classes, terms = grid, p.shape[-1], []
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            joint, pairs = torch.zeros(classes, classes, dtype=p.dtype), 0
            for y in range(h):
                for x in range(w):
                    if 0 <= y + dy < h and 0 <= x + dx < w:
                        joint = joint + p[:, y * w + x].T @ q[:, (y + dy) * w + x + dx]
                        pairs += len(p)
            joint = (joint + joint.T) / (2 * pairs)
            terms.append((joint * (joint / (joint.sum(1)[:, None] * joint.sum(0))).log()).sum())
    return -torch.stack(terms).sum() / (2 * radius + 1) ** 2


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_information(radius: int) -> None:
    p, q = distributions(2, 12, 3), distributions(2, 12, 3, seed=1)
    found = mutual_information.information_loss(p, q, (3, 4), radius)
    torch.testing.assert_close(found, slow_information(p, q, (3, 4), radius))


def test_information_is_largest_where_all_classes_are_used_and_certain() -> None:
    certain = torch.eye(4)[torch.arange(20) % 4].expand(3, -1, -1)
    loss = mutual_information.information_loss
    assert float(loss(certain, certain, (4, 5), 0)) == pytest.approx(-math.log(4), abs=1e-4)
    one = torch.eye(4)[torch.zeros(20, dtype=torch.long)].expand(3, -1, -1)
    assert float(loss(one, one, (4, 5), 0)) == pytest.approx(0.0, abs=1e-4)


def test_a_step_of_iic() -> None:
    t = set_up(trainer(IIC(information=Information(over_clustering=2))), "information")
    r = Reference(t, "information")
    e, e_view = r.embed(r.whiten(r.tokens)), r.embed(r.whiten(r.views))
    expected = {}
    for name, prototypes in (("information", "local_prototypes"), ("over", "parts.prototypes")):
        p, q = (r.logits(x, r.parameters[prototypes]).softmax(-1) for x in (e, e_view))
        expected[name] = slow_information(p, q, GRID, 1)
    assert r.parameters["parts.prototypes"].shape == (2 * C, 64)
    taken = assert_step(t, "information", expected, r)
    assert t.usage is not None
    labels = r.logits(e, r.parameters["local_prototypes"]).argmax(-1)
    assert t.usage.tolist() == pytest.approx([float((labels == c).double().mean()) for c in range(C)])
    assert torch.equal(taken.after["global_prototypes"], taken.after["local_prototypes"])
    for name, rate in (("local_prototypes", 5e-3), ("parts.prototypes", 5e-3), ("head.linear.bias", 5e-4)):
        moved = (taken.after[name] - taken.before[name]).abs().max()
        assert moved == pytest.approx(rate, rel=2e-2), name
