"""Fuzzy c-means for the training loop: `lowlevel.fuzzy_cmeans`, compiled for the CPU by Numba.

Tensor operations send all C·N memberships through memory at every step. Here a step is one loop over a row of
them, which stays in the first cache. There is neither autograd nor tracing, so a model, which is what gets
exported, computes `lowlevel.fuzzy_cmeans`; training needs no gradient of it.

The arrays of one image: x (F, N) features, F ≥ 2; u (C, N) weights, which memberships are up to `scale` (N,);
v (C, F) centroids; `row` (N,) scratch.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from il2vseg import lowlevel

Array = NDArray[np.float32]
Loop = TypeVar("Loop", bound=Callable[..., Any])

EPS = np.float32(lowlevel.EPS)
ZERO, ONE, NINTH = np.float32(0), np.float32(1), np.float32(1 / 9)


def compiled(loop: Loop) -> Loop:
    """Compile for vectors of finite numbers; kept beside this file, else in the user's cache folder."""
    options: dict[str, Any] = {"fastmath": True, "error_model": "numpy", "nogil": True}
    try:
        result: Loop = numba.njit(cache=True, **options)(loop)
    except RuntimeError:  # neither folder can be written (a read-only container): once in every process
        result = numba.njit(**options)(loop)
    return result


@compiled
def _normalise(u: Array, scale: Array) -> None:
    """What makes the weights of a pixel sum to 1, into `scale`."""
    scale[:] = ZERO
    for c in range(len(u)):
        weights = u[c]
        for i in range(len(scale)):
            scale[i] += weights[i]
    for i in range(len(scale)):
        scale[i] = ONE / max(scale[i], EPS)


@compiled
def _centroids(x: Array, u: Array, scale: Array, row: Array, v: Array) -> None:
    """Eq. 7 into `v`."""
    for c in range(len(u)):
        weights, first = u[c], x[0]
        mass, total = ZERO, ZERO
        for i in range(len(row)):
            weight = weights[i] * scale[i]
            row[i] = weight * weight
            mass += row[i]
            total += row[i] * first[i]
        mass = max(mass, EPS)
        v[c, 0] = total / mass
        for f in range(1, len(x), 2):  # in pairs: adding up waits for the last sum, two sums wait together
            g = min(f + 1, len(x) - 1)
            one, total, other, sum_of_other = x[f], ZERO, x[g], ZERO
            for i in range(len(row)):
                total += row[i] * one[i]
                sum_of_other += row[i] * other[i]
            v[c, f], v[c, g] = total / mass, sum_of_other / mass


@compiled
def _weights(x: Array, v: Array, prior: Array | None, u: Array, scale: Array) -> None:
    """π/d² (eq. 4) into `u` and what normalises them into `scale`."""
    scale[:] = ZERO
    for c in range(len(u)):
        weights = u[c]
        feature, centre = x[0], v[c, 0]
        for i in range(len(scale)):
            weights[i] = (feature[i] - centre) ** 2
        for f in range(1, len(x) - 1):
            feature, centre = x[f], v[c, f]
            for i in range(len(scale)):
                weights[i] += (feature[i] - centre) ** 2
        feature, centre = x[-1], v[c, -1]
        for i in range(len(scale)):
            weights[i] = ONE / max(weights[i] + (feature[i] - centre) ** 2, EPS)
            if prior is not None:
                weights[i] *= prior[c, i]
            scale[i] += weights[i]
    for i in range(len(scale)):
        scale[i] = ONE / max(scale[i], EPS)


@compiled
def _spatial_weights(u: Array, scale: Array, width: int, row: Array) -> None:
    """U·S (eq. 5-6) into `u` and what normalises them into `scale`."""
    height = len(row) // width
    column = np.empty(width + 2, np.float32)
    for c in range(len(u)):
        weights = u[c]
        for i in range(len(row)):
            row[i] = weights[i] * scale[i]
        for y in range(height):
            above, here, below = max(y - 1, 0) * width, y * width, min(y + 1, height - 1) * width
            for i in range(width):
                column[i + 1] = row[above + i] + row[here + i] + row[below + i]
            column[0], column[width + 1] = column[1], column[width]
            for i in range(width):
                weights[here + i] = row[here + i] * (column[i] + column[i + 1] + column[i + 2]) * NINTH
    _normalise(u, scale)


@compiled
def _iterate(x: Array, u: Array, prior: Array | None, iterations: int, width: int) -> None:
    """Replace seeds (B, C, N) by memberships; `width` of the grid, 0: without eq. 5-6."""
    features, pixels = x.shape[1:]
    scale, row = np.empty(pixels, np.float32), np.empty(pixels, np.float32)
    v = np.empty((u.shape[1], features), np.float32)
    for b in range(len(u)):
        _normalise(u[b], scale)
        for _ in range(iterations):
            _centroids(x[b], u[b], scale, row, v)
            _weights(x[b], v, None if prior is None else prior[b], u[b], scale)
            if width:
                _spatial_weights(u[b], scale, width, row)
        for c in range(u.shape[1]):
            weights = u[b, c]
            for i in range(pixels):
                weights[i] *= scale[i]


def fuzzy_cmeans(
    x: Tensor,
    seed: Tensor,
    iterations: int,
    m: float = 2.0,
    spatial: bool = True,
    prior: Tensor | None = None,
) -> Tensor:
    """As `lowlevel.fuzzy_cmeans`, to rounding, but without gradients.

    Compiled for CPU tensors and m = 2; others are computed by `lowlevel.fuzzy_cmeans` itself.
    """
    if m != 2.0 or seed.device.type != "cpu":
        return lowlevel.fuzzy_cmeans(x, seed, iterations, m, spatial, prior)
    u = _array(seed).copy()  # by NumPy: waking PyTorch's threads for it takes as long as the loops do
    _iterate(
        _array(x),
        u,
        None if prior is None else _array(prior.expand_as(seed)),
        iterations,
        seed.shape[3] if spatial else 0,
    )
    return torch.from_numpy(u).reshape_as(seed)


def _array(x: Tensor) -> Array:
    """(B, ..., h, w) -> (B, ..., N) for the loops."""
    array: Array = x.detach().flatten(2).float().contiguous().numpy()
    return array
