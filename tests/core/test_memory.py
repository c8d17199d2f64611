"""Peak memory of a training step, counted and bounded."""

import dataclasses
from pathlib import Path

import pytest
import torch

from il2vseg import train
from il2vseg.base.errors import UserError
from il2vseg.learning.memory import GIB, PeakMemory, micro_batches_within, step_memory
from il2vseg.methods import METHODS, load_method
from il2vseg.methods.base import Recipe
from il2vseg.methods.joint import Joint

RECIPE = Recipe(Joint(), num_classes=5)
SIZES = ((12, 16), 48, 8)  # grid, channels, whitened dimensions


def test_tensors_are_counted_while_they_live() -> None:
    with PeakMemory() as memory:
        a = torch.ones(1000)
        b = a + 1
        assert memory.live == 8000
        view = b[10:]
        del a, b
        assert memory.live == 4000
        del view
        assert memory.live == 0
        torch.ones(500).add_(1)
    assert memory.peak == 8000


def test_what_backward_makes_is_counted() -> None:
    x = torch.ones(1000, requires_grad=True)
    with PeakMemory() as memory:
        (x.exp() * x).sum().backward()
    assert x.grad is not None
    assert memory.peak >= 3 * 4000  # exp, the product, and a gradient at the same time


@pytest.mark.parametrize("method", [m for m in METHODS if load_method(m)().stages()])
def test_memory_grows_with_the_images_of_a_micro_batch(method: str) -> None:
    recipe = dataclasses.replace(RECIPE, method=load_method(method)())
    two, eight = step_memory(recipe, 2, *SIZES), step_memory(recipe, 8, *SIZES)
    assert 2 * two < eight


@pytest.mark.parametrize("fraction", [1.1, 0.4])
def test_micro_batches_keep_a_step_within_the_limit(fraction: float) -> None:
    limit = int(fraction * step_memory(RECIPE, 16, *SIZES))
    count = micro_batches_within(limit, RECIPE, 16, *SIZES)
    assert step_memory(RECIPE, -(-16 // count), *SIZES) <= limit
    assert (count == 1) == (fraction > 1)


def test_a_limit_below_two_images_is_refused() -> None:
    with pytest.raises(UserError, match="two images take"):
        micro_batches_within(1000, RECIPE, 16, *SIZES)


def test_the_command_divides_the_batch_and_records_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))
    fast = ["--backbone", "tiny", "--size", "48", "64", "--limit", "8", "--steps", "2"]
    fast += ["--method", "joint", "--out", str(tmp_path / "out")]
    four = step_memory(Recipe(Joint()), 4, (3, 4), 192, 6) / GIB
    assert train.main([*fast, "--loss-memory", str(1.01 * four)]) == 0
    assert "accumulate: 2\n" in (tmp_path / "out" / "config.yaml").read_text()
    assert train.main([*fast, "--loss-memory", "1e-6"]) == 2


def test_a_training_of_coco_size_fits_a_24_gib_gpu() -> None:
    """ViT-S/8 at 320x320, 27 classes, 32 images: the tensors of a step, with the backbone beside them."""
    peak = step_memory(Recipe(Joint(), num_classes=27), 32, (40, 40), 384)
    assert peak < 4 * GIB
