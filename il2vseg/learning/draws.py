"""Randomness of a training: a pure function of the position, so that a run that is resumed is exact."""

import torch
from torch import Generator, Tensor


def step_generator(seed: int, stage: str, step: int, micro_batch: int = 0) -> Generator:
    """Randomness of a micro-batch as a pure function of its position, so that resuming is exact."""
    salt = sum(ord(c) << (5 * i) for i, c in enumerate(stage[:4]))
    # The generator looks at the low 32 bits only: the micro-batch must spread over those.
    position = (seed * 1_000_003 + salt) * 1_000_003 + step + micro_batch * 0x9E3779B1
    return torch.Generator().manual_seed(position % 2**63)  # the largest seeds leave 64 bits


def draw_batch(images: int, batch: int, generator: Generator) -> Tensor:
    """Draw distinct images (B,), B = min(batch, images)."""
    return torch.randperm(images, generator=generator)[:batch]


def derangement(n: int, generator: Generator) -> Tensor:
    """A permutation (n,) without fixed points (the identity for n = 1)."""
    order = torch.randperm(n, generator=generator)
    out = torch.empty_like(order)
    out[order] = order.roll(1)
    return out


def channel_dropout(z: Tensor, rate: float, generator: Generator) -> Tensor:
    """Zero whole channels of (B, N, k), one mask per image, and rescale the others by 1 / (1 − rate)."""
    keep = (torch.rand(z.shape[0], 1, z.shape[2], generator=generator) >= rate).float()
    return z * keep.to(z.device) / (1.0 - rate)
