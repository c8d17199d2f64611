"""What every trained network answers to, and how frames go in and labels come out."""

from abc import ABC, abstractmethod
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

from il2vseg.models import lowlevel
from il2vseg.models.guided import guided_quads, stitch
from il2vseg.models.spec import AdaptSpec, LowLevelSpec, ModelSpec


class Predictor(Protocol):
    """A model that can be scored, named and learned from: a network, or an export of one.

    Attributes:
        size: (H, W) of its frames. grid: (gh, gw) of its scores. class_names: one for each of C clusters.
        alpha: weight of the low-level branch in its scores (eq. 13).
    """

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def grid(self) -> tuple[int, int]: ...

    @property
    def class_names(self) -> list[str]: ...

    @property
    def alpha(self) -> float: ...

    def predict(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Segment frames: uint8 BGR (B, H, W, 3) -> labels (B, H, W) uint8, scores (B, C, gh, gw) float32.

        The scores are a distribution over C at every cell.
        """
        ...

    def label(self, scores: Tensor, frames: Tensor) -> Tensor:
        """The best cluster of every pixel (B, H, W) uint8, by scores (B, C, gh, gw) and frames as above."""
        ...


class Network(nn.Module, ABC):
    """A `Predictor` in PyTorch, the reference that every export is compared with.

    Attributes:
        size, grid, class_names: see `Predictor`. spec: how it was made.
        patch: multiple that sides of the input must have.
    """

    patch: int

    def __init__(self, spec: ModelSpec, size: tuple[int, int], grid: tuple[int, int]) -> None:
        super().__init__()
        self.spec = spec
        self.size = size
        self.grid = grid
        self.class_names = list(spec.class_names)

    @property
    def alpha(self) -> float:
        """Weight of the low-level branch; 0 where there is none."""
        return 0.0

    @property
    def adapt(self) -> AdaptSpec | None:
        """How prototypes adapt to the image; None where they do not."""
        return None

    @property
    def device(self) -> torch.device:
        """Where its numbers are."""
        return next(chain(self.parameters(), self.buffers()), torch.zeros(0)).device

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Class scores.

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
        Returns:
            (B, C, gh, gw) float32, a distribution over C at every cell.
        """

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores as of `forward`, and how like its training every cell is (B, 1, h, w), where it can tell."""
        return self(images), None

    @torch.inference_mode()
    def predict(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Segment frames on any device, see `Predictor.predict`; the outputs are on the network's."""
        images = frames_to_images(frames.to(self.device))
        scores: Tensor = self(images)
        return label_pixels(scores, images, self.spec.low_level), scores

    @torch.inference_mode()
    def label(self, scores: Tensor, frames: Tensor) -> Tensor:
        """Label pixels by scores that were changed since `predict`, see `Predictor.label`."""
        return label_pixels(scores, frames_to_images(frames.to(scores.device)), self.spec.low_level)


def frames_to_images(frames: Tensor) -> Tensor:
    """uint8 BGR (B, H, W, 3) -> float32 RGB (B, 3, H, W) in [0, 1]."""
    # To float first: TensorRT takes uint8 as an input, but no operator on it except the cast. Planes before
    # their order: whole planes are copied, not single numbers.
    return frames.float().permute(0, 3, 1, 2).flip(1) / 255.0


def pixel_scores(scores: Tensor, images: Tensor, spec: LowLevelSpec) -> Tensor:
    """Upsample scores (B, C, gh, gw) to images (B, 3, H, W), RGB in [0, 1], as the spec says."""
    size = (images.shape[-2], images.shape[-1])
    if spec.refine:
        return stitch(guided_quads(scores, images, spec.refine, spec.refine_eps), size)
    return lowlevel.upsample(scores, size)


def label_pixels(scores: Tensor, images: Tensor, spec: LowLevelSpec) -> Tensor:
    """The best class of every pixel, arguments as `pixel_scores`: labels (B, H, W) uint8."""
    # Through float32: TensorRT makes uint8, which it knows as an output only, of floats and of nothing else.
    if not spec.refine:
        return pixel_scores(scores, images, spec).argmax(1).float().to(torch.uint8)
    # The best class first: one number per pixel is to be put in order then, not C.
    best = guided_quads(scores, images, spec.refine, spec.refine_eps).argmax(3, keepdim=True).float()
    return stitch(best, (images.shape[-2], images.shape[-1]))[:, 0].to(torch.uint8)
