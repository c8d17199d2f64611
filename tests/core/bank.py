"""A token bank of made-up scenes whose classes are known: three blobs of tokens in bands."""

import torch
from torch import Tensor


class BandBank:
    """n images of 6x8 tokens with D = 12: class j occupies rows 2j and 2j+1, its mean is axis j."""

    grid = (6, 8)

    def __init__(self, images: int = 12, noise: float = 0.3, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.truth = (torch.arange(48) // 16).expand(images, -1)
        means = 3.0 * torch.eye(3, 12)
        self._tokens = means[self.truth] + noise * torch.randn(images, 48, 12, generator=generator)
        self._views = self._tokens + 0.1 * torch.randn(images, 48, 12, generator=generator)
        colours = torch.tensor([[0.2, 0.3, 0.9], [0.2, 0.7, 0.2], [0.9, 0.2, 0.2]])[self.truth]
        self._colours = colours.transpose(1, 2).reshape(images, 3, 6, 8)

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, images: Tensor) -> Tensor:
        return self._tokens[images]

    def view_tokens(self, images: Tensor) -> Tensor:
        return self._views[images]

    def colours(self, images: Tensor, scale: int) -> Tensor:
        return self._colours[images].repeat_interleave(scale, 2).repeat_interleave(scale, 3)
