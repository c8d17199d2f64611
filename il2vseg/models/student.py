"""The student: a small convolutional network that learns what a frozen ViT and its head compute.

An encoder of timm without trained weights, a feature pyramid of 1x1 and depthwise convolutions, scores at a
quarter or half of the input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from il2vseg.base.errors import UserError
from il2vseg.models.backbones import check_size
from il2vseg.models.network import Network
from il2vseg.models.novelty import Novelty
from il2vseg.models.rules import rules
from il2vseg.models.spec import ModelSpec

METHOD = "distilled"
"""`ModelSpec.method` of a student."""

STRIDE = 4
"""Pixels along a side of a cell of the scores."""


@dataclass(frozen=True)
class StudentSpec:
    """A row of the table.

    Attributes:
        timm_name: an encoder with features at strides 4, 8, 16 and 32.
        width: channels of the decoder. fine: channels of one more level at half of the input; 0 for none.
    """

    timm_name: str
    width: int
    fine: int = 0

    @property
    def stride(self) -> int:
        """Pixels along a side of a cell of the scores."""
        return STRIDE // 2 if self.fine else STRIDE


STUDENTS: dict[str, StudentSpec] = {
    "mobilenetv4_small_050": StudentSpec("mobilenetv4_conv_small_050", width=48),
    "mobilenetv4_small": StudentSpec("mobilenetv4_conv_small", width=64),
    "mobilenetv4_small_050_fine": StudentSpec("mobilenetv4_conv_small_050", width=64, fine=24),
    "mobilenetv4_small_fine": StudentSpec("mobilenetv4_conv_small", width=128, fine=32),
}


def student_spec(name: str) -> StudentSpec:
    """Look a student up.

    Raises:
        UserError: there is no such row.
    """
    if name not in STUDENTS:
        raise UserError(f"unknown student '{name}'; known: {', '.join(STUDENTS)}")
    return STUDENTS[name]


class Encoder(nn.Module):
    """A timm encoder, randomly initialised.

    Attributes:
        patch: the coarsest stride; input sizes are multiples of it.
        channels: of the features at strides 4, 8, 16 and 32.
    """

    patch = 32

    def __init__(self, name: str) -> None:
        super().__init__()
        import timm

        spec = student_spec(name)
        net: Any = timm.create_model(
            spec.timm_name, features_only=True, pretrained=False, out_indices=(1, 2, 3, 4)
        )
        self.net = net
        self.channels: list[int] = net.feature_info.channels()

    def forward(self, images: Tensor) -> list[Tensor]:
        """RGB (B, 3, H, W) in [0, 1] -> features at strides 4, 8, 16 and 32."""
        features: list[Tensor] = self.net((images - 0.5) * 4.0)
        return features


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - stride + 1) // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def _separable(width: int) -> nn.Sequential:
    """Depthwise 3x3 and pointwise convolution, each normalised."""
    depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
    return nn.Sequential(depthwise, nn.BatchNorm2d(width), nn.ReLU(), *_conv(width, width))


class Student(Network):
    """Frames to class scores in one small network, without a low-level branch.

    Attributes:
        novelty: how like its training an image is, where that was fitted.
    """

    patch = Encoder.patch

    def __init__(self, spec: ModelSpec, size: tuple[int, int] | None = None) -> None:
        """Build it with random weights, drawn from torch's global generator.

        Args:
            size: input (H, W), multiples of the encoder's stride; default that of `spec`.
        Raises:
            UserError: unknown encoder or a size of broken strides.
        """
        row, (height, wide) = student_spec(spec.backbone), size or spec.size
        check_size((height, wide), Encoder.patch)
        super().__init__(spec, (height, wide), (height // row.stride, wide // row.stride))
        self.width, self.stride = row.width, row.stride
        width = row.width
        encoder = Encoder(spec.backbone)
        self.encoder = encoder
        self.laterals = nn.ModuleList(_conv(c, width) for c in encoder.channels)
        self.context = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU())
        self.smooth = nn.ModuleList(_separable(width) for _ in encoder.channels)
        # Every pixel of the raw frame, so that edges need not survive the encoder's strides.
        self.edges = _conv(3, width, kernel=STRIDE, stride=STRIDE)
        if row.fine:
            self.narrow = _conv(width, row.fine)
            self.detail = _conv(3, row.fine, kernel=2, stride=2)
            self.sharpen = _separable(row.fine)
        self.classify = nn.Conv2d(row.fine or width, len(self.class_names), 1)
        self.rules = rules(self.class_names, self.size, self.stride)
        self.novelty: Novelty | None = None

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Decoder features at the stride s of the scores and at 16: (B, D, H/s, W/s), (B, D', H/16, W/16)."""
        return self.decode(self.encoder(images), images - 0.5)

    def decode(self, encoded: Sequence[Tensor], pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As `features`, of the encoder's and of what `edges` and `detail` read: RGB in [-0.5, 0.5]."""
        *finer, coarsest = encoded
        x = self.laterals[3](coarsest)
        x = self.smooth[3](x + self.context(x.mean((2, 3), keepdim=True)))
        pyramid = [x]
        for level in (2, 1, 0):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = x + self.laterals[level](finer[level])
            if level == 0:
                x = x + self.edges(pixels)
            x = self.smooth[level](x)
            pyramid.append(x)
        if self.stride == STRIDE:
            return x, pyramid[1]
        x = F.interpolate(self.narrow(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.sharpen(x + self.detail(pixels)), pyramid[1]

    def logits(self, images: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [0, 1] -> logits (B, C, H/s, W/s)."""
        out: Tensor = self.classify(self.features(images)[0])
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Class scores.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
        Returns:
            (B, C, H/s, W/s) float32, a distribution over C at every cell.
        """
        scores: Tensor = self.rules(self.logits(images).softmax(1))
        return scores

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Class scores as of `forward`, and the confidence (B, 1, H/16, W/16) in [0, 1] of every cell.

        The confidence is None where the novelty was not fitted.
        """
        fine, coarse = self.features(images)
        scores = self.rules(self.classify(fine).softmax(1))
        return scores, None if self.novelty is None else self.novelty(coarse)[:, None]


def _fold_norms(module: nn.Module) -> None:
    """Fold every batch normalisation into the convolution before it, in place; `module` is in eval mode."""
    for (conv_name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
            # timm's normalisation holds the activation after it.
            setattr(module, norm_name, getattr(norm, "act", nn.Identity()))
    for child in module.children():
        _fold_norms(child)


@torch.no_grad()
def finish(student: Student) -> Student:
    """Bring a trained student, in place, into the form that is stored: normalisations folded, weights rounded
    to half precision. It still computes in float32; its files are half as large, and lose nothing more."""
    _fold_norms(student.eval())
    for parameter in student.parameters():
        parameter.copy_(parameter.half())
    return student


def load_student(tensors: dict[str, Tensor], spec: ModelSpec, size: tuple[int, int] | None = None) -> Student:
    """Rebuild a finished student from its checkpoint's tensors, for any input size of whole strides."""
    with torch.random.fork_rng(devices=[]):
        student = finish(Student(spec, size))
    if "novelty.whiten" in tensors:
        student.novelty = Novelty(student.width, len(tensors["novelty.scenes"]))
    student.load_state_dict(tensors)
    return student
