"""Clusters of directions and their merging, against references that are slow and obvious."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from il2vseg.learning import clustering
from il2vseg.learning.selection import adjusted_rand_index, cross_scene_stability
from il2vseg.models.whitening import TokenStatistics

F64 = NDArray[np.float64]


def points(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spread(centroids: F64, sizes: F64, group: list[int]) -> float:
    """Sum of squared distances to the mean, of a group of centroids that stand for `sizes` points."""
    w, x = sizes[group], centroids[group]
    mean = (w[:, None] * x).sum(0) / w.sum()
    return float((w * ((x - mean) ** 2).sum(1)).sum())


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 4))
def test_ward_merges_what_adds_least_to_the_spread_of_all_points(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    centroids, sizes = rng.normal(size=(7, 3)), rng.integers(1, 1000, 7).astype(float)
    groups = [[i] for i in range(7)]
    while len(groups) > k:
        a, b = min(
            combinations(groups, 2),
            key=lambda pair: (
                spread(centroids, sizes, pair[0] + pair[1])
                - spread(centroids, sizes, pair[0])
                - spread(centroids, sizes, pair[1])
            ),
        )
        groups = [g for g in groups if g not in (a, b)] + [a + b]
    groups.sort(key=lambda g: -sizes[g].sum())
    before = centroids.copy()
    found = clustering.ward_merge(torch.from_numpy(centroids), torch.from_numpy(sizes), k).tolist()
    np.testing.assert_array_equal(centroids, before)
    assert [sorted(i for i in range(7) if found[i] == n) for n in range(k)] == [sorted(g) for g in groups]


def test_prototypes_are_means_weighted_by_cluster_size(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0]])
    sizes = [1, 8, 3]
    assignment = torch.arange(3).repeat_interleave(torch.tensor(sizes))
    asked: list[int] = []

    def known(x: torch.Tensor, k: int, _: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(k)
        return fine, assignment

    monkeypatch.setattr(clustering, "cosine_kmeans", known)
    found = clustering.over_clustered_prototypes(fine[assignment], 2, torch.Generator(), refine=0)
    assert asked == [6]  # three clusters per prototype
    first = torch.nn.functional.normalize(1 * fine[0] + 8 * fine[1], dim=0)
    torch.testing.assert_close(found, torch.stack([first, fine[2]]))


def test_a_lloyd_step_takes_the_mean_direction_and_keeps_empty_clusters() -> None:
    x = torch.nn.functional.normalize(points(0, 40, 3), dim=1)
    start = torch.nn.functional.normalize(points(1, 4, 3), dim=1)
    start[3] = -x.mean(0) / x.mean(0).norm()
    start = torch.cat([start, start[:1]])  # the last one is never the best
    found, assignment = clustering.lloyd(x, start, 1)
    nearest = np.argmax(x.numpy() @ start.numpy().T, 1)
    assert 4 not in nearest
    for k in range(5):
        total = x.numpy()[nearest == k].sum(0) if (nearest == k).any() else start[k].numpy()
        np.testing.assert_allclose(found[k].numpy(), total / np.linalg.norm(total), atol=1e-6)
    np.testing.assert_array_equal(assignment.numpy(), np.argmax(x.numpy() @ found.numpy().T, 1))


def test_mini_batches_move_centroids_by_their_share_of_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    start = torch.eye(3)
    monkeypatch.setattr(clustering, "cosine_kmeans", lambda x, k, generator: (start, None))
    batches = [points(seed, 20, 3) for seed in range(3)]
    centroids, seen = start.double().numpy(), np.zeros(3)
    for batch in batches:
        x = batch.double().numpy()
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        nearest = np.argmax(x @ centroids.T, 1)
        for k in range(3):
            total = seen[k] * centroids[k] + x[nearest == k].sum(0)
            seen[k] += (nearest == k).sum()
            centroids[k] = total / seen[k]
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    found = clustering.minibatch_kmeans(iter(batches), 3, torch.Generator())
    np.testing.assert_allclose(found.numpy(), centroids, atol=1e-5)


def test_seeds_lie_in_distinct_clusters() -> None:
    truth = torch.arange(5).repeat_interleave(30)
    x = torch.nn.functional.normalize(torch.eye(5, 8)[truth] + 0.05 * points(0, 150, 8), dim=1)
    for seed in range(20):
        seeds = clustering._plus_plus(x, 5, torch.Generator().manual_seed(seed))
        assert sorted(seeds.argmax(1).tolist()) == [0, 1, 2, 3, 4]


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), classes=st.integers(1, 4))
def test_rand_index_counts_pairs(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, classes, 12), rng.integers(0, 3, 12)
    pairs = list(combinations(range(12), 2))
    in_a = np.array([a[i] == a[j] for i, j in pairs])
    in_b = np.array([b[i] == b[j] for i, j in pairs])
    expected = in_a.sum() * in_b.sum() / len(pairs)
    best = (in_a.sum() + in_b.sum()) / 2
    index = 1.0 if best == expected else ((in_a & in_b).sum() - expected) / (best - expected)
    assert adjusted_rand_index(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(index)


def test_stability_compares_halves_and_alternate_quarters() -> None:
    """What the clusters follow changes half-way, or to and fro: one split sees that, the other does not."""
    generator = torch.Generator().manual_seed(0)
    position = torch.arange(40)
    patterns = torch.stack([torch.eye(6)[position % 2], torch.eye(6)[2 + position // 2 % 2]])

    def footage(scene: torch.Tensor) -> torch.Tensor:
        tokens = patterns[scene] + 0.4 * patterns[1 - scene]
        return tokens + 0.01 * torch.randn(len(scene), 40, 6, generator=generator)

    same = cross_scene_stability(footage(torch.zeros(8, dtype=torch.long)), 2, restarts=1)
    changed = cross_scene_stability(footage(torch.arange(8) // 4), 2, restarts=1)
    alternate = cross_scene_stability(footage(torch.arange(8) // 2 % 2), 2, restarts=1)
    assert same == pytest.approx([1.0, 1.0])
    assert changed[0] < 0.9
    assert alternate[1] < 0.9
    assert len(cross_scene_stability(footage(torch.zeros(8, dtype=torch.long)), 2)) == 6


def test_restarts_begin_elsewhere() -> None:
    scores = cross_scene_stability(points(0, 8, 40, 6), 3)
    assert len(set(scores[:3])) > 1
    assert len(set(scores[3:])) > 1


def test_centred_whitening_takes_an_images_mean_token_out() -> None:
    tokens = points(0, 6, 50, 8) + 5.0 * points(1, 6, 1, 8)
    statistics = TokenStatistics(8)
    for image in tokens:
        statistics.update(image)
    z = statistics.whitening(5, centre=True)(tokens)
    torch.testing.assert_close(z.mean(1), torch.zeros(6, 5), atol=1e-4, rtol=0)
    flat = z.flatten(0, 1)
    torch.testing.assert_close(flat.T @ flat / len(flat), torch.eye(5), atol=1e-3, rtol=0)


def test_clusters_that_nothing_is_nearest_to_still_give_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = torch.nn.functional.normalize(points(5, 4, 3), dim=1)
    two = torch.tensor([0] * 6 + [1] * 4)
    monkeypatch.setattr(clustering, "cosine_kmeans", lambda *_: (fine, two))
    monkeypatch.setattr(clustering, "lloyd", lambda x, centroids, iterations: (centroids, two))
    found = clustering.over_clustered_prototypes(points(6, 10, 3), 3, torch.Generator())
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


def slow_seeds(x: F64, k: int, generator: torch.Generator) -> list[list[float]]:
    """Greedy k-means++, one candidate at a time; it draws what `_plus_plus` draws."""
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    trials = 2 + int(np.log(k))
    while len(chosen) < k:
        nearest = [max(0.0, 1 - max(float(v @ x[c]) for c in chosen)) for v in x]
        drawn = torch.multinomial(torch.tensor(nearest), trials, replacement=True, generator=generator)
        chosen.append(
            min(
                drawn.tolist(),
                key=lambda c: sum(min(n, 1 - float(v @ x[c])) for n, v in zip(nearest, x, strict=True)),
            )
        )
    return x[chosen].tolist()


@pytest.mark.parametrize("k", [1, 3, 8])
def test_seeds_are_those_of_greedy_k_means_plus_plus(k: int) -> None:
    """Two candidates and one more for every factor of e of the clusters; the best of them is taken."""
    x = torch.nn.functional.normalize(points(3, 60, 4), dim=1)
    for seed in range(5):
        found = clustering._plus_plus(x, k, torch.Generator().manual_seed(seed))
        expected = slow_seeds(x.double().numpy(), k, torch.Generator().manual_seed(seed))
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_more_clusters_than_distinct_vectors_are_seeded_all_the_same() -> None:
    seeds = clustering._plus_plus(torch.eye(2).repeat(3, 1), 4, torch.Generator().manual_seed(0))
    assert sorted(map(tuple, seeds[:2].tolist())) == [(0, 1), (1, 0)]
    assert len(seeds) == 4


def test_k_means_seeds_with_twenty_thousand_directions_and_takes_thirty_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, ...]] = []

    def seeds(x: torch.Tensor, k: int, _: torch.Generator) -> torch.Tensor:
        torch.testing.assert_close(x.norm(dim=1), torch.ones(len(x)))
        seen.append((len(x), k))
        return x[:k]

    def lloyd(x: torch.Tensor, centroids: torch.Tensor, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
        torch.testing.assert_close(x.norm(dim=1), torch.ones(len(x)))
        seen.append((len(x), len(centroids), iterations))
        return centroids, torch.zeros(len(x), dtype=torch.long)

    monkeypatch.setattr(clustering, "_plus_plus", seeds)
    monkeypatch.setattr(clustering, "lloyd", lloyd)
    clustering.cosine_kmeans(3 * points(0, 20_010, 2), 4, torch.Generator())
    clustering.cosine_kmeans(points(0, 50, 2), 4, torch.Generator())
    assert seen == [(20_000, 4), (20_010, 4, 30), (50, 4), (50, 4, 30)]
    seen.clear()
    clustering.over_clustered_prototypes(points(0, 50, 2), 2, torch.Generator())
    assert seen == [(50, 6), (50, 6, 30), (50, 2, 10)]


def test_mini_batches_leave_a_centroid_that_nothing_is_nearest_to(monkeypatch: pytest.MonkeyPatch) -> None:
    start = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    seeded: list[int] = []

    def seed(x: torch.Tensor, k: int, _: torch.Generator) -> tuple[torch.Tensor, None]:
        seeded.append(len(x))
        return start, None

    monkeypatch.setattr(clustering, "cosine_kmeans", seed)
    batches = [torch.tensor([[2.0, 0.0]]).expand(5, 2), torch.tensor([[3.0, 0.1]])]
    found = clustering.minibatch_kmeans(iter(batches), 2, torch.Generator())
    assert seeded == [5]  # by the first batch alone
    assert found[1].tolist() == [0.0, 1.0]
    assert bool(torch.isfinite(found).all())
    batches.append(torch.tensor([[3.0, 4.0]]))  # its first token is its mean
    found = clustering.minibatch_kmeans(iter(batches), 2, torch.Generator())
    assert found[1].tolist() == pytest.approx([0.6, 0.8])


def test_ward_numbers_its_groups_by_their_size() -> None:
    centroids = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.1, 0.0], [0.0, 9.0]])
    assert clustering.ward_merge(centroids, torch.tensor([1, 5, 2, 9]), 3).tolist() == [2, 1, 2, 0]
    assert clustering.ward_merge(centroids, torch.tensor([1, 5, 2, 9]), 4).tolist() == [3, 1, 2, 0]


def test_one_cluster_agrees_with_itself() -> None:
    one = torch.zeros(5, dtype=torch.long)
    assert adjusted_rand_index(one, one) == 1.0
    assert adjusted_rand_index(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])) == pytest.approx(-0.5)
