"""Edge-aware upsampling: the textbook's filter, edges on the image's, and nothing where there is nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from il2vseg.models.guided import guided_quads, linear_models, stitch
from il2vseg.models.network import label_pixels, pixel_scores
from il2vseg.models.spec import LowLevelSpec


def slow_filter(
    guide: NDArray[np.float64], scores: NDArray[np.float64], radius: int, eps: float
) -> NDArray[np.float64]:
    """He, Sun & Tang 2010, eq. 19-21, window by window: guide (H, W, 3), scores (H, W)."""
    height, width = scores.shape
    slopes, offsets = np.zeros((height, width, 3)), np.zeros((height, width))

    def window(y: int, x: int) -> tuple[slice, slice]:
        return slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)

    for y in range(height):
        for x in range(width):
            colours = guide[window(y, x)].reshape(-1, 3)
            p = scores[window(y, x)].ravel()
            mean = colours.mean(0)
            covariance = (colours - mean).T @ (colours - mean) / len(p)
            cross = (colours * p[:, None]).mean(0) - mean * p.mean()
            slopes[y, x] = np.linalg.solve(covariance + eps * np.eye(3), cross)
            offsets[y, x] = p.mean() - slopes[y, x] @ mean
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            slope = slopes[window(y, x)].reshape(-1, 3).mean(0)
            out[y, x] = slope @ guide[y, x] + offsets[window(y, x)].mean()
    return out


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    eps=st.sampled_from([1e-2, 1e-3]),
)
def test_with_one_cell_a_pixel_it_is_the_filter_of_the_paper(
    seed: int, size: tuple[int, int], eps: float
) -> None:
    rng = np.random.default_rng(seed)
    guide, scores = rng.random((*size, 3)), rng.dirichlet(np.ones(2), size)
    image = torch.from_numpy(guide).float().permute(2, 0, 1)[None]
    out = stitch(guided_quads(torch.from_numpy(scores).float().permute(2, 0, 1)[None], image, 1, eps), size)
    for c in range(2):
        expected = slow_filter(guide, scores[..., c], 1, eps)
        np.testing.assert_allclose(out[0, c].numpy(), expected, atol=2e-4)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    b=st.integers(1, 2),
    c=st.integers(1, 4),
    cells=st.integers(1, 3),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pixels=st.tuples(st.integers(1, 8), st.integers(1, 8)),
)
def test_quads_are_the_interpolated_planes(
    seed: int, b: int, c: int, cells: int, grid: tuple[int, int], pixels: tuple[int, int]
) -> None:
    """He & Sun 2015, eq. 8, literally: the planes of slopes and offset at full size."""
    generator = torch.Generator().manual_seed(seed)
    fine = (grid[0] * cells, grid[1] * cells)
    size = (fine[0] * pixels[0], fine[1] * pixels[1])
    images = torch.rand(b, 3, *size, generator=generator)
    scores = torch.rand(b, c, *grid, generator=generator).softmax(1)
    coarse = F.interpolate(scores, size=fine, mode="bilinear")
    models = linear_models(F.avg_pool2d(images, pixels), coarse, 1e-3)
    planes = F.interpolate(models.flatten(1, 2), size=size, mode="bilinear").unflatten(1, (4, c))
    expected = (planes[:, :3] * images[:, :, None]).sum(1) + planes[:, 3]
    found = pixel_scores(scores, images, LowLevelSpec(refine=cells))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    labels = label_pixels(scores, images, LowLevelSpec(refine=cells))
    torch.testing.assert_close(labels, found.argmax(1).to(torch.uint8), atol=0, rtol=0)


def halves(edge: int) -> torch.Tensor:
    """(1, 3, 56, 56), dark on the left of column `edge`, light on its right."""
    row = torch.where(torch.arange(56) < edge, 0.2, 0.8)
    return row.expand(1, 3, 56, 56)


@pytest.mark.parametrize("edge", [24, 28, 31])
def test_an_edge_of_tokens_moves_onto_the_edge_of_the_image(edge: int) -> None:
    left = (halves(edge).mean(1, keepdim=True) < 0.5).float()
    scores = F.avg_pool2d(torch.cat([left, 1 - left], 1), 14)
    assert scores.shape[-2:] == (4, 4)
    expected = left[0, 0] == 0
    wrong = label_pixels(scores, halves(edge), LowLevelSpec(refine=2))[0].bool() != expected
    blurred = label_pixels(scores, halves(edge), LowLevelSpec(refine=0))[0].bool() != expected
    assert wrong.sum() == 0
    assert edge == 28 or blurred.sum() > 0


def test_a_flat_image_leaves_scores_between_their_neighbours() -> None:
    scores = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(1)).softmax(1)
    models = linear_models(torch.full((1, 3, 4, 5), 0.5), scores, 1e-3)
    slopes, offset = models[:, :3], models[:, 3]
    assert slopes.abs().max() < 1e-3
    assert offset.max() <= scores.max() + 1e-5
    assert offset.min() >= scores.min() - 1e-5


def test_scores_stay_a_distribution() -> None:
    generator = torch.Generator().manual_seed(2)
    scores = torch.rand(1, 5, 3, 4, generator=generator).mul(8).softmax(1)
    full = pixel_scores(scores, torch.rand(1, 3, 42, 56, generator=generator), LowLevelSpec(refine=2))
    torch.testing.assert_close(full.sum(1), torch.ones(1, 42, 56), atol=1e-4, rtol=0)


def test_images_of_a_batch_are_fitted_each_by_itself() -> None:
    generator = torch.Generator().manual_seed(3)
    guide, scores = torch.rand(3, 3, 5, 4, generator=generator), torch.rand(3, 2, 5, 4, generator=generator)
    together = linear_models(guide, scores, 1e-3)
    alone = [linear_models(guide[i : i + 1], scores[i : i + 1], 1e-3) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))
