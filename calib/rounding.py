"""INT8 weights that change a layer's output least: GPTQ (Frantar et al. 2023, arXiv 2210.17323).

Nearest rounding is best for the weights, not for x @ W. A ViT's tokens share few directions, their mean
above all; along these the errors of nearest rounding add up, and whole regions change their class. Here the
rows of W are rounded one after the other, and the rows still to come make good what an error did to the
output, as far as real inputs allow.
"""

import numpy as np
from numpy.typing import NDArray

DAMPING = 0.01
"""Added to the Gram matrix's diagonal, in its mean: directions that no input has shown count a little."""

BLOCK = 64
"""Rows after which the rows still to come are corrected, by one matrix product."""

RoundedWeight = tuple[NDArray[np.int8], NDArray[np.float32]]
"""Integers (in, out) in [-127, 127] and the step of each output channel (out,)."""


def round_weight(weight: NDArray[np.float32], gram: NDArray[np.float32] | None = None) -> RoundedWeight:
    """Round a matrix to int8, symmetric by output channel.

    Args:
        weight: (in, out).
        gram: Σ xᵀx over the layer's inputs, (in, in); None is nearest rounding.
    """
    scale = np.abs(weight).max(0) / 127
    scale[scale == 0] = 1.0
    if gram is None or not np.trace(gram) > 0:
        return _nearest(weight, scale), scale.astype(np.float32)
    w, size = weight.astype(np.float64), len(weight)
    damped = gram + DAMPING * np.trace(gram) / size * np.eye(size)
    factor = np.linalg.cholesky(
        np.linalg.inv(damped)
    ).T  # upper: row j weighs what error j does to later rows
    integers = np.empty(w.shape, np.int8)
    for start in range(0, size, BLOCK):
        rows = range(start, min(start + BLOCK, size))
        errors = np.empty((len(rows), w.shape[1]))
        for j in rows:
            integers[j] = _nearest(w[j], scale)
            errors[j - start] = (w[j] - integers[j] * scale) / factor[j, j]
            w[j + 1 : rows.stop] -= np.outer(factor[j, j + 1 : rows.stop], errors[j - start])
        w[rows.stop :] -= factor[start : rows.stop, rows.stop :].T @ errors
    return integers, scale.astype(np.float32)


def _nearest(w: NDArray[np.floating], scale: NDArray[np.floating]) -> NDArray[np.int8]:
    return np.rint(w / scale).clip(-127, 127).astype(np.int8)
