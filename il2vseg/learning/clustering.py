"""Prototypes from features: cosine k-means, whole or in mini-batches, and size-weighted Ward merging."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

OVER_CLUSTERING = 3
"""Clusters found for every class asked for, before Ward merging (DESIGN: steadier than k-means at C)."""


def _plus_plus(x: Tensor, k: int, generator: Generator) -> Tensor:
    """Greedy k-means++ on unit vectors: of a few candidates the one that lowers the inertia most."""
    trials = 2 + int(torch.tensor(float(k)).log())
    centroids = [x[torch.randint(len(x), (), generator=generator)]]
    closest = 1.0 - x @ centroids[0]
    for _ in range(k - 1):
        weights = closest.clamp_min(0.0)
        if not bool(weights.sum() > 0):  # fewer distinct vectors than clusters
            weights = torch.ones_like(weights)
        candidates = torch.multinomial(weights, trials, replacement=True, generator=generator)
        distances = torch.minimum(closest[:, None], 1.0 - x @ x[candidates].T)
        best = int(distances.sum(0).argmin())
        centroids.append(x[candidates[best]])
        closest = distances[:, best]
    return torch.stack(centroids)


def lloyd(x: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Refine unit centroids by cosine Lloyd steps; an empty cluster keeps its centroid.

    Args:
        x: unit vectors (N, d). centroids: (K, d) unit vectors.
    Returns:
        centroids (K, d) of unit length and the assignment (N,) to them.
    """
    assignment = (x @ centroids.T).argmax(1)
    for _ in range(iterations):
        sums = torch.zeros_like(centroids).index_add_(0, assignment, x)
        alive = sums.norm(dim=1, keepdim=True) > 0
        centroids = torch.where(alive, F.normalize(sums, dim=1), centroids)
        assignment = (x @ centroids.T).argmax(1)
    return centroids, assignment


def cosine_kmeans(
    x: Tensor, k: int, generator: Generator, iterations: int = 30, seeding_sample: int = 20_000
) -> tuple[Tensor, Tensor]:
    """Cluster vectors by direction: greedy k-means++, then Lloyd.

    Args:
        x: (N, d), any length. seeding_sample: vectors that k-means++ looks at.
    Returns:
        centroids (k, d) of unit length and the assignment (N,).
    """
    x = F.normalize(x, dim=1)
    sample = x[torch.randint(len(x), (min(seeding_sample, len(x)),), generator=generator)]
    return lloyd(x, _plus_plus(sample, k, generator), iterations)


def minibatch_kmeans(batches: Iterable[Tensor], k: int, generator: Generator) -> Tensor:
    """Cosine k-means that holds one batch at a time (Sculley 2010): centroids are running means.

    Args:
        batches: (M, d) each, any length of vectors; the first seeds the centroids (greedy k-means++).
    Returns:
        (k, d) of unit length.
    """
    centroids, given = torch.empty(0), torch.zeros(k)
    for batch in batches:
        x = F.normalize(batch, dim=1)
        if not len(centroids):
            centroids, _ = cosine_kmeans(x, k, generator)
        assignment = (x @ centroids.T).argmax(1)
        sums = torch.zeros_like(centroids).index_add_(0, assignment, x)
        size = torch.bincount(assignment, minlength=k)
        given = given + size
        step = sums - size[:, None] * centroids
        centroids = F.normalize(centroids + step / given.clamp_min(1)[:, None], dim=1)
    return centroids


