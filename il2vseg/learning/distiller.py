"""How a student learns from targets. No labels anywhere."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from il2vseg.learning.monitor import StepReport
from il2vseg.learning.targets import TOKEN_STRIDE, Targets
from il2vseg.learning.views import Augmentation, draw_view, vary_colours, warp_frame
from il2vseg.losses.distillation import class_weights, distillation_loss, feature_loss
from il2vseg.models.segmenter import frames_to_images
from il2vseg.models.student import STRIDE, Student


@dataclass(frozen=True)
class DistillRecipe:
    """Everything that decides the student's training, apart from its data."""

    steps: int = 3000
    batch: int = 8
    crop: tuple[int, int] = (192, 320)
    seed: int = 0
    lr: float = 2e-3
    weight_decay: float = 0.02
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises."""
    ema: float = 0.998
    balance: float = 0.5
    """Exponent of how much more a cell of a rare class counts: 0 = as much as any, 1 = as many times more as
    the class is rarer than the mean."""
    edge_weight: float = 1.0
    """How much more a cell beside the target's edges counts."""
    feature_weight: float = 0.5
    augmentation: Augmentation = field(default_factory=Augmentation)


class Distiller:
    """Trains a student on frames and their targets. The same seed takes the same steps."""

    def __init__(
        self, student: Student, frames: Sequence[bytes], targets: Targets, recipe: DistillRecipe
    ) -> None:
        """Args:
        frames: encoded images of the student's size, in the order of the targets.
        """
        self.recipe = recipe
        self.frames = frames
        self.targets = targets
        self.class_weight = class_weights(targets.scores, recipe.balance)
        self.student = student.to(memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(student).requires_grad_(False).eval()
        components = targets.tokens.shape[1]
        width = student.classify.in_channels
        self.projection = nn.Conv2d(width, components, 1) if components else None
        modules = nn.ModuleList([student] if self.projection is None else [student, self.projection])
        # Norms and biases are not decayed.
        decayed = [p for p in modules.parameters() if p.ndim > 1]
        rest = [p for p in modules.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": rest},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=0.0)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero."""
        r = self.recipe
        warmup = max(1, round(r.warmup * r.steps))
        if step < warmup:
            return r.lr * (step + 1) / warmup
        return r.lr * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, r.steps - warmup)))

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images (B, 3, h, w), target scores (B, C, h/4, w/4) and tokens (B, K, h/16, w/16) of a step.

        The scores add up to the share of a cell that the teacher knows.
        """
        r = self.recipe
        rng = np.random.default_rng((r.seed, step))
        chosen = rng.choice(len(self.frames), min(r.batch, len(self.frames)), replace=False)
        views, crops = [], []
        for i in chosen:
            view = draw_view(rng, self.student.size, r.crop, r.augmentation)
            frame = cv2.imdecode(np.frombuffer(self.frames[i], np.uint8), cv2.IMREAD_COLOR)
            crop = warp_frame(np.asarray(frame, dtype=np.uint8), view, r.crop)
            views.append(view)
            crops.append(vary_colours(rng, crop, r.augmentation))
        theta = torch.from_numpy(np.stack(views)).float()
        scores = self._warp(self.targets.scores[chosen], theta, STRIDE) / 255.0
        tokens = None
        if self.projection is not None:
            tokens = self._warp(self.targets.tokens[chosen], theta, TOKEN_STRIDE)
        return frames_to_images(torch.from_numpy(np.stack(crops))), scores, tokens

    def _warp(self, values: NDArray[np.generic], theta: Tensor, stride: int) -> Tensor:
        """Cut views (B, 2, 3) out of grids (B, C, gh, gw), at a stride of the crop."""
        x = torch.from_numpy(values).float()
        size = [len(x), x.shape[1], self.recipe.crop[0] // stride, self.recipe.crop[1] // stride]
        grid = F.affine_grid(theta, size, align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def step(self, step: int) -> dict[str, float]:
        """One optimisation step; returns the values of the losses."""
        r = self.recipe
        images, target, tokens = self.batch(step)
        fine, coarse = self.student.features(images.to(memory_format=torch.channels_last))
        logits = self.student.classify(fine)
        losses = {"kl": distillation_loss(logits, target, self.class_weight, r.edge_weight)}
        if self.projection is not None and tokens is not None:
            losses["features"] = r.feature_weight * feature_loss(self.projection(coarse), tokens)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()
        self._update_average(step)
        return {name: float(value.detach()) for name, value in losses.items()}

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        # The average forgets its random start: a short memory first.
        keep = min(self.recipe.ema, (step + 1) / (step + 10))
        own = self.student.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(own[name], 1.0 - keep)
            else:
                value.copy_(own[name])

    def run(self, report: Callable[[StepReport], None] = lambda _: None) -> Student:
        """Take all steps and return the averaged student."""
        for step in range(self.recipe.steps):
            losses = self.step(step)
            report(StepReport("distill", step, self.recipe.steps, losses))
        return self.average.to(memory_format=torch.contiguous_format)
