"""The compiled fuzzy c-means against the one that models compute."""

from typing import Any

import numba
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from il2vseg.learning import fcm_kernel
from il2vseg.models import lowlevel


def inputs(seed: int, b: int, f: int, c: int, h: int, w: int) -> tuple[Tensor, Tensor]:
    """Features and seeds."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(b, f, h, w, generator=generator), torch.rand(b, c, h, w, generator=generator).softmax(1)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(*(st.integers(low, high) for low, high in ((1, 3), (2, 6), (1, 5), (1, 7), (1, 7)))),
    iterations=st.integers(0, 4),
    spatial=st.booleans(),
    prior=st.sampled_from(["none", "mass", "pixel"]),
)
def test_agrees_with_the_tensor_form(
    seed: int, shape: tuple[int, int, int, int, int], iterations: int, spatial: bool, prior: str
) -> None:
    # With fewer pixels, centroids fall onto them, and what d² rounds to decides.
    assume(shape[3] * shape[4] >= 2 * shape[2])
    x, u = inputs(seed, *shape)
    before = u.clone()
    pi = {"none": None, "mass": u.mean((2, 3), keepdim=True), "pixel": u}[prior]
    found = fcm_kernel.fuzzy_cmeans(x, u, iterations, spatial=spatial, prior=pi)
    exact = lowlevel.fuzzy_cmeans(
        x.double(), u.double(), iterations, spatial=spatial, prior=None if pi is None else pi.double()
    )
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=0)
    torch.testing.assert_close(u, before, atol=0, rtol=0)


def test_takes_what_training_gives() -> None:
    """Half precision under autocast, grids that are not contiguous, gradients switched on."""
    x, u = inputs(0, 2, 5, 4, 6, 8)
    seed = u.transpose(2, 3).contiguous().transpose(2, 3).bfloat16().requires_grad_()
    found = fcm_kernel.fuzzy_cmeans(x, seed, 3)
    assert (found.dtype, found.requires_grad) == (torch.float32, False)
    expected = lowlevel.fuzzy_cmeans(x, seed.detach().float(), 3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_leaves_other_fuzzifiers_to_the_tensor_form() -> None:
    x, u = inputs(1, 1, 3, 4, 5, 6)
    found = fcm_kernel.fuzzy_cmeans(x, u, 3, m=1.5)
    torch.testing.assert_close(found, lowlevel.fuzzy_cmeans(x, u, 3, m=1.5), atol=0, rtol=0)


def test_compiles_where_no_folder_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    real = numba.njit

    def njit(*, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(numba, "njit", njit)
    assert fcm_kernel.compiled(lambda a: a + 1)(2.5) == 3.5


def test_may_not_reorder_sums_nor_fuse_products() -> None:
    """Or the process that compiles and those that load the code give other checkpoints for the same seed."""
    loops = [f for f in vars(fcm_kernel).values() if hasattr(f, "targetoptions")]
    assert len(loops) >= 5
    for loop in loops:
        assert loop.targetoptions["fastmath"] == {"nnan", "ninf", "nsz"}
