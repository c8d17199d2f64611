"""A ResNet with a feature pyramid, as PiCIE has it (Cho et al. 2021): one map at a quarter of the input."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """The sum of a ResNet's four stages, each brought to D channels and, level by level, to the finest size.

    p₄ = c₄(x₄), pᵢ = cᵢ(xᵢ) + up(pᵢ₊₁) with 1x1 convolutions cᵢ and bilinear upsampling; the output is p₁.
    """

    def __init__(self, resnet: Any, dim: int) -> None:
        """Args:
        resnet: timm's, without a classifier. dim: channels D of the output.
        """
        super().__init__()
        self.resnet = resnet
        widths = [level["num_chs"] for level in resnet.feature_info[1:]]
        self.lateral = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in widths)

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to features (B, D, H/4, W/4)."""
        r = self.resnet
        x = r.maxpool(r.act1(r.bn1(r.conv1(x))))
        levels: list[Tensor] = []
        for stage, lateral in zip((r.layer1, r.layer2, r.layer3, r.layer4), self.lateral, strict=True):
            x = stage(x)
            levels.append(lateral(x))
        top = levels.pop()
        while levels:
            finer = levels.pop()
            size = (finer.shape[-2], finer.shape[-1])
            top = finer + F.interpolate(top, size=size, mode="bilinear", align_corners=False)
        return top
