"""The low-level branch: spatially constrained fuzzy c-means with colour affinity (paper eq. 1, 3-12).

Everything here is a pure function on float32 tensors with static shapes, so that the same code trains,
predicts and is traced into the exported graph. N = h·w grid positions, C clusters, F feature channels.

`fuzzy_cmeans` minimises the objective the paper states (eq. 3), whose membership update is 1/d² (eq. 4
prints 1/d). `affinity` is row-normalised: A·P is then attention with q = k = x/σ, and F_l stays a
distribution over classes whatever N is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from il2vseg.models.spec import ColourSpace

EPS = 1e-6
"""Floor of squared distances and masses: a pixel on a centroid, a class absent from the image."""

AFFINITY_TILE = 1024
"""Rows of the affinity matrix held at once; N up to this is one tile."""


def pool_colours(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average an image over the cells of a grid that divides it (eq. 1; the mean of a cell is the
    anti-aliased form of bilinear sampling).

    Args:
        images: (B, 3, H, W) RGB in [0, 1]; H and W are multiples of the grid's.
    Returns:
        (B, 3, h, w) RGB in [0, 1].
    """
    (b, planes, height, width), (rows, columns) = images.shape, grid
    # Rows by a sum, columns by a product: OpenVINO pools three planes as if they were sixteen.
    strips = images.reshape(b, planes, rows, height // rows, width).mean(3)
    cell = width // columns
    across = torch.eye(columns, device=images.device).repeat_interleave(cell, 0) / cell
    return strips @ across


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear upsampling: (B, P, h, w) to (B, P, H, W), whole multiples of h and w."""
    h, w = x.shape[-2:]
    if (h, w) == size:
        return x
    # By factors: given a size, a graph with a free batch axis computes it, which TensorRT 8.6 does not take.
    factors = (float(size[0] // h), float(size[1] // w))
    return F.interpolate(x, scale_factor=factors, mode="bilinear", align_corners=False)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB (B, 3, h, w) in [0, 1] to CIE Lab under D65, divided by 100: L in [0, 1], a and b in
    about [-1.3, 1]. IEC 61966-2-1 and CIE 15."""
    linear = torch.where(rgb > 0.04045, ((rgb.clamp_min(0.0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = rgb.new_tensor(
        # rows X/Xn, Y/Yn, Z/Zn
        [[0.433953, 0.376219, 0.189828], [0.212671, 0.715160, 0.072169], [0.017758, 0.109477, 0.872766]]
    )
    xyz = F.conv2d(linear, to_xyz[:, :, None, None])
    f = torch.where(xyz > 0.008856, xyz.clamp_min(EPS) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1) / 100


def low_level_features(colours: Tensor, space: ColourSpace = "rgb", xy_weight: float = 0.0) -> Tensor:
    """Describe every grid cell by its mean colour and, weighted, its position.

    Args:
        colours: (B, 3, h, w) RGB in [0, 1], from `pool_colours`.
        space: "rgb" in [0, 1] as in the paper, or "lab" (L/100, a/100, b/100).
        xy_weight: scale of (x, y) in [-0.5, 0.5]; 0 leaves position out, as the paper does.
    Returns:
        (B, F, h, w), F = 3 or 5.
    """
    x = rgb_to_lab(colours) if space == "lab" else colours
    if xy_weight == 0.0:
        return x
    h, w = x.shape[-2:]
    ys = torch.linspace(-0.5, 0.5, h, device=x.device) * xy_weight
    xs = torch.linspace(-0.5, 0.5, w, device=x.device) * xy_weight
    position = torch.stack([xs.expand(h, w), ys[:, None].expand(h, w)])
    return torch.cat([x, position.expand(x.shape[0], 2, h, w)], 1)


def homogeneous(x: Tensor) -> Tensor:
    """Append to every pixel's features what makes distances and centroids one matrix product each.

    Args:
        x: (B, F, h, w), with its mean near 0: a distance loses digits as ‖x‖² grows beside it.
    Returns:
        z = [x, ‖x‖², 1], (B, F + 2, N).
    """
    x = x.flatten(2)
    return torch.cat([x, x.square().sum(1, keepdim=True), torch.ones_like(x[:, :1])], 1)


def squared_distances(z: Tensor, centroids: Tensor) -> Tensor:
    """d²_ji = ‖v_j‖² − 2 v_j·x_i + ‖x_i‖², at least EPS.

    Args:
        z: (B, F + 2, N), `homogeneous` of x. centroids: v, (B, F, C).
    Returns:
        (B, C, N).
    """
    norms = centroids.square().sum(1, keepdim=True)
    return (torch.cat([-2.0 * centroids, torch.ones_like(norms), norms], 1).mT @ z).clamp_min(EPS)


def class_sums(u: Tensor) -> Tensor:
    """Σ_j u_ji of (B, C, N), at least EPS: (B, 1, N)."""
    # A product with ones: ONNX Runtime adds up along an inner axis four times as slowly as it multiplies.
    return (u.new_ones(1, u.shape[1]) @ u).clamp_min(EPS)


def normalised(u: Tensor) -> Tensor:
    """Divide weights (B, C, N) by their sum over the classes."""
    return u / class_sums(u)


def fcm_weights(z: Tensor, centroids: Tensor, m: float = 2.0, prior: Tensor | None = None) -> Tensor:
    """π_ji (1/d²_ji)^{1/(m−1)}: the memberships that minimise eq. 3 for fixed centroids, once `normalised`.

    Args:
        z, centroids: as in `squared_distances`. m: fuzzifier, > 1.
        prior: π, (B, C, N) or (B, C, 1), non-negative; None is the paper's flat prior.
    Returns:
        (B, C, N), > 0 where π is.
    """
    d2 = squared_distances(z, centroids)
    u = d2.reciprocal() if m == 2.0 else d2 ** (-1.0 / (m - 1.0))
    return u if prior is None else u * prior


def spatial_weights(u: Tensor) -> Tensor:
    """Weight memberships (B, C, h, w) by the mean of their 3x3 neighbourhood (eq. 5), borders replicated."""
    return u * F.avg_pool2d(F.pad(u, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def fcm_centroids(z: Tensor, u: Tensor, m: float = 2.0) -> Tensor:
    """v_j = Σ_i U_ji^m x_i / Σ_i U_ji^m (eq. 7). A class without mass gets a finite centroid near 0.

    Args:
        z: (B, F + 2, N), `homogeneous` of x. u: (B, C, N), memberships up to a factor of each pixel.
    Returns:
        (B, F, C).
    """
    total = class_sums(u)
    # U is normalised where that divides the F + 2 numbers of a pixel instead of its C memberships.
    z, weights = (z / (total * total), u * u) if m == 2.0 else (z / total**m, u**m)
    sums = z @ weights.mT
    return sums[:, :-2] / sums[:, -1:].clamp_min(EPS)


def fcm_objective(z: Tensor, u: Tensor, centroids: Tensor, m: float) -> Tensor:
    """J = Σ_ij U_ji^m ‖x_i − v_j‖² (eq. 3), one value per image: (B,)."""
    return (u**m * squared_distances(z, centroids)).sum((1, 2))


def fuzzy_cmeans(
    x: Tensor,
    seed: Tensor,
    iterations: int,
    m: float = 2.0,
    spatial: bool = True,
    prior: Tensor | None = None,
) -> Tensor:
    """Spatially constrained fuzzy c-means, unrolled for a fixed number of iterations (eq. 3-8).

    Seeding by the high-level branch makes cluster j of the image class j of the model: without it,
    eq. 13 would add channels that mean different things.

    Args:
        x: features (B, F, h, w). seed: U⁰ (B, C, h, w), summing to 1 over C.
        spatial: False leaves eq. 5-6 out: plain fuzzy c-means, which never increases `fcm_objective`.
        prior: π, (B, C, h, w) or (B, C, 1, 1), non-negative; None is the paper's flat prior.
    Returns:
        P: memberships (B, C, h, w), summing to 1 over C.
    """
    z = homogeneous(x - x.mean((2, 3), keepdim=True))  # centring changes no distance, and the rounding of all
    u = seed.flatten(2)
    prior = None if prior is None else prior.flatten(2)
    for _ in range(iterations):
        u = fcm_weights(z, fcm_centroids(z, u, m), m, prior)
        if spatial:
            u = spatial_weights(normalised(u).reshape_as(seed)).flatten(2)
    return normalised(u).reshape_as(seed)


def _affinity_operands(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Queries and keys (B, N, F+1) whose dot product is −‖x_i−x_k‖²/2σ² up to a constant of the row."""
    z = x.flatten(2).transpose(1, 2) / sigma
    z = z - z.mean(1, keepdim=True)  # distances do not change, the cancellation below shrinks
    half_norm = -0.5 * z.square().sum(2, keepdim=True)
    return torch.cat([z, torch.ones_like(half_norm)], 2), torch.cat([z, half_norm], 2)


def affinity_attention(x: Tensor, p: Tensor, sigma: float) -> Tensor:
    """F_l = A·P with A_ik ∝ exp(−‖x_i−x_k‖²/2σ²), rows summing to 1 (eq. 9-12), as fused attention.

    Args:
        x: features (B, F, h, w). p: (B, C, h, w). sigma: bandwidth in units of x.
    Returns:
        (B, C, h, w); sums over C as p does.
    """
    q, k = _affinity_operands(x, sigma)
    values = p.flatten(2).transpose(1, 2)
    out = F.scaled_dot_product_attention(q, k, values, scale=1.0)
    return out.transpose(1, 2).reshape_as(p)


def affinity_tiled(x: Tensor, p: Tensor, sigma: float, tile: int = AFFINITY_TILE) -> Tensor:
    """As `affinity_attention`, in static tiles of rows: peak memory is tile·N instead of N²."""
    q, k = _affinity_operands(x, sigma)
    keys, values = k.transpose(1, 2), p.flatten(2).transpose(1, 2)
    rows = [torch.softmax(part @ keys, -1) @ values for part in q.split(tile, 1)]
    return torch.cat(rows, 1).transpose(1, 2).reshape_as(p)


def affinity_rows(x: Tensor, p: Tensor, sigma: float, index: Tensor) -> Tensor:
    """Only the rows `index` of A·P: what a loss on sampled positions needs.

    Args:
        index: (S,) or (B, S) flat grid positions.
    Returns:
        (B, C, S).
    """
    q, k = _affinity_operands(x, sigma)
    q = torch.take_along_dim(q, index.expand(x.shape[0], -1).unsqueeze(2), 1)
    return F.scaled_dot_product_attention(q, k, p.flatten(2).transpose(1, 2), scale=1.0).transpose(1, 2)


def fuse(p_seg: Tensor, f_l: Tensor, alpha: float) -> Tensor:
    """F_f = (1 − α)·P_seg + α·F_l (eq. 13), α in [0, 1]."""
    return (1.0 - alpha) * p_seg + alpha * f_l
