"""How a student learns from targets. No labels anywhere."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from il2vseg.base.classes import OBSTACLE, SKY, ground_of
from il2vseg.base.images import decode_frame
from il2vseg.learning.batches import Batch, Batches, Looks, Standing, ahead
from il2vseg.learning.monitor import StepReport
from il2vseg.learning.paste import Pasting
from il2vseg.learning.restyle import Restyling
from il2vseg.learning.targets import TOKEN_STRIDE, Targets
from il2vseg.learning.views import Augmentation
from il2vseg.losses.distillation import class_weights, distillation_loss, feature_loss
from il2vseg.models.network import frames_to_images
from il2vseg.models.novelty import LIMITS, fit_novelty
from il2vseg.models.student import Student


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
    pasting: Pasting | None = None
    """Obstacles pasted on the ground; needs the class obstacle and one of `base.classes.GROUNDS`."""
    restyling: Restyling | None = None
    """Classes in other looks."""
    augmentation: Augmentation = field(default_factory=Augmentation)


class Distiller:
    """Trains a student on frames and their targets. The same seed takes the same steps."""

    def __init__(
        self,
        student: Student,
        frames: Sequence[bytes],
        targets: Targets,
        recipe: DistillRecipe,
        *,
        device: torch.device | None = None,
        workers: int = 0,
    ) -> None:
        """Prepare.

        Args:
            frames: encoded images of the student's size, in the order of the targets.
            device: where it learns; None for the CPU. workers: processes that make batches ahead.
        """
        self.recipe = recipe
        self.targets = targets
        self.device = device or torch.device("cpu")
        self.workers = workers
        self.class_weight = class_weights(targets.scores, recipe.balance).to(self.device)
        self.student = student.to(self.device).to(memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.student).requires_grad_(False).eval()
        components = targets.tokens.shape[1]
        projection = nn.Conv2d(student.width, components, 1) if components else None
        self.projection = None if projection is None else projection.to(self.device)
        self.obstacle = None
        if recipe.pasting is not None:
            self.obstacle = targets.class_names.index(OBSTACLE)
        self.batches = Batches(
            frames,
            targets.scores,
            student.size,
            recipe.crop,
            student.stride,
            recipe.batch,
            recipe.seed,
            recipe.augmentation,
            standing(targets.class_names, recipe.pasting),
            looks(targets.class_names, recipe.restyling),
        )
        # Those of the frames in use are warped on the device.
        self.scores = torch.from_numpy(targets.scores).to(self.device)
        self.tokens = torch.from_numpy(targets.tokens).to(self.device)
        self.optimizer = self._optimizer()

    def _optimizer(self) -> torch.optim.Optimizer:
        modules = nn.ModuleList([m for m in (self.student, self.projection) if m is not None])
        # Norms and biases are not decayed.
        decayed = [p for p in modules.parameters() if p.ndim > 1]
        rest = [p for p in modules.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": self.recipe.weight_decay},
            {"params": rest},
        ]
        return torch.optim.AdamW(groups, lr=self.recipe.lr, weight_decay=0.0)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero."""
        r = self.recipe
        warmup = max(1, round(r.warmup * r.steps))
        if step < warmup:
            return r.lr * (step + 1) / warmup
        return r.lr * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (r.steps - warmup)))

    def prepare(self, batch: Batch) -> "Lesson":
        """Bring a batch to the device, with the targets of its crops.

        The targets add up to the share of a cell that the teacher knows.
        """
        chosen = torch.from_numpy(batch.chosen).to(self.device)
        theta = torch.from_numpy(batch.views).float().to(self.device)
        target = self._warp(self.scores[chosen].float(), theta, self.student.stride) / 255.0
        weight = torch.from_numpy(batch.weight).to(self.device)
        solid = torch.from_numpy(batch.solid).to(self.device).float()[:, None] / 255.0
        if self.obstacle is not None:
            pasted = torch.zeros_like(target)
            pasted[:, self.obstacle] = 1.0
            target = torch.lerp(target, pasted, solid)
        tokens = kept = None
        if self.projection is not None:
            tokens = self._warp(self.tokens[chosen].float(), theta, TOKEN_STRIDE)
            kept = 1.0 - F.adaptive_max_pool2d(solid, tokens.shape[2:])[:, 0]
        images = frames_to_images(torch.from_numpy(batch.crops).to(self.device))
        return Lesson(images.to(memory_format=torch.channels_last), target, weight, tokens, kept)

    def _warp(self, values: Tensor, theta: Tensor, stride: int) -> Tensor:
        """Cut views (B, 2, 3) out of grids (B, C, gh, gw), at a stride of the crop."""
        size = [len(values), values.shape[1], self.recipe.crop[0] // stride, self.recipe.crop[1] // stride]
        grid = F.affine_grid(theta, size, align_corners=False)
        return F.grid_sample(values, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def step(self, step: int, batch: Batch | None = None) -> dict[str, Tensor]:
        """One optimisation step, on the batch of this step unless another is given; returns the losses."""
        r = self.recipe
        lesson = self.prepare(batch if batch is not None else self.batches(step))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            fine, coarse = self.student.features(lesson.images)
            logits = self.student.classify(fine).float()
            projected = self.projection(coarse).float() if self.projection is not None else None
        loss = distillation_loss(logits, lesson.target, self.class_weight, r.edge_weight, lesson.weight)
        losses = {"kl": loss}
        if projected is not None and lesson.tokens is not None and lesson.kept is not None:
            losses["features"] = r.feature_weight * feature_loss(projected, lesson.tokens, lesson.kept)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()
        self._update_average(step)
        return {name: value.detach() for name, value in losses.items()}

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        # The average forgets its random start: a short memory first.
        keep = min(self.recipe.ema, (step + 1) / (step + 10))
        averages, own = self.average.state_dict(), self.student.state_dict()
        floating = [name for name, value in averages.items() if value.is_floating_point()]
        torch._foreach_lerp_([averages[n] for n in floating], [own[n] for n in floating], 1.0 - keep)
        for name in averages.keys() - set(floating):
            averages[name].copy_(own[name])

    def run(self, report: Callable[[StepReport], None] = lambda _: None) -> Student:
        """Take all steps and return the averaged student, on the CPU."""
        steps = range(self.recipe.steps)
        every = 1 if self.device.type == "cpu" else 20  # reading a loss waits for the device
        for step, batch in zip(steps, ahead(self.batches, steps, self.workers), strict=True):
            losses = self.step(step, batch)
            if step % every == 0 or step == steps[-1]:
                values = {name: float(value) for name, value in losses.items()}
                report(StepReport("distill", step, self.recipe.steps, values))
        return self.average.to("cpu").to(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Lesson:
    """A batch on the device, with what the student should say of it.

    Attributes:
        images: RGB (B, 3, h, w) in [0, 1]. target: distributions (B, C, h/s, w/s). weight: (B, h/s, w/s).
        tokens: (B, K, h/16, w/16) and how much each counts: (B, h/16, w/16); None where there are none.
    """

    images: Tensor
    target: Tensor
    weight: Tensor
    tokens: Tensor | None
    kept: Tensor | None


@torch.no_grad()
def add_novelty(student: Student, frames: Sequence[bytes]) -> Student:
    """Teach a finished student, in place, to tell how like its training an image is.

    Args:
        frames: encoded images of its size, in the order of the footage.
    """
    features = []
    for data in frames:
        images = frames_to_images(torch.from_numpy(decode_frame(data))[None])
        features.append(student.features(images)[1][0].half())
    student.novelty = fit_novelty(features)
    student.spec = replace(student.spec, novelty=dict(LIMITS))
    return student


def standing(names: Sequence[str], pasting: Pasting | None) -> Standing | None:
    """Where pasting finds its classes; None where nothing is pasted."""
    if pasting is None:
        return None
    ground = ground_of(names)
    assert ground is not None, names
    return Standing(names.index(ground), names.index(OBSTACLE), pasting)


def looks(names: Sequence[str], restyling: Restyling | None) -> Looks | None:
    """Where restyling finds ground and sky; None where nothing is restyled."""
    if restyling is None:
        return None
    ground = ground_of(names)
    return Looks(
        None if ground is None else names.index(ground), names.index(SKY) if SKY in names else None, restyling
    )
