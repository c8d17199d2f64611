"""Even exposure against loops, and where it must change nothing."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from il2vseg.models.backbones import build_backbone
from il2vseg.models.exposure import EvenExposure

SIZE, CELL = (12, 18), 6


def reference(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, H, W) in float64: a gamma per pixel that takes the windowed mean luminance to 0.4."""
    _, height, width = image.shape
    luminance = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            total = weights = 0.0
            for i in range(height // CELL):
                for j in range(width // CELL):
                    cell = luminance[i * CELL : (i + 1) * CELL, j * CELL : (j + 1) * CELL].mean()
                    dy, dx = y + 0.5 - (i + 0.5) * CELL, x + 0.5 - (j + 0.5) * CELL
                    weight = math.exp(-(dy * dy + dx * dx) / (2 * (width / 12) ** 2))
                    total, weights = total + weight * cell, weights + weight
            gamma = math.log(0.4) / math.log(min(max(total / weights, 0.02), 0.9))
            gamma = min(max(gamma, 0.35), 1.3)
            out[:, y, x] = np.clip(image[:, y, x], 1e-4, 1.0) ** gamma
    return out


def test_it_equals_the_loops_in_light_and_in_shadow() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0.0, 1.0, (3, *SIZE))
    image[:, :, :6] *= 0.05
    evened = EvenExposure(SIZE, CELL)(torch.from_numpy(image[None]).float())
    assert evened[0].numpy() == pytest.approx(reference(image), abs=1e-5)


def test_a_grey_image_stays_as_it_is() -> None:
    image = torch.full((1, 3, *SIZE), 0.4)
    assert torch.allclose(EvenExposure(SIZE, CELL)(image), image, atol=1e-6)


def test_a_dark_scene_and_its_bright_copy_look_alike() -> None:
    scene = 0.2 + 0.5 * torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    evened = EvenExposure(SIZE, CELL)
    apart = (scene - 0.4 * scene).abs().mean()
    assert (evened(scene) - evened(0.4 * scene)).abs().mean() < 0.35 * apart


def test_the_backbone_sees_the_evened_image() -> None:
    size = (32, 48)
    plain, evening = build_backbone("tiny", size, None), build_backbone("tiny", size, None, True)
    dark = 0.1 * torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(2))
    assert evening.exposure is not None
    assert torch.equal(evening(dark), plain(evening.exposure(dark)))
    assert not torch.allclose(evening(dark), plain(dark))


def test_kept_to_dark_images_it_leaves_the_others_alone() -> None:
    """Mean luminance 0.35 is not dark, 0.25 is, 0.30 is half way: the gamma is halved towards 1."""
    noise = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    for level, share in ((0.35, 0.0), (0.25, 1.0), (0.30, 0.5)):
        luminance = float((noise * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1).mean())
        image = noise * level / luminance
        gamma = EvenExposure(SIZE, CELL)(image).log() / image.clamp_min(1e-4).log()
        expected = image.clamp_min(1e-4) ** (1.0 + share * (gamma - 1.0))
        dark_only = EvenExposure(SIZE, CELL, dark_only=True)(image)
        assert torch.allclose(dark_only, expected, atol=1e-4), level
        assert (share > 0) == (float((dark_only - image).abs().mean()) > 0.01), level


def test_black_and_white_give_finite_numbers() -> None:
    for image in (torch.zeros(1, 3, *SIZE), torch.ones(1, 3, *SIZE)):
        out = EvenExposure(SIZE, CELL)(image)
        assert torch.equal(out.clamp(0.0, 1.0), out)  # and NaN equals nothing
