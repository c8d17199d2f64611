"""Mutual information of class posteriors: the loss of IIC (Ji et al. 2019, sections 3.1 and 3.3).

Φ_u(x) is the class distribution of position u. For every displacement t of at most d rows and columns

    P_t = 1/(n |Ω|) Σ_i Σ_u Φ_u(x_i) Φ_{u+t}(x'_i)ᵀ,   made symmetric: (P_t + P_tᵀ) / 2

and the mean over t of I(P_t) = Σ_{c,c'} P_cc' (ln P_cc' − ln P_c − ln P_c') is maximised: posteriors are
alike between the views x and x' and between neighbours, and all classes are used.

Departures: x' is the colour-jittered copy. The geometric transformation g, which IIC undoes before it
compares, is left out: a head that sees each token of a frozen backbone by itself commutes with it.
"""

from itertools import product

import torch
from torch import Tensor


def joint_distributions(p: Tensor, p_view: Tensor, grid: tuple[int, int], radius: int) -> Tensor:
    """P_t of every displacement.

    Args:
        p, p_view: class distributions (B, N, C) of all positions of the grid (h, w), N = h·w.
        radius: d, in tokens; pairs that leave the grid do not count.
    Returns:
        (displacements, C, C), each symmetric, with sum 1.
    """
    a, b = p.unflatten(1, grid), p_view.unflatten(1, grid)
    h, w = grid
    rows, columns = (range(-min(radius, side - 1), min(radius, side - 1) + 1) for side in grid)
    found = []
    for dy, dx in product(rows, columns):
        here = a[:, max(0, -dy) : h - max(0, dy), max(0, -dx) : w - max(0, dx)].flatten(0, 2)
        there = b[:, max(0, dy) : h - max(0, -dy), max(0, dx) : w - max(0, -dx)].flatten(0, 2)
        found.append(here.T @ there / len(here))
    joint = torch.stack(found)
    return 0.5 * (joint + joint.mT)


def information_loss(p: Tensor, p_view: Tensor, grid: tuple[int, int], radius: int) -> Tensor:
    """−mean_t I(P_t): scalar, between −ln C and 0; arguments as `joint_distributions`."""
    joint = joint_distributions(p, p_view, grid, radius).clamp_min(1e-12)
    marginal = joint.sum(2)
    information = joint * (joint.log() - marginal.log()[:, :, None] - marginal.log()[:, None])
    return -information.sum((1, 2)).mean()