def ward_merge(centroids: Tensor, sizes: Tensor, k: int) -> Tensor:
    """Merge weighted centroids agglomeratively by Ward's criterion (Ward 1963) until k groups are left.

    SciPy's linkage starts from points of equal weight; ten tokens must not count as ten thousand.

    Args:
        centroids: (K, d). sizes: (K,) positive.
    Returns:
        group of each centroid (K,), in 0 … k−1, numbered by falling size.
    """
    groups = [[i] for i in range(len(centroids))]
    centre, size = centroids.double().clone(), sizes.double().clone()
    while len(groups) > k:
        cost = torch.cdist(centre, centre).square() * (size[:, None] * size / (size[:, None] + size))
        cost.fill_diagonal_(torch.inf)
        i, j = sorted(divmod(int(cost.argmin()), len(groups)))
        centre[i] = (size[i] * centre[i] + size[j] * centre[j]) / (size[i] + size[j])
        size[i] += size[j]
        groups[i] += groups.pop(j)
        keep = torch.arange(len(size)) != j
        centre, size = centre[keep], size[keep]
    merged = torch.empty(len(centroids), dtype=torch.long)
    for rank, group in enumerate(size.argsort(descending=True, stable=True).tolist()):
        merged[groups[group]] = rank
    return merged


def over_clustered_prototypes(
    x: Tensor, k: int, generator: Generator, factor: int = OVER_CLUSTERING, refine: int = 10
) -> Tensor:
    """Find k prototypes: factor·k clusters, Ward-merged to k, then a few Lloyd steps.

    Args:
        x: (N, d) features.
    Returns:
        (k, d) unit vectors, ordered by falling cluster size before refinement.
    """
    x = F.normalize(x, dim=1)
    fine, assignment = cosine_kmeans(x, factor * k, generator)
    sizes = torch.bincount(assignment, minlength=len(fine)).clamp_min(1)
    groups = ward_merge(fine, sizes, k)
    merged = torch.zeros(k, x.shape[1]).index_add_(0, groups, fine * sizes[:, None])
    return lloyd(x, F.normalize(merged, dim=1), refine)[0]


def adjusted_rand_index(a: Tensor, b: Tensor) -> float:
    """Agreement of two labelings (N,) up to renaming: 1 identical, 0 chance (Hubert & Arabie 1985)."""
    table = torch.zeros(int(a.max()) + 1, int(b.max()) + 1, dtype=torch.float64)
    table.index_put_((a, b), torch.ones(len(a), dtype=torch.float64), accumulate=True)

    def pairs(counts: Tensor) -> Tensor:
        return (counts * (counts - 1) / 2).sum()

    together, rows, columns = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    expected = rows * columns / pairs(table.sum())
    best = (rows + columns) / 2
    return 1.0 if bool(best == expected) else float((together - expected) / (best - expected))


def agreeing_clusterings(
    x: Tensor, k: int, generator: Generator, restarts: int, sample: int = 50_000
) -> tuple[list[Tensor], list[float]]:
    """Several clusterings, and how well each agrees with the others.

    Args:
        x: (N, d) features. sample: of them that a clustering sees, drawn anew each time.
    Returns:
        Unit vectors (k, d) of each, and the mean adjusted Rand index of its labels and those of the others.
    """
    x = F.normalize(x, dim=1)
    found = [
        over_clustered_prototypes(
            x[torch.randperm(len(x), generator=generator)[:sample]], k, generator, refine=0
        )
        for _ in range(restarts)
    ]
    seen = x[torch.randperm(len(x), generator=generator)[:sample]]
    labels = [(seen @ prototypes.T).argmax(1) for prototypes in found]
    total = [sum(adjusted_rand_index(a, b) for b in labels) for a in labels]
    return found, [(value - 1.0) / max(restarts - 1, 1) for value in total]


def agreeing_prototypes(
    x: Tensor, k: int, generator: Generator, restarts: int, sample: int = 50_000
) -> Tensor:
    """Of several clusterings, the one whose labels agree best with those of the others.

    Which clusters Ward merges last depends on the seeds of k-means; what most restarts find is in the data.

    Args:
        x, sample: as in `agreeing_clusterings`.
    Returns:
        (k, d) unit vectors.
    """
    found, agreement = agreeing_clusterings(x, k, generator, restarts, sample)
    best = max(range(restarts), key=agreement.__getitem__)
    return found[best]
