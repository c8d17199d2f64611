"""Fuzzy c-means for the training loop: `lowlevel.fuzzy_cmeans`, compiled for the CPU by Numba.

Tensor operations send all C·N memberships through memory at every step. Here a step is one loop over a row of
them, which stays in the first cache. There is neither autograd nor tracing, so a model, which is what gets
exported, computes `lowlevel.fuzzy_cmeans`; training needs no gradient of it.

The arrays of one image: x, F features (N,), a tuple so that loops over them are compiled to straight lines; u
(C, N) weights, which memberships are up to `scale` (N,); v (C, F) centroids; `row`, `column` (N,) scratch.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from il2vseg.models import lowlevel

Array = NDArray[np.float32]
Features = tuple[Array, ...]
Loop = TypeVar("Loop", bound=Callable[..., Any])

EPS = np.float32(lowlevel.EPS)
ZERO, ONE, NINTH = np.float32(0), np.float32(1), np.float32(1 / 9)


def compiled(loop: Loop) -> Loop:
    """Compile for vectors of finite numbers; kept beside this file, else in the user's cache folder.

    Of the fast-math flags only those that change no digit: where sums may be reordered and products fused,
    code that was just compiled and code from the cache give other last digits.
    """
    flags = {"nnan", "ninf", "nsz"}
    options: dict[str, Any] = {"fastmath": flags, "error_model": "numpy", "nogil": True}
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
def _add(total: Array, other: Array) -> None:
    """Add to `total`."""
    for i in range(len(other)):
        total[i] += other[i]


@compiled
def _sum(values: Array) -> np.float32:
    """The sum of values, which are lost: the second half onto the first, until one is left.

    Vectors add up that way, in one order whoever compiles it.
    """
    length = len(values)
    while length > 1:
        half = (length + 1) // 2
        _add(values[:half], values[half:length])
        length = half
    total: np.float32 = values[0]
    return total


@compiled
def _centroids(x: Features, u: Array, scale: Array, row: Array, column: Array, v: Array) -> None:
    """Eq. 7 into `v`."""
    for c in range(len(u)):
        weights = u[c]
        for i in range(len(row)):
            weight = weights[i] * scale[i]
            row[i] = weight * weight
            column[i] = row[i]
        mass = max(_sum(column), EPS)
        for f in range(len(x)):
            feature = x[f]
            for i in range(len(row)):
                column[i] = row[i] * feature[i]
            v[c, f] = _sum(column) / mass


@compiled
def _weights(x: Features, v: Array, prior: Array | None, u: Array, scale: Array) -> None:
    """π/d² (eq. 4) into `u` and what normalises them into `scale`."""
    scale[:] = ZERO
    for c in range(len(u)):
        weights, centre = u[c], v[c]
        for i in range(len(scale)):
            distance = ZERO
            for f in range(len(x)):
                distance += (x[f][i] - centre[f]) ** 2
            weight = ONE / max(distance, EPS)
            if prior is not None:
                weight *= prior[c, i]
            weights[i] = weight
            scale[i] += weight
    for i in range(len(scale)):
        scale[i] = ONE / max(scale[i], EPS)


@compiled
def _add_three(above: Array, here: Array, below: Array, total: Array) -> None:
    """Their sum into `total`."""
    for i in range(len(total)):
        total[i] = above[i] + here[i] + below[i]


@compiled
def _spatial_weights(u: Array, scale: Array, width: int, row: Array, column: Array) -> None:
    """U·S (eq. 5-6) into `u` and what normalises them into `scale`."""
    pixels = len(row)
    for c in range(len(u)):
        weights = u[c]
        for i in range(pixels):
            row[i] = weights[i] * scale[i]
        # Slices, not offsets: an index that could be negative is not compiled to vectors. Borders replicated.
        first, second = row[:width], row[min(width, pixels - width) :][:width]
        _add_three(first, first, second, column[:width])
        final, before = row[pixels - width :], row[max(pixels - 2 * width, 0) :][:width]
        _add_three(before, final, final, column[pixels - width :])
        if pixels > 2 * width:
            _add_three(row[: -2 * width], row[width:-width], row[2 * width :], column[width:-width])
        _add_three(column[:-2], column[1:-1], column[2:], weights[1:-1])
        for left in range(0, pixels, width):
            right = left + width - 1
            weights[left] = column[left] + column[left] + column[min(left + 1, right)]
            weights[right] = column[right] + column[right] + column[max(right - 1, left)]
        for i in range(pixels):
            weights[i] *= row[i] * NINTH
    _normalise(u, scale)


@compiled
def _iterate(x: Features, u: Array, prior: Array | None, iterations: int, width: int) -> None:
    """Replace seeds (C, N) by memberships; `width` of the grid, 0: without eq. 5-6."""
    classes, pixels = u.shape
    scale, row = np.empty(pixels, np.float32), np.empty(pixels, np.float32)
    column = np.empty(pixels, np.float32)
    v = np.empty((classes, len(x)), np.float32)
    _normalise(u, scale)
    for _ in range(iterations):
        _centroids(x, u, scale, row, column, v)
        _weights(x, v, prior, u, scale)
        if width:
            _spatial_weights(u, scale, width, row, column)
    for c in range(classes):
        weights = u[c]
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
    memberships = torch.empty(seed.shape)
    u = _array(memberships)
    u[...] = _array(seed)  # by NumPy: waking PyTorch's threads for it takes as long as the loops do
    features, priors = _array(x), None if prior is None else _array(prior.expand_as(seed))
    width = seed.shape[3] if spatial else 0
    for b in range(len(u)):
        _iterate(tuple(features[b]), u[b], None if priors is None else priors[b], iterations, width)
    return memberships


def _array(x: Tensor) -> Array:
    """(B, ..., h, w) -> (B, ..., N) for the loops."""
    array: Array = x.detach().flatten(2).float().contiguous().numpy()
    return array
