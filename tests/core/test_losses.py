"""Every loss against a slow, obvious float64 reference."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from il2vseg.losses import (
    correspondence,
    eigen_aggregation,
    eigenfunction,
    fusion,
    hidden_positives,
    similarity,
    smoothness,
)

F64 = NDArray[np.float64]
B, S, K, D, C = 3, 5, 4, 6, 3


def tensor(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def probabilities(seed: int) -> Tensor:
    return tensor(seed, B, S, C).softmax(2)


def cosine(a: F64, b: F64) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def cosines(a: Tensor, b: Tensor) -> F64:
    x, y = a.double().numpy(), b.double().numpy()
    return np.array([[[cosine(p, q) for q in y[n]] for p in x[n]] for n in range(len(x))])


def reference_similarity(a: Tensor, b: Tensor) -> F64:
    s = cosines(a, b)
    for n in range(s.shape[0]):
        for i in range(s.shape[1]):
            s[n, i] -= s[n, i].mean()
    return s / np.sqrt((s**2).mean())


def reference_correspondence(ca: Tensor, cb: Tensor, fa: Tensor, fb: Tensor) -> float:
    return float(-(np.maximum(cosines(ca, cb), 0) * reference_similarity(fa, fb)).mean())


def test_similarities_give_no_gradient_to_either_side() -> None:
    a, b = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 5, 4, requires_grad=True)
    assert not similarity.standardized_similarity(a, b.detach()).requires_grad
    assert not similarity.standardized_similarity(a.detach(), b).requires_grad


def test_standardized_similarity_agrees_with_the_reference() -> None:
    a, b = tensor(0, B, S, K), tensor(1, B, S + 2, K)
    out = similarity.standardized_similarity(a, b).numpy()
    np.testing.assert_allclose(out, reference_similarity(a, b), atol=1e-5)


def test_correspondence_loss_agrees_with_the_reference() -> None:
    embeddings, view, f, f_view = (
        tensor(0, B, S, D),
        tensor(1, B, S, D),
        tensor(2, B, S, K),
        tensor(3, B, S, K),
    )
    negatives = [torch.tensor([1, 2, 0]), torch.tensor([2, 0, 1])]
    expected = 0.67 * reference_correspondence(embeddings, embeddings, f, f)
    expected += 0.25 * reference_correspondence(embeddings, view, f, f_view)
    for other in negatives:
        expected += 0.63 / 2 * reference_correspondence(embeddings, view[other], f, f_view[other])
    out = correspondence.correspondence_loss(embeddings, view, f, f_view, negatives)
    assert float(out) == pytest.approx(expected, abs=1e-5)


def test_smoothness_loss_agrees_with_the_reference() -> None:
    p, f, other = probabilities(0), tensor(1, B, S, K), torch.tensor([1, 2, 0])
    expected = (reference_similarity(f, f) * (1 - cosines(p, p))).mean()
    expected += (reference_similarity(f, f[other]) * (1 - cosines(p, p[other]))).mean()
    assert float(smoothness.smoothness_loss(p, f, other)) == pytest.approx(float(expected), abs=1e-5)


def test_data_loss_is_cross_entropy_against_the_global_labels() -> None:
    local, target = tensor(0, B, S, C), tensor(1, B, S, C)
    expected = 0.0
    for n in range(B):
        for i in range(S):
            logits = local[n, i].double().numpy()
            expected -= logits[int(target[n, i].argmax())] - np.log(np.exp(logits).sum())
    assert float(smoothness.data_loss(local, target)) == pytest.approx(expected / (B * S), abs=1e-5)


def test_fusion_loss_is_cross_entropy_against_the_fused_labels() -> None:
    logits, fused = tensor(0, B, S, C), probabilities(1)
    expected = 0.0
    for n in range(B):
        for i in range(S):
            values = logits[n, i].double().numpy()
            expected -= values[int(fused[n, i].argmax())] - np.log(np.exp(values).sum())
    assert float(fusion.fusion_loss(logits, fused)) == pytest.approx(expected / (B * S), abs=1e-5)


def reference_graph(s: F64, k: int) -> F64:
    n = len(s)
    a = np.zeros_like(s)
    for i in range(n):
        for j in np.argsort(-s[i])[:k]:
            a[i, j] = max(s[i, j], 0.0)
    a = (a + a.T) / 2
    degree = np.maximum(a.sum(1), 1e-6)
    return np.array([[a[i, j] / np.sqrt(degree[i] * degree[j]) for j in range(n)] for i in range(n)])


@pytest.mark.parametrize("k", [2, 4, 50])
def test_neighbour_graph_agrees_with_the_reference(k: int) -> None:
    f = tensor(0, 1, 7, K)
    s = cosines(f, f)[0]
    out = eigenfunction.nearest_neighbour_graph(torch.from_numpy(s), k).numpy()
    np.testing.assert_allclose(out, reference_graph(s, k), atol=1e-9)


def test_gram_matrix_adds_the_pixel_graphs_of_each_image() -> None:
    f, colours = tensor(0, B, S, K), torch.rand(B, S, 3, generator=torch.Generator().manual_seed(1))
    xy = torch.rand(B, S, 2, generator=torch.Generator().manual_seed(2))
    flat = f.reshape(1, B * S, K)
    expected = reference_graph(cosines(flat, flat)[0], 256)
    for n in range(B):
        pixel = np.zeros((S, S))
        for weight, k in ((2.0, 10), (0.1, 5)):
            z = np.concatenate([colours[n].double().numpy(), weight * xy[n].double().numpy()], 1)
            pixel += reference_graph(np.exp(-((z[:, None] - z[None]) ** 2).sum(2)), k) / 2
        expected[n * S : (n + 1) * S, n * S : (n + 1) * S] += 0.3 * pixel
    np.testing.assert_allclose(eigenfunction.gram_matrix(f, colours, xy).numpy(), expected, atol=1e-5)


def test_eigenfunction_losses_agree_with_the_reference() -> None:
    p, gram = probabilities(0), tensor(1, B * S, B * S)
    gram = gram + gram.T
    psi = p.reshape(B * S, C).double().numpy()
    psi = psi / np.linalg.norm(psi, axis=0)
    r = psi.T @ gram.double().numpy() @ psi
    l_fs, l_reg = eigenfunction.eigenfunction_losses(p, gram)
    assert float(l_fs) == pytest.approx(-np.trace(r) / C, abs=1e-5)
    expected = sum(r[i, j] ** 2 for i in range(C) for j in range(i + 1, C)) / C
    assert float(l_reg) == pytest.approx(expected, abs=1e-5)


def test_the_regulariser_moves_only_the_later_function() -> None:
    p = probabilities(0).requires_grad_()
    _, l_reg = eigenfunction.eigenfunction_losses(p, torch.eye(B * S))
    (gradient,) = torch.autograd.grad(l_reg, p)
    assert float(gradient[..., 0].abs().max()) == 0.0
    assert float(gradient[..., 2].abs().max()) > 0.0


def reference_positives(x: F64, pool: F64) -> NDArray[np.bool_]:
    m = len(x)
    threshold = [max(cosine(x[i], q) for q in pool) for i in range(m)]
    out = np.zeros((m, m), bool)
    for i in range(m):
        for j in range(m):
            similar = cosine(x[i], x[j])
            out[i, j] = i != j and (similar > threshold[i] or similar > threshold[j])
    return out


def test_hidden_positives_are_nearer_than_the_whole_reference_pool() -> None:
    x, pool = tensor(0, 30, K), tensor(1, 8, K)
    expected = reference_positives(x.double().numpy(), pool.double().numpy())
    out = hidden_positives.hidden_positives(x, pool)
    assert 0 < expected.sum() < expected.size / 2
    np.testing.assert_array_equal(out.numpy(), expected)


def reference_contrast(embeddings: F64, weights: F64, negatives: NDArray[np.bool_]) -> float:
    total = 0.0
    for i in range(len(embeddings)):
        logits = [
            cosine(embeddings[i], embeddings[j]) / hidden_positives.TEMPERATURE
            for j in range(len(embeddings))
        ]
        counted = [j for j in range(len(embeddings)) if j != i and (weights[i, j] > 0 or negatives[i, j])]
        for j in range(len(embeddings)):
            if weights[i, j] > 0:
                total -= weights[i, j] * (logits[j] - np.log(sum(np.exp(logits[n]) for n in counted)))
    return float(total / weights.sum())


def test_hidden_positive_losses_agree_with_the_reference() -> None:
    embeddings, mixed, x, pool = tensor(0, 12, D), tensor(1, 12, D), tensor(2, 12, K), tensor(3, 3, K)
    agnostic = hidden_positives.hidden_positives(x, pool)
    specific = hidden_positives.hidden_positives(embeddings, tensor(4, 3, D))
    agnostic[0], agnostic[:, 0] = False, False  # an anchor without positives: it does not count
    negatives = tensor(5, 12, 12) > 0.5
    weights = (agnostic.numpy() + 0.4 * specific.numpy()) * agnostic.numpy().any(1, keepdims=True)
    expected = np.mean(
        [reference_contrast(c.double().numpy(), weights, negatives.numpy()) for c in (embeddings, mixed)]
    )
    out = hidden_positives.hidden_positive_losses(embeddings, mixed, agnostic, specific, 0.4, negatives)
    assert float(out) == pytest.approx(float(expected), abs=1e-5)


def test_without_positives_the_contrast_is_zero_with_a_finite_gradient() -> None:
    embeddings = tensor(0, 5, D).requires_grad_()
    nothing = torch.zeros(5, 5)
    for negatives in (nothing > 0, torch.eye(5) > 0):  # the diagonal does not count
        loss = hidden_positives.weighted_contrast(embeddings, nothing, negatives)
        (gradient,) = torch.autograd.grad(loss, embeddings)
        assert float(loss.detach()) == 0.0
        assert not gradient.any()


def test_local_mixture_agrees_with_the_reference() -> None:
    h, w = 3, 4
    embeddings, f = tensor(0, 2, h * w, D), tensor(1, 2, h * w, K)
    expected = np.zeros((2, h * w, D))
    for b in range(2):
        for i in range(h * w):
            near = [
                y * w + x
                for y in range(max(0, i // w - 1), min(h, i // w + 2))
                for x in range(max(0, i % w - 1), min(w, i % w + 2))
            ]
            similar = {j: cosine(f[b, i].double().numpy(), f[b, j].double().numpy()) for j in near}
            mean = np.mean(list(similar.values()))
            kept = {j: max(s, 0.0) for j, s in similar.items() if s >= mean}
            for j, s in kept.items():
                expected[b, i] += s * embeddings[b, j].double().numpy() / sum(kept.values())
    out = hidden_positives.local_mixture(embeddings, f, (h, w))
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-5)


def test_consistency_is_the_mean_distance_of_directions() -> None:
    a, b = tensor(0, 7, D).double(), tensor(1, 7, D).double()
    expected = np.mean([np.sqrt(2 - 2 * cosine(x, y)) for x, y in zip(a.numpy(), b.numpy(), strict=True)])
    assert float(hidden_positives.consistency_loss(a, b)) == pytest.approx(float(expected), abs=1e-4)


def test_leading_eigenvectors_are_those_of_the_normalised_laplacian() -> None:
    embeddings, colours = tensor(0, B, 9, D), tensor(1, B, 9, 3).sigmoid()
    a = eigen_aggregation.adjacency(embeddings, colours)
    vectors = eigen_aggregation.leading_eigenvectors(a.double(), 3).numpy()
    for n in range(B):
        c, rgb = embeddings[n].double().numpy(), colours[n].double().numpy()
        adjacency = np.array(
            [
                [
                    max(cosine(c[i], c[j]), 0) + np.exp(-((rgb[i] - rgb[j]) ** 2).sum() / 0.02)
                    for j in range(9)
                ]
                for i in range(9)
            ]
        )
        np.testing.assert_allclose(a[n].numpy(), adjacency, atol=1e-5)
        degree = np.diag(1 / np.sqrt(adjacency.sum(1)))
        laplacian = np.eye(9) - degree @ adjacency @ degree
        values = np.linalg.eigvalsh(laplacian)
        for k in range(3):
            np.testing.assert_allclose(
                laplacian @ vectors[n, :, k], values[k + 1] * vectors[n, :, k], atol=1e-5
            )


def test_eigen_clusters_are_the_blocks_of_an_image() -> None:
    truth = torch.tensor([0] * 5 + [1] * 4 + [2] * 6)
    embeddings = 4.0 * torch.eye(3, D)[truth] + 0.1 * tensor(0, 2, 15, D)
    colours = torch.eye(3)[truth].expand(2, -1, -1)
    labels = eigen_aggregation.eigen_clusters(embeddings, colours, 3)
    for found in labels:
        assert len({(int(f), int(t)) for f, t in zip(found, truth, strict=True)}) == 3


def test_object_contrast_of_medoids_agrees_with_the_reference() -> None:
    z = torch.nn.functional.normalize(tensor(0, B, 8, D), dim=2)
    labels = torch.tensor([0, 0, 0, 2, 2, 2, 2, 0]).expand(B, -1)  # object 1 does not exist
    prototypes, present = eigen_aggregation.medoids(z, labels, 3)
    assert present.tolist() == [[True, False, True]] * B
    expected = 0.0
    for n in range(B):
        x = z[n].double().numpy()
        medoid = {}
        for k in (0, 2):
            members = [i for i in range(8) if labels[n, i] == k]
            medoid[k] = x[max(members, key=lambda i: sum(cosine(x[i], x[j]) for j in members))]
            np.testing.assert_allclose(prototypes[n, k].numpy(), medoid[k], atol=1e-6)
        for i in range(8):
            logits = {k: x[i] @ m / 0.07 for k, m in medoid.items()}
            expected -= logits[int(labels[n, i])] - np.log(sum(np.exp(v) for v in logits.values()))
    out = eigen_aggregation.object_contrast(z, prototypes, present, labels)
    assert float(out) == pytest.approx(expected / (B * 8), abs=1e-4)
