"""Of several clusterings, the one that the others agree with."""

import pytest
import torch

from il2vseg.learning import clustering


def directions(angles: list[float]) -> torch.Tensor:
    radians = torch.deg2rad(torch.tensor(angles))
    return torch.stack([radians.cos(), radians.sin()], 1)


def test_the_odd_one_out_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three clusterings split the vectors at 45°, one at 80°."""
    usual, alike, odd = directions([0.0, 90.0]), directions([2.0, 88.0]), directions([70.0, 90.0])
    given = iter([odd, usual, alike])
    settings = []

    def cluster(x: torch.Tensor, k: int, generator: torch.Generator, refine: int) -> torch.Tensor:
        settings.append((len(x), k, refine))
        return next(given)

    monkeypatch.setattr(clustering, "over_clustered_prototypes", cluster)
    vectors = 5.0 * directions([float(a) for a in range(0, 91, 3)])
    chosen = clustering.agreeing_prototypes(vectors, 2, torch.Generator().manual_seed(0), 3, sample=20)
    assert torch.equal(chosen, usual) or torch.equal(chosen, alike)
    assert settings == [(20, 2, 0)] * 3
    given = iter([odd, usual, alike])
    _, agreements = clustering.agreeing_clusterings(
        vectors, 2, torch.Generator().manual_seed(0), 3, sample=20
    )
    assert agreements[0] == min(agreements)
    agreement = max(agreements)
    assert 0.5 < agreement < 1.0  # mean of 1 with its like and of less with the odd one; its own 1 is no part
    given = iter([usual, alike])
    pair = clustering.agreeing_clusterings(vectors, 2, torch.Generator().manual_seed(0), 2)
    assert pair[1] == [1.0, 1.0]


def test_each_clustering_sees_other_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def cluster(x: torch.Tensor, k: int, generator: torch.Generator, refine: int) -> torch.Tensor:
        seen.append(x)
        return x[:k]

    monkeypatch.setattr(clustering, "over_clustered_prototypes", cluster)
    vectors = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    clustering.agreeing_prototypes(vectors, 3, torch.Generator().manual_seed(0), 3, sample=20)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_a_clustering_sees_fifty_thousand_vectors_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def cluster(x: torch.Tensor, k: int, generator: torch.Generator, refine: int) -> torch.Tensor:
        sizes.append(len(x))
        return x[:k]

    monkeypatch.setattr(clustering, "over_clustered_prototypes", cluster)
    clustering.agreeing_prototypes(torch.ones(50_010, 1), 1, torch.Generator(), 2)
    assert sizes == [50_000] * 2


def test_separate_clusters_are_found_and_the_same_seed_finds_them_again() -> None:
    generator = torch.Generator().manual_seed(2)
    truth = torch.arange(4).repeat_interleave(50)
    vectors = 4.0 * torch.eye(4, 6)[truth] + 0.3 * torch.randn(200, 6, generator=generator)
    first, second = (
        clustering.agreeing_prototypes(vectors, 4, torch.Generator().manual_seed(3), 4) for _ in range(2)
    )
    assert clustering.adjusted_rand_index((vectors @ first.T).argmax(1), truth) == 1.0
    assert torch.equal(first, second)
