"""MDC, PiCIE and PiCIE+H: their losses, and a step of each, against slow references in float64."""

import math

import pytest
import torch
from torch import Tensor

from il2vseg.losses import pixel_clusters
from il2vseg.methods import load_method
from il2vseg.methods.mdc import MDC
from il2vseg.methods.picie import Consistency, PiCIE, PiCIEH
from tests.slow_crops import slow_boxes, slow_crop
from tests.steps import (
    GRID,
    IMAGES,
    C,
    N,
    Reference,
    assert_step,
    cosines,
    set_up,
    take,
    trainer,
)


def slow_clust(z: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """L_clust, pixel by pixel, by cosine distances."""
    terms = []
    for p, y in zip(z.flatten(0, 1), labels.flatten().tolist(), strict=True):
        e = torch.exp(-(1 - cosines(p[None], centroids)[0]))
        terms.append(-(e[y] / e.sum()).log())
    return torch.stack(terms).mean()


def test_cluster_losses() -> None:
    generator = torch.Generator().manual_seed(0)
    z, z2 = (torch.randn(2, 5, 4, generator=generator, dtype=torch.float64) for _ in "ab")
    m, m2 = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in "ab")
    y, y2 = (torch.randint(3, (2, 5), generator=generator) for _ in "ab")
    within, cross = pixel_clusters.consistency_losses((z, z2), (y, y2), (m, m2))
    torch.testing.assert_close(within, slow_clust(z, y, m) + slow_clust(z2, y2, m2))
    torch.testing.assert_close(cross, slow_clust(z, y2, m2) + slow_clust(z2, y, m))
    nearest = pixel_clusters.cluster_labels(z, m)
    slow = [min(range(3), key=lambda k: float(1 - cosines(p[None], m[k][None]))) for p in z.flatten(0, 1)]
    assert nearest.flatten().tolist() == slow


def test_the_balance_of_two_clusterings() -> None:
    few, many = pixel_clusters.balance(10, 100)
    assert (few, many) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def labelled(r: Reference, z: Tensor, part: str, tail: bool) -> Tensor:
    """Embeddings by a labeller; `tail`: with the auxiliary head."""
    e = r.head(z, f"{part}.labeller.0")
    return e @ r.state[f"{part}.labeller.1.weight"].T + r.state[f"{part}.labeller.1.bias"] if tail else e


def test_a_step_of_mdc() -> None:
    t = set_up(trainer(MDC()), "clusters")
    r = Reference(t, "clusters")
    z, centroids = r.whiten(r.tokens), r.state["parts.0.first"]
    labels = cosines(labelled(r, z, "parts.0", False), centroids).argmax(-1)
    assert_step(t, "clusters", {"clusters": slow_clust(r.embed(z), labels, centroids)}, r)


@pytest.mark.parametrize("auxiliary", [0, 7])
def test_a_step_of_picie(auxiliary: int) -> None:
    stage = Consistency(auxiliary=auxiliary)
    t = set_up(trainer(PiCIEH(consistency=stage) if auxiliary else PiCIE(consistency=stage)), "consistency")
    r = Reference(t, "consistency")
    boxes = slow_boxes(r, 0.5)
    z, z_view = r.whiten(r.tokens), slow_crop(r.whiten(r.views), boxes, GRID)
    e, e_view = slow_crop(r.embed(z), boxes, GRID), r.embed(z_view)
    parts = [("parts.0", "", 1.0)]
    if auxiliary:
        total = math.log(4) + math.log(7)
        parts = [("parts.0", "", math.log(7) / total), ("parts.1", "_more", math.log(4) / total)]
    expected = {}
    for part, name, weight in parts:
        more = bool(name)
        m, m_view = r.state[f"{part}.first"], r.state[f"{part}.second"]
        assert len(m) == (7 if more else C)
        y = cosines(slow_crop(labelled(r, z, part, more), boxes, GRID), m).argmax(-1)
        y_view = cosines(labelled(r, z_view, part, more), m_view).argmax(-1)
        a, b = e, e_view
        if more:
            w, bias = r.state[f"{part}.tail.weight"], r.state[f"{part}.tail.bias"]
            a, b = a @ w.T + bias, b @ w.T + bias
        expected[f"within{name}"] = weight * (slow_clust(a, y, m) + slow_clust(b, y_view, m_view))
        expected[f"cross{name}"] = weight * (slow_clust(a, y_view, m_view) + slow_clust(b, y, m))
    taken = assert_step(t, "consistency", expected, r)
    for key in taken.before:
        still = key.startswith(("parts.0", "parts.1.first", "parts.1.second", "parts.1.labeller"))
        if still:
            assert torch.equal(taken.before[key], taken.after[key]), key


def test_clusters_are_found_anew_by_the_head_of_that_step() -> None:
    stage = Consistency(auxiliary=6, every=2, images=IMAGES, samples=N)
    t = trainer(PiCIEH(consistency=stage))
    t.optimizer = t.make_optimizer(stage)
    first = {key: value.clone() for key, value in t.classifier.parts.state_dict().items()}
    assert not first["0.first"].any()
    head = {key: value.clone() for key, value in t.classifier.head.state_dict().items()}
    t.step("consistency", 2)
    found = t.classifier.parts.state_dict()
    for key, value in head.items():
        assert torch.equal(found[f"0.labeller.0.{key}"], value)
    # A centroid is the mean direction of the tokens nearest to it.
    z = t.classifier.whitening(t.store.tokens(torch.arange(IMAGES))).flatten(0, 1)
    z_view = t.classifier.whitening(t.store.view_tokens(torch.arange(IMAGES))).flatten(0, 1)
    for view, tokens in (("first", z), ("second", z_view)):
        e = torch.nn.functional.normalize(t.classifier.parts[0].labeller(tokens), dim=1)  # type: ignore[index]
        nearest = cosines(e, found[f"0.{view}"]).argmax(1)
        for k in range(C):
            mean = e[nearest == k].sum(0)
            assert float(cosines(mean[None], found[f"0.{view}"][k][None])) > 0.99
    before = {key: value.clone() for key, value in found.items() if "labeller" in key or "tail" not in key}
    t.step("consistency", 3)
    for key, value in before.items():
        assert torch.equal(t.classifier.parts.state_dict()[key], value), key
    t.step("consistency", 4)
    assert not torch.equal(
        t.classifier.parts.state_dict()["0.labeller.0.linear.weight"], head["linear.weight"]
    )


@pytest.mark.parametrize("name", ["picie", "mdc", "iic"])
def test_prototypes_of_the_others(name: str) -> None:
    taken = take(trainer(load_method(name)()), next(iter(load_method(name)().stages())))
    moved = not torch.equal(taken.before["local_prototypes"], taken.after["local_prototypes"])
    assert moved == (name == "iic")
