"""Even exposure: every part of an image is brought to the same brightness before the backbone sees it.

A backbone trained on well-lit photographs reads little from a dark street below a bright sky. Every pixel
gets a gamma that takes the mean luminance of its surroundings to a fixed grey; deep shadow is lifted, glare
is lowered, and edges stay, since the surroundings are much larger than a token. It may be kept to images that
are dark as a whole: by day, shade and glare say something of what a thing is. It is a part of the network,
so that training, evaluation and the exported graph see the same image.
"""

import math

import torch
from torch import Tensor, nn

GREY = 0.4
"""Luminance that surroundings are brought to."""

SURROUNDINGS = 1 / 12
"""Standard deviation of the window of the surroundings, in widths of the image."""

MIN_GAMMA, MAX_GAMMA = 0.35, 1.3
DARKEST, BRIGHTEST = 0.02, 0.9
"""Luminance of surroundings beyond which the gamma does not change any more."""

NOT_DARK, DARK = 0.33, 0.27
"""Mean luminance from which an image is not dark at all, and up to which it is dark in full."""

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (BT.601)."""


def window(pixels: int, cells: int, deviation: float) -> Tensor:
    """Weights (pixels, cells) of a Gaussian window around each pixel over cells of equal size; rows sum to 1.

    Args:
        deviation: in pixels.
    """
    pixel = torch.arange(pixels, dtype=torch.float64)[:, None] + 0.5
    cell = (torch.arange(cells, dtype=torch.float64) + 0.5) * pixels / cells
    return (-0.5 * ((pixel - cell) / deviation).square()).softmax(1).float()


class EvenExposure(nn.Module):
    """Images in, images of even exposure out, for one size. No parameters, and static shapes."""

    rows: Tensor
    columns: Tensor

    def __init__(self, size: tuple[int, int], cell: int, dark_only: bool = False) -> None:
        """Args:
        size: (H, W) of the images. cell: side of the cells that luminance is averaged in; divides both.
        dark_only: leave images alone that are not dark as a whole.
        """
        super().__init__()
        (height, width), deviation = size, size[1] * SURROUNDINGS
        self.cell = cell
        self.dark_only = dark_only
        self.register_buffer("rows", window(height, height // cell, deviation), persistent=False)
        self.register_buffer("columns", window(width, width // cell, deviation), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Even the exposure out.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
        Returns:
            the same shape, RGB in [0, 1].
        """
        red, green, blue = LUMINANCE
        luminance = red * images[:, :1] + green * images[:, 1:2] + blue * images[:, 2:]
        cells = nn.functional.avg_pool2d(luminance, self.cell)
        # The constant comes first in both products: a second factor that is constant is a layer to quantise.
        surroundings = (self.columns @ (self.rows @ cells).mT).mT
        gamma = math.log(GREY) / surroundings.clamp(DARKEST, BRIGHTEST).log()
        gamma = gamma.clamp(MIN_GAMMA, MAX_GAMMA)
        if self.dark_only:
            dark = (NOT_DARK - cells.mean((2, 3), keepdim=True)) / (NOT_DARK - DARK)
            gamma = 1.0 + dark.clamp(0.0, 1.0) * (gamma - 1.0)
        return (gamma * images.clamp(1e-4, 1.0).log()).exp()
