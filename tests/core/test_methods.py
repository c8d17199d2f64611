"""One step of every method against an explicit float64 reference: losses, gradients, learning rates, EMA.

The references draw what the method draws, in its order: the same seed must go on giving the same numbers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from il2vseg.learning.draws import channel_dropout
from il2vseg.losses import eigen_aggregation, eigenfunction, hidden_positives
from il2vseg.methods import METHODS, WITHOUT_STEPS, load_method
from il2vseg.methods.base import Method, Recipe, Stage
from il2vseg.methods.eagle import Eagle, EigenAggregation
from il2vseg.methods.hp import HP, HiddenPositives
from il2vseg.methods.joint import FusedSmoothness, Joint
from il2vseg.methods.smooseg import SmooSeg, Smoothness
from il2vseg.methods.stego import Correspondence, Stego
from il2vseg.models import lowlevel
from il2vseg.models.segmenter import low_level_memberships
from il2vseg.models.spec import LowLevelSpec
from tests.steps import (
    BATCH,
    GRID,
    IMAGES,
    STEP,
    C,
    N,
    Reference,
    assert_step,
    corr,
    cosines,
    cross_entropy,
    per_image,
    standardised,
    take,
    trainer,
)


@pytest.mark.parametrize("name", METHODS)
def test_the_methods_without_steps_are_those_without_stages(name: str) -> None:
    assert (name in WITHOUT_STEPS) == (not load_method(name)().stages())


def test_a_step_of_stego() -> None:
    t = trainer(Stego(correspondence=Correspondence(samples=8)))
    r = Reference(t, "correspondence")
    positions = torch.rand(BATCH, N, generator=r.generator).argsort(1)[:, :8]
    z, z_view = per_image(r.whiten(r.tokens), positions), per_image(r.whiten(r.views), positions)
    others = [r.derangement() for _ in range(3)]
    e, e_view = r.embed(z), r.embed(z_view)
    assert_step(t, "correspondence", {"corr": corr(e, e_view, z, z_view, others)}, r)


def smooth(
    r: Reference, samples: int, weight: float
) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, Tensor]:
    index = r.positions(samples)
    z = r.whiten(r.tokens)[:, index]
    e = r.embed(z)
    logits = r.logits(e, r.state["global_prototypes"])
    p, other = logits.softmax(-1), r.derangement()
    prior = (standardised(z, z) * (1 - cosines(p, p))).mean()
    prior = prior + (standardised(z, z[other]) * (1 - cosines(p, p[other]))).mean()
    local = r.logits(e.detach(), r.parameters["local_prototypes"])
    losses = {"smooth": weight * prior, "data": cross_entropy(local, logits.argmax(-1))}
    return losses, index, z, e, logits


def test_a_step_of_smooseg() -> None:
    t = trainer(SmooSeg(smoothness=Smoothness(samples=9)))
    r = Reference(t, "smoothness")
    expected, *_, logits = smooth(r, 9, 1.0)
    assert_step(t, "smoothness", expected, r)
    assert t.usage is not None
    counts = [float((logits.argmax(-1) == c).double().mean()) for c in range(C)]
    assert t.usage.tolist() == pytest.approx(counts)


def cue(r: Reference) -> tuple[Tensor, Tensor]:
    """P_seg without dropout and F_l of all positions, eq. 3-12 in Lab and position; no gradient."""
    with torch.no_grad():
        p_seg = r.logits(r.head(r.whiten(r.tokens)), r.state["global_prototypes"]).softmax(-1)
        seed = p_seg.transpose(1, 2).unflatten(2, GRID)
        y, x = torch.meshgrid(torch.linspace(-0.5, 0.5, 4), torch.linspace(-0.5, 0.5, 5), indexing="ij")
        place = 2.0 * torch.stack([x, y]).double().expand(BATCH, -1, -1, -1)
        features = torch.cat([lowlevel.rgb_to_lab(r.colours), place], 1)
        share = seed.mean((2, 3), keepdim=True)
        p = lowlevel.fuzzy_cmeans(features, seed, 3, prior=share).flatten(2).transpose(1, 2)
        flat = features.flatten(2).transpose(1, 2)
        a = torch.exp(-(flat[:, :, None] - flat[:, None]).square().sum(3) / (2 * 0.2**2))
        return p_seg, a / a.sum(2, keepdim=True) @ p


def test_a_step_of_joint() -> None:
    t = trainer(Joint(smoothness=FusedSmoothness(samples=9, eigen_samples=6, train_alpha=0.4)))
    r = Reference(t, "smoothness")
    expected, index, z, e, logits = smooth(r, 9, 0.3)
    z_view = r.whiten(r.views)[:, index]
    e_view = r.embed(z_view)
    expected["corr"] = corr(e, e_view, z, z_view, [r.derangement() for _ in range(3)])
    p_seg, f_l = (x[:, index] for x in cue(r))
    expected["fused"] = 0.3 * cross_entropy(logits, (0.7 * p_seg + 0.3 * f_l).argmax(-1))
    few = index[:6]
    xy = torch.stack([few % 5 / 5, few // 5 / 4], 1).double().expand(BATCH, -1, -1)
    gram = eigenfunction.gram_matrix(z[:, :6], r.rgb[:, few], xy)
    psi = (0.6 * logits.softmax(-1)[:, :6] + 0.4 * f_l[:, :6]).flatten(0, 1)
    psi = psi / psi.square().sum(0).sqrt()
    expected["fs"] = -0.1 * (psi.T @ gram @ psi).trace() / C
    upper = (psi.detach().T @ gram @ psi).triu(1)
    expected["reg"] = 0.05 * upper.square().sum() / C
    assert_step(t, "smoothness", expected, r)


def test_losses_of_weight_zero_are_left_out_and_the_others_stay() -> None:
    stage = FusedSmoothness(samples=9, eigen_samples=6)
    all_losses = take(trainer(Joint(smoothness=stage)), "smoothness").losses
    assert list(all_losses) == ["smooth", "data", "corr", "fused", "fs", "reg"]
    for changes, left in (
        ({"correspondence_weight": 0.0}, ["smooth", "data", "fused", "fs", "reg"]),
        ({"fused_weight": 0.0}, ["smooth", "data", "corr", "fs", "reg"]),
        ({"gamma": 0.0, "beta": 0.0}, ["smooth", "data", "corr", "fused"]),
        ({"gamma": 0.0, "beta": 0.0, "fused_weight": 0.0}, ["smooth", "data", "corr"]),
        ({"beta": 0.0}, ["smooth", "data", "corr", "fused", "fs", "reg"]),
        ({"gamma": 0.0, "fused_weight": 0.0}, ["smooth", "data", "corr", "fs", "reg"]),
        ({"beta": 0.0, "fused_weight": 0.0}, ["smooth", "data", "corr", "fs", "reg"]),
    ):
        some = take(trainer(Joint(smoothness=dataclasses.replace(stage, **changes))), "smoothness").losses
        assert list(some) == left
        assert all(some[name] == all_losses[name] for name in ("smooth", "data"))


@pytest.mark.parametrize("samples", [5, 15])
def test_a_step_of_hp(samples: int) -> None:
    t = trainer(HP(hidden_positives=HiddenPositives(steps=12, samples=samples, reference_pool=21)))
    samples = min(samples, 10)  # of 20 positions; the pool needs the other half
    r = Reference(t, "hidden_positives")
    order = r.positions()
    index, rest = order[:samples], order[samples:]
    z = r.whiten(r.tokens)
    others = torch.randperm(IMAGES, generator=r.generator)[:BATCH]
    pool = r.whiten(r.all_tokens[others])[:, rest].flatten(0, 1)
    pool = pool[torch.randperm(BATCH * (N - samples), generator=r.generator)[:21]]
    e = r.embed(z)
    mixed = hidden_positives.local_mixture(e, z, GRID)[:, index].flatten(0, 1)
    anchors, e = z[:, index].flatten(0, 1), e[:, index].flatten(0, 1)
    agnostic = hidden_positives.hidden_positives(anchors, pool)
    specific = hidden_positives.hidden_positives(r.head(anchors), r.head(pool))
    assert agnostic.any()
    assert specific.any()
    negatives = torch.rand(len(e), len(e), generator=r.generator) < 0.02
    progress = STEP / 12
    contrast = hidden_positives.hidden_positive_losses(e, mixed, agnostic, specific, progress, negatives)
    e_view = r.embed(r.whiten(r.views)[:, index]).flatten(0, 1)
    away = hidden_positives.consistency_loss(e, e_view)
    assert_step(t, "hidden_positives", {"hp": contrast, "consistency": 0.05 * away}, r)


def test_a_step_of_eagle(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_red(_: Tensor, colours: Tensor, k: int) -> Tensor:
        """Four objects of three tokens: what eigenvectors and medoids of noise are is decided by rounding."""
        return colours[..., 0].argsort(1).argsort(1) * k // 12

    monkeypatch.setattr(eigen_aggregation, "eigen_clusters", by_red)
    t = trainer(Eagle(eigen_aggregation=EigenAggregation(samples=12)))
    r = Reference(t, "eigen_aggregation")
    index = r.positions(12)
    z, z_view = r.whiten(r.tokens)[:, index], r.whiten(r.views)[:, index]
    others = [r.derangement() for _ in range(3)]
    e, e_view = r.embed(z), r.embed(z_view)
    objects = eigen_aggregation.eigen_aggregation_loss(e, e_view, r.rgb[:, index], C)
    expected = {"corr": 0.3 * corr(e, e_view, z, z_view, others), "objects": 0.7 * objects}
    assert_step(t, "eigen_aggregation", expected, r)


STAGES: list[tuple[Callable[[], Method], str, float, float | None]] = [
    (lambda: Stego(correspondence=Correspondence(samples=8)), "correspondence", 5e-4, None),
    (lambda: HP(hidden_positives=HiddenPositives(samples=5)), "hidden_positives", 5e-4, None),
    (lambda: Eagle(), "correspondence", 5e-4, None),
    (lambda: Eagle(), "eigen_aggregation", 5e-4, None),
    (lambda: Joint(), "correspondence", 5e-4, None),
    (lambda: SmooSeg(smoothness=Smoothness(samples=9)), "smoothness", 1e-4, 5e-4),
    (lambda: Joint(smoothness=FusedSmoothness(samples=9)), "smoothness", 1e-4, 5e-4),
]


@pytest.mark.parametrize(("method", "stage", "head", "prototypes"), STAGES)
def test_learning_rates(
    method: Callable[[], Method], stage: str, head: float, prototypes: float | None
) -> None:
    """The first step of Adam moves every parameter by its learning rate, whatever its gradient."""
    taken = take(trainer(method()), stage)
    for name, gradient in taken.gradients.items():
        moved = (taken.after[name] - taken.before[name]).abs()
        rate = prototypes if name == "local_prototypes" else head
        if rate is None:
            assert not moved.any(), name
        else:
            assert gradient is not None
            clear = gradient.abs() > 1e-5
            assert clear.any(), name
            assert moved[clear].tolist() == pytest.approx([rate] * int(clear.sum()), rel=2e-2), name


@pytest.mark.parametrize("stage", [Smoothness(samples=9), FusedSmoothness(samples=9)])
def test_global_prototypes_follow_the_local_ones_slowly(stage: Smoothness) -> None:
    method = Joint(smoothness=stage) if isinstance(stage, FusedSmoothness) else SmooSeg(smoothness=stage)
    taken = take(trainer(method), "smoothness")
    expected = 0.99 * taken.before["global_prototypes"] + 0.01 * taken.after["local_prototypes"]
    torch.testing.assert_close(taken.after["global_prototypes"], expected)


@pytest.mark.parametrize(("method", "stage"), [(Stego, "correspondence"), (HP, "hidden_positives")])
def test_without_prototypes_a_step_leaves_them_alone(method: type[Method], stage: str) -> None:
    taken = take(trainer(method()), stage)
    for name in ("global_prototypes", "local_prototypes"):
        assert torch.equal(taken.before[name], taken.after[name])


def test_channel_dropout_draws_one_mask_per_image_and_keeps_the_mean() -> None:
    z = torch.ones(40, 6, 50)
    out = channel_dropout(z, 0.2, torch.Generator().manual_seed(0))
    assert set(out.unique().tolist()) == {0.0, 1.25}
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert not torch.equal(out[0], out[1])
    assert float(out.mean()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("prior", ["none", "mass", "pixel"])
def test_memberships_are_seeded_without_gradient_and_weighted_by_their_prior(prior: str) -> None:
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(2, 3, *GRID, generator=generator)
    seed = torch.randn(2, C, *GRID, generator=generator, requires_grad=True).softmax(1)
    spec = LowLevelSpec(space="rgb", xy_weight=0.0, prior=prior, iterations=2)  # type: ignore[arg-type]
    x, p = low_level_memberships(colours, seed, spec)
    assert not p.requires_grad
    torch.testing.assert_close(x, colours)
    plain = seed.detach()
    share = {"none": torch.ones(2, C, 1, 1), "pixel": plain}.get(prior, plain.sum((2, 3), keepdim=True) / N)
    u, v = plain, torch.empty(0)
    for _ in range(2):  # eq. 7, then 4 with the prior, 5, 6
        u2 = u.square()
        v = torch.einsum("bchw,bfhw->bcf", u2, x) / u2.sum((2, 3))[..., None]
        u = share / (x[:, None] - v[..., None, None]).square().sum(2)
        u = u / u.sum(1, keepdim=True)
        u = u * F.avg_pool2d(F.pad(u, (1, 1, 1, 1), mode="replicate"), 3, 1)
        u = u / u.sum(1, keepdim=True)
    torch.testing.assert_close(p, u, atol=1e-5, rtol=1e-4)


DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "kmeans": {},
    "iic": {
        "information": {"steps": 300, "lr": 5e-4, "lr_prototypes": 5e-3, "over_clustering": 5, "radius": 1}
    },
    "mdc": {"clusters": {"steps": 300, "lr": 5e-4, "every": 50, "images": 64, "samples": 256}},
    "picie": {
        "consistency": {
            "steps": 300, "lr": 5e-4, "every": 50, "images": 64, "samples": 256, "smallest": 0.5,
            "auxiliary": 0,
        }
    },
    "picie_h": {
        "consistency": {
            "steps": 300, "lr": 5e-4, "every": 50, "images": 64, "samples": 256, "smallest": 0.5,
            "auxiliary": 100,
        }
    },
    "slotcon": {
        "slot_groups": {
            "steps": 300, "lr": 5e-4, "lr_prototypes": 5e-4, "ema": 0.99, "centre_ema": 0.9, "smallest": 0.6
        }
    },
    "transfgu": {
        "bootstrapping": {"steps": 300, "lr": 5e-4, "lr_prototypes": 5e-4, "round": 100}
    },
    "stego": {"correspondence": {"steps": 300, "lr": 5e-4, "samples": 121, "negatives": 3}},
    "smooseg": {
        "smoothness": {
            "steps": 600, "lr": 1e-4, "samples": 144, "weight": 1.0, "lr_prototypes": 5e-4, "ema": 0.99,
        }
    },
    "hp": {"hidden_positives": {"steps": 300, "lr": 5e-4, "samples": 64, "reference_pool": 2048}},
    "eagle": {
        "correspondence": {"steps": 100, "lr": 5e-4, "samples": 121, "negatives": 3},
        "eigen_aggregation": {"steps": 200, "lr": 5e-4, "samples": 144, "negatives": 3},
    },
    "joint": {
        "correspondence": {"steps": 300, "lr": 5e-4, "samples": 121, "negatives": 3},
        "smoothness": {
            "steps": 200, "lr": 1e-4, "samples": 144, "weight": 0.3, "lr_prototypes": 5e-4, "ema": 0.99,
            "correspondence_weight": 1.0, "negatives": 3, "train_alpha": 0.5, "eigen_samples": 64,
            "gamma": 0.1, "beta": 0.05, "fused_weight": 0.3, "fused_alpha": 0.3,
        },
    },
    "primaps": {"mask_fitting": {"steps": 600, "lr": 5e-3, "ema": 0.98**0.1}},
    "cause": {
        "contrast": {
            "steps": 300, "lr": 5e-4, "samples": 64, "bank": 1024, "concepts": 128, "book_steps": 150,
            "book_lr": 1e-2,
        }
    },
    "il2vseg": {},
    "paper": {
        "correspondence": {"steps": 0, "lr": 5e-4, "samples": 121, "negatives": 3},
        "smoothness": {
            "steps": 500, "lr": 1e-4, "samples": 144, "weight": 1.0, "lr_prototypes": 5e-4, "ema": 0.99,
            "correspondence_weight": 1.0, "negatives": 3, "train_alpha": 0.5, "eigen_samples": 64,
            "gamma": 0.1, "beta": 0.05, "fused_weight": 0.0, "fused_alpha": 0.3,
        },
    },
}  # fmt: skip
PREDICT_ALPHA = {"il2vseg": 0.15, "joint": 0.15, "paper": 0.5}
OURS = {
    "scale": 1, "space": "lab", "xy_weight": 2.0, "iterations": 3, "m": 2.0, "prior": "mass", "sigma": 0.2,
    "refine": 2, "refine_eps": 1e-3,
}  # fmt: skip
PRINTED = {"space": "rgb", "xy_weight": 0.0, "prior": "none", "sigma": 0.1, "refine": 0}


@pytest.mark.parametrize("name", DEFAULTS)
def test_settings_of_a_method(name: str) -> None:
    method = load_method(name)()
    assert {k: dataclasses.asdict(stage) for k, stage in method.stages().items()} == DEFAULTS[name]
    ours = name in ("il2vseg", "joint")
    alone = name == "il2vseg"
    assert (method.centre, method.even_exposure, method.dark_only, method.restarts) == (
        (True, True, None, 16) if alone else (None, False, False, 1)
    )
    assert (method.predict_alpha, method.adapts) == (PREDICT_ALPHA.get(name, 0.0), ours)
    low_level = OURS | (PRINTED if name == "paper" else {} if ours else {"refine": 0})
    assert dataclasses.asdict(method.low_level) == low_level
    recipe = Recipe(method)
    assert (recipe.batch, recipe.channel_dropout, recipe.temperature) == (16, 0.2, 0.1)
    assert (recipe.clustering, recipe.recluster, recipe.micro_batches) == ("ward", False, 1)


def test_stages_say_whether_they_look_at_copies_and_train_prototypes() -> None:
    stages = {(name, stage): s for name in METHODS for stage, s in load_method(name)().stages().items()}
    assert {key for key, stage in stages.items() if not stage.uses_views} == {
        ("mdc", "clusters"), ("smooseg", "smoothness"), ("cause", "contrast"),
    }  # fmt: skip
    assert {key for key, stage in stages.items() if stage.trains_prototypes} == {
        ("iic", "information"), ("slotcon", "slot_groups"), ("transfgu", "bootstrapping"),
        ("primaps", "mask_fitting"), ("smooseg", "smoothness"), ("joint", "smoothness"),
        ("paper", "smoothness"),
    }  # fmt: skip
    assert set(DEFAULTS) == set(METHODS)


def test_a_stage_of_another_kind_trains_the_head_alone() -> None:
    assert (Stage.steps, Stage.lr, Stage.uses_views, Stage.trains_prototypes) == (300, 5e-4, False, False)


def test_copies_are_only_made_for_stages_that_look_at_them() -> None:
    assert Stego().uses_views
    assert not Stego(correspondence=Correspondence(steps=0)).uses_views
    assert not load_method("kmeans")().uses_views
    assert not SmooSeg().uses_views


def test_steps_are_scaled_over_all_stages() -> None:
    stages = Joint().with_steps(50).stages()
    assert {name: stage.steps for name, stage in stages.items()} == {"correspondence": 30, "smoothness": 20}
    assert load_method("kmeans")().with_steps(50).stages() == {}


def test_settings_are_changed_by_their_paths() -> None:
    recipe = Recipe(Joint()).changed({"method.smoothness.gamma": 0.0, "batch": 3})
    assert recipe == Recipe(Joint(smoothness=FusedSmoothness(gamma=0.0)), batch=3)
