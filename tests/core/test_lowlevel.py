"""The low-level branch against slow, obvious float64 references."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from il2vseg.models import lowlevel
from il2vseg.models.segmenter import low_level_scores
from il2vseg.models.spec import LowLevelSpec

F64 = NDArray[np.float64]


def image(seed: int, b: int = 1, h: int = 5, w: int = 6, channels: int = 3) -> Tensor:
    return torch.rand(b, channels, h, w, generator=torch.Generator().manual_seed(seed))


def distribution(seed: int, c: int = 3, b: int = 1, h: int = 5, w: int = 6) -> Tensor:
    return torch.rand(b, c, h, w, generator=torch.Generator().manual_seed(seed + 1000)).add(0.05).softmax(1)


def reference_memberships(x: F64, v: F64, m: float) -> F64:
    """Eq. 4 with 1/d², one pixel and one cluster at a time: x (F, h, w), v (C, F)."""
    _, h, w = x.shape
    u = np.zeros((len(v), h, w))
    for i in range(h):
        for j in range(w):
            d2 = np.array([max(((x[:, i, j] - vj) ** 2).sum(), lowlevel.EPS) for vj in v])
            for c in range(len(v)):
                u[c, i, j] = 1.0 / sum((d2[c] / d2[k]) ** (1.0 / (m - 1.0)) for k in range(len(v)))
    return u


def reference_spatial(u: F64) -> F64:
    """Eq. 5-6."""
    _, h, w = u.shape
    out = np.zeros_like(u)
    for i in range(h):
        for j in range(w):
            s = np.zeros(len(u))
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    s += u[:, min(max(i + di, 0), h - 1), min(max(j + dj, 0), w - 1)]
            product = u[:, i, j] * s
            out[:, i, j] = product / product.sum()
    return out


def reference_affinity(x: F64, p: F64, sigma: float) -> F64:
    """Eq. 9-12 with normalised rows."""
    f, h, w = x.shape
    flat, values = x.reshape(f, -1).T, p.reshape(len(p), -1).T
    out = np.zeros_like(values)
    for i in range(h * w):
        a = np.array([np.exp(-((flat[i] - flat[k]) ** 2).sum() / (2 * sigma**2)) for k in range(h * w)])
        out[i] = sum(a[k] * values[k] for k in range(h * w)) / a.sum()
    return out.T.reshape(p.shape)


def test_memberships_agree_with_the_reference() -> None:
    x, v = image(0), torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(5))
    for m in (1.5, 2.0, 3.0):
        expected = reference_memberships(x[0].double().numpy(), v[0].T.double().numpy(), m)
        u = lowlevel.normalised(lowlevel.fcm_weights(lowlevel.homogeneous(x), v, m))
        np.testing.assert_allclose(u[0].unflatten(1, x.shape[-2:]).numpy(), expected, atol=1e-5)


def test_spatial_step_agrees_with_the_reference() -> None:
    u = distribution(1)
    expected = reference_spatial(u[0].double().numpy())
    weights = lowlevel.spatial_weights(u).flatten(2)
    np.testing.assert_allclose(lowlevel.normalised(weights)[0].numpy(), expected.reshape(3, -1), atol=1e-6)


def test_centroids_are_weighted_means() -> None:
    x, u = image(2), distribution(2)
    xs, us = x[0].double().numpy(), u[0].double().numpy() ** 2
    expected = [[(us[c] * xs[f]).sum() / us[c].sum() for c in range(3)] for f in range(3)]
    v = lowlevel.fcm_centroids(lowlevel.homogeneous(x), u.flatten(2))
    np.testing.assert_allclose(v[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("m", [1.5, 2.0, 3.0])
def test_weights_up_to_a_factor_of_each_pixel_give_the_same_centroids(m: float) -> None:
    z, u = lowlevel.homogeneous(image(2).double()), distribution(2).double().flatten(2)
    factors = torch.rand(1, 1, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    weights = u**m
    expected = (z[:, :3] @ weights.mT) / weights.sum(2)[:, None]
    torch.testing.assert_close(lowlevel.fcm_centroids(z, u * factors, m), expected)
    assert torch.equal(lowlevel.fcm_centroids(z, u, m), lowlevel.fcm_centroids(z, u)) == (m == 2.0)


def test_distances_and_masses_have_a_floor_of_a_millionth() -> None:
    z = lowlevel.homogeneous(torch.zeros(1, 3, 1, 2))
    at, far = torch.zeros(1, 3, 1), torch.full((1, 3, 1), 2.0)
    assert lowlevel.squared_distances(z, at).flatten().tolist() == pytest.approx([1e-6, 1e-6], rel=1e-6)
    assert lowlevel.squared_distances(z, far).flatten().tolist() == [12.0, 12.0]
    assert lowlevel.class_sums(torch.zeros(1, 2, 3)).flatten().tolist() == pytest.approx([1e-6] * 3, rel=1e-6)
    assert lowlevel.class_sums(torch.ones(1, 2, 3)).flatten().tolist() == [2.0] * 3
    absent = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    colours = lowlevel.homogeneous(torch.full((1, 3, 1, 2), 0.5))
    found = lowlevel.fcm_centroids(colours, absent)
    torch.testing.assert_close(found, torch.tensor([[[0.5, 0.0]] * 3]))


def test_a_cell_is_its_colour_and_its_place() -> None:
    colours = image(1, h=2, w=3)
    assert torch.equal(lowlevel.low_level_features(colours), colours)
    found = lowlevel.low_level_features(colours, "rgb", 2.0)[0]
    torch.testing.assert_close(found[:3], colours[0])
    assert found[3].tolist() == [[-1.0, 0.0, 1.0]] * 2  # across, then down
    assert found[4].tolist() == [[-1.0] * 3, [1.0] * 3]
    lab = lowlevel.low_level_features(colours, "lab", 0.5)[0]
    torch.testing.assert_close(lab[:3], lowlevel.rgb_to_lab(colours)[0])
    assert float(lab[3:].abs().max()) == 0.25


def test_memberships_are_those_of_eq_3_to_8() -> None:
    """Two steps in float64, the neighbourhood in and out of them, with and without a prior."""
    x, seed = image(3), distribution(3)
    prior = torch.tensor([0.2, 0.3, 0.5]).reshape(1, 3, 1, 1)
    xs = x[0].double().numpy()
    for spatial in (True, False):
        for weights in (None, prior):
            u = seed[0].double().numpy()
            for _ in range(2):
                v = np.stack([(u[c] ** 2 * xs).sum((1, 2)) / (u[c] ** 2).sum() for c in range(3)])
                u = reference_memberships(xs, v, 2.0)
                if weights is not None:
                    u = u * prior[0].numpy()
                    u = u / u.sum(0)
                u = reference_spatial(u) if spatial else u
            found = lowlevel.fuzzy_cmeans(x, seed, 2, spatial=spatial, prior=weights)[0].numpy()
            np.testing.assert_allclose(found, u, atol=2e-5)
    assert torch.equal(lowlevel.fuzzy_cmeans(x, seed, 2), lowlevel.fuzzy_cmeans(x, seed, 2, 2.0, True, None))
    torch.testing.assert_close(lowlevel.fuzzy_cmeans(x, seed, 0), seed)


def test_upsampling_is_by_whole_factors_and_keeps_what_fits() -> None:
    x = torch.tensor([[[[0.0, 1.0]]]])
    assert lowlevel.upsample(x, (1, 2)) is x
    assert lowlevel.upsample(x, (2, 4))[0, 0].tolist() == [[0.0, 0.25, 0.75, 1.0]] * 2
    assert lowlevel.upsample(x, (3, 2))[0, 0].tolist() == [[0.0, 1.0]] * 3


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), m=st.sampled_from([1.5, 2.0, 3.0]), c=st.integers(2, 5))
def test_plain_fcm_never_increases_its_objective(seed: int, m: float, c: int) -> None:
    z, u = lowlevel.homogeneous(image(seed).double()), distribution(seed, c).double().flatten(2)
    values = []
    for _ in range(8):
        v = lowlevel.fcm_centroids(z, u, m)
        values.append(float(lowlevel.fcm_objective(z, u, v, m)))
        u = lowlevel.normalised(lowlevel.fcm_weights(z, v, m))
        values.append(float(lowlevel.fcm_objective(z, u, v, m)))
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(values))


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    h=st.integers(2, 9),
    w=st.integers(2, 9),
    tile=st.integers(1, 90),
    sigma=st.floats(0.05, 1.0),
)
def test_tiled_affinity_equals_naive_and_attention_for_any_tile(
    seed: int, h: int, w: int, tile: int, sigma: float
) -> None:
    x, p = image(seed, h=h, w=w), distribution(seed, h=h, w=w)
    tiled = lowlevel.affinity_tiled(x, p, sigma, tile)
    naive = reference_affinity(x[0].double().numpy(), p[0].double().numpy(), sigma)
    np.testing.assert_allclose(tiled[0].numpy(), naive, atol=1e-5)
    np.testing.assert_allclose(lowlevel.affinity_attention(x, p, sigma)[0].numpy(), naive, atol=1e-5)


def test_affinity_rows_are_rows_of_the_affinity() -> None:
    x, p = image(3, b=2), distribution(3, b=2)
    full = lowlevel.affinity_attention(x, p, 0.2).flatten(2)
    index = torch.tensor([0, 7, 29])
    torch.testing.assert_close(lowlevel.affinity_rows(x, p, 0.2, index), full[:, :, index])
    each = torch.tensor([[4, 1], [0, 29]])
    expected = torch.stack([full[0][:, each[0]], full[1][:, each[1]]])
    torch.testing.assert_close(lowlevel.affinity_rows(x, p, 0.2, each), expected)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_fusion_is_the_weighted_mean(alpha: float) -> None:
    p, f = distribution(6), distribution(7)
    expected = (1 - alpha) * p.double().numpy() + alpha * f.double().numpy()
    np.testing.assert_allclose(lowlevel.fuse(p, f, alpha).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("prior", ["none", "mass", "pixel"])
def test_scores_are_distributions_and_finite_with_an_absent_class(prior: str) -> None:
    seed = torch.zeros(1, 4, 6, 6)
    seed[:, 0, :3], seed[:, 1, 3:] = 1.0, 1.0  # classes 2 and 3 are absent
    colours = torch.where(torch.arange(6)[:, None] < 3, 0.2, 0.8).expand(1, 3, 6, 6)
    out = low_level_scores(colours, seed, LowLevelSpec(prior=prior))  # type: ignore[arg-type]
    assert bool(torch.isfinite(out).all())
    torch.testing.assert_close(out.sum(1), torch.ones(1, 6, 6), atol=1e-4, rtol=0)


def test_seeding_aligns_channels_with_classes() -> None:
    """Three colours, a noisy seed: F_l's channel j is the region that the seed calls j, in any order."""
    truth = torch.zeros(12, 12, dtype=torch.long)
    truth[4:8], truth[8:] = 1, 2
    colours = torch.tensor([[0.1, 0.2, 0.9], [0.2, 0.8, 0.2], [0.9, 0.3, 0.1]])
    generator = torch.Generator().manual_seed(0)
    x = colours[truth].permute(2, 0, 1)[None] + 0.02 * torch.randn(1, 3, 12, 12, generator=generator)
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        channel = torch.tensor(order)[truth]
        one_hot = torch.nn.functional.one_hot(channel, 3).permute(2, 0, 1)[None].float()
        seed = (0.5 * one_hot + 0.5 * torch.rand(1, 3, 12, 12, generator=generator)).softmax(1)
        labels = low_level_scores(x.clamp(0, 1), seed, LowLevelSpec())[0].argmax(0)
        assert float((labels == channel).float().mean()) == 1.0


def test_lab_of_known_colours() -> None:
    rgb = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).T.reshape(1, 3, 3, 1)
    expected = np.array([[100, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]])
    lab = lowlevel.rgb_to_lab(rgb)[0, :, :, 0].T.numpy() * 100
    np.testing.assert_allclose(lab, expected, atol=0.15)


@pytest.mark.parametrize(("grey", "lightness"), [(0.07018, 5.42), (0.02, 1.398), (0.0, 0.0)])
def test_lab_is_linear_in_the_dark(grey: float, lightness: float) -> None:
    lab = lowlevel.rgb_to_lab(torch.full((1, 3, 1, 1), grey)).flatten() * 100
    np.testing.assert_allclose(lab.numpy(), [lightness, 0, 0], atol=0.02)


def test_pooling_averages_cells() -> None:
    x = image(8, h=8, w=12)
    torch.testing.assert_close(lowlevel.pool_colours(x, (2, 3))[0, :, 1, 2], x[0, :, 4:, 8:].mean((1, 2)))
