"""Every loss against a slow, obvious float64 reference."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from il2vseg.losses import correspondence, eigenfunction, fusion, similarity, smoothness

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


def test_standardized_similarity_agrees_with_the_reference() -> None:
    a, b = tensor(0, B, S, K), tensor(1, B, S + 2, K)
    out = similarity.standardized_similarity(a, b).numpy()
    np.testing.assert_allclose(out, reference_similarity(a, b), atol=1e-5)


def test_correspondence_loss_agrees_with_the_reference() -> None:
    codes, view, f, f_view = tensor(0, B, S, D), tensor(1, B, S, D), tensor(2, B, S, K), tensor(3, B, S, K)
    negatives = [torch.tensor([1, 2, 0]), torch.tensor([2, 0, 1])]
    expected = 0.67 * reference_correspondence(codes, codes, f, f)
    expected += 0.25 * reference_correspondence(codes, view, f, f_view)
    for other in negatives:
        expected += 0.63 / 2 * reference_correspondence(codes, view[other], f, f_view[other])
    out = correspondence.correspondence_loss(codes, view, f, f_view, negatives)
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
