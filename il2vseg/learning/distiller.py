"""Distillation: what the student is taught (targets), what it sees (augmentation), and how it learns.

No labels anywhere: the targets are the scores and tokens of a teacher that was trained without any.
"""

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from il2vseg.base.files import atomic_path
from il2vseg.base.images import Frame, resize_frame
from il2vseg.learning.trainer import StepReport
from il2vseg.models.segmenter import Segmenter, frames_to_images, pixel_scores
from il2vseg.models.student import STRIDE, Student
from il2vseg.models.whitening import TokenStatistics

TOKEN_DIM = 64
"""Whitened dimensions of the teacher's tokens that the student's features are pulled to."""

TOKEN_STRIDE = 16
"""Stride of the student's features that are compared with them."""


def classes_of(names: Sequence[str]) -> tuple[tuple[str, ...], list[list[int]]]:
    """Classes as they first appear among the names of clusters, and the clusters of each."""
    classes = tuple(dict.fromkeys(names))
    return classes, [[i for i, name in enumerate(names) if name == c] for c in classes]


@dataclass(frozen=True)
class Targets:
    """What the teacher says of n frames.

    Attributes:
        scores: (n, C, H/4, W/4) uint8, probabilities times 255.
        tokens: (n, K, h, w) float16, whitened; K = 0 where the teacher has no tokens.
        class_names: one a class.
    """

    scores: NDArray[np.uint8]
    tokens: NDArray[np.float16]
    class_names: tuple[str, ...]

    def save(self, path: Path, key: str) -> None:
        """Write to an .npz; `key` names everything that decided the targets."""
        names = np.array(self.class_names)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, scores=self.scores, tokens=self.tokens, names=names, key=key)

    @classmethod
    def load(cls, path: Path, key: str) -> "Targets | None":
        """Read what `save` wrote, if it is there whole and has this key."""
        try:
            with np.load(path) as file:
                if str(file["key"]) != key:
                    return None
                return cls(file["scores"], file["tokens"], tuple(map(str, file["names"])))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None


def targets_key(frames: Iterable[bytes], **settings: object) -> str:
    """A hash of the frames and of every setting that decides their targets."""
    h = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for frame in frames:
        h.update(hashlib.sha256(frame).digest())
    return h.hexdigest()


@torch.inference_mode()
def compute_targets(
    teachers: Sequence[Segmenter],
    frames: Iterable[Frame],
    size: tuple[int, int],
    flip: bool = False,
) -> Targets:
    """Ask the teacher, with its low-level branch, about every frame: mean over its input sizes and, with
    `flip`, the mirrored frame.

    Args:
        teachers: one model at one or more input sizes; the first gives the tokens.
        size: the student's (H, W).
    """
    class_names, members = classes_of(teachers[0].class_names)
    grid = (size[0] // STRIDE, size[1] // STRIDE)
    backbone = getattr(teachers[0], "backbone", None)
    captured: list[Tensor] = []
    hook = None
    if backbone is not None:
        hook = backbone.register_forward_hook(lambda _, __, output: captured.append(output))
    scores: list[NDArray[np.uint8]] = []
    tokens: list[Tensor] = []
    for frame in frames:
        total = torch.zeros(1, len(class_names), *grid)
        for teacher in teachers:
            images = frames_to_images(torch.from_numpy(resize_frame(frame, teacher.size))[None])
            total += _class_scores(teacher, images, members, grid)
            if flip:
                total += _class_scores(teacher, images.flip(3), members, grid).flip(3)
        tokens += [t.half() for t in captured[:1]]
        captured.clear()
        mean = (total / total.sum(1, keepdim=True))[0]
        scores.append((mean * 255.0).round().byte().numpy())
    if hook is not None:
        hook.remove()
    return Targets(np.stack(scores), _whiten(tokens), class_names)


def _class_scores(
    teacher: Segmenter, images: Tensor, members: Sequence[list[int]], grid: tuple[int, int]
) -> Tensor:
    """Scores (1, C, gh, gw) of named classes: of each its best cluster's, as in the teacher's labels."""
    clusters = pixel_scores(teacher(images), images, teacher.low_level).clamp_min(0.0)
    classes = torch.stack([clusters[:, ids].amax(1) for ids in members], 1)
    return F.interpolate(classes / classes.sum(1, keepdim=True), size=grid, mode="area")


def _whiten(tokens: list[Tensor]) -> NDArray[np.float16]:
    """PCA-whiten tokens (1, D, h, w) each over all of them: (n, K, h, w)."""
    if not tokens:
        return np.zeros((0, 0, 1, 1), np.float16)
    _, dim, h, w = tokens[0].shape
    statistics = TokenStatistics(dim)
    flat = [t[0].flatten(1).T.float() for t in tokens]
    for t in flat:
        statistics.update(t)
    whitening = statistics.whitening(min(TOKEN_DIM, dim), centre=False)
    z = [whitening(t[None])[0].T.reshape(-1, h, w) for t in flat]
    return np.asarray(torch.stack(z).half().numpy(), np.float16)


DUSK = 0.2
"""Share of the light that the dimmest views keep."""


@dataclass(frozen=True)
class Augmentation:
    """How hard the frames are varied; every draw is independent."""

    zoom: float = 1.6
    """Largest magnification; the smallest is the one at which the crop is the frame."""
    stretch: float = 1.15
    """Largest change of the aspect, either way."""
    tilt: float = 12.0
    """Degrees that the horizon leans, either way (three standard deviations)."""
    colour: float = 0.35
    """Change of brightness, contrast, saturation and gamma, either way."""
    shade: float = 0.1
    """Probability of uneven light: smooth fields of shadow and sun."""
    dim: float = 0.1
    """Probability of dusk: down to DUSK of the light."""
    degrade: float = 0.3
    """Probability of each of blur, noise, JPEG and rain."""


def draw_view(
    rng: np.random.Generator, size: tuple[int, int], crop: tuple[int, int], a: Augmentation
) -> NDArray[np.float64]:
    """Draw where a crop lies in a frame.

    Returns:
        (2, 3) affine map from the crop to the frame, in coordinates from −1 to 1 across each.
    """
    h, w = size
    smallest = max(crop[0] / h, crop[1] / w)
    zoom = math.exp(rng.uniform(math.log(smallest), math.log(max(a.zoom, smallest))))
    aspect = math.exp(rng.uniform(-1, 1) * math.log(a.stretch) / 2)
    half = np.array([crop[1] / zoom * aspect, crop[0] / zoom / aspect]) / 2
    room = np.maximum(np.array([w, h]) / 2 - half, 0.0)
    angle = math.radians(float(np.clip(rng.normal(0.0, a.tilt / 3), -a.tilt, a.tilt)))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    mirror = np.array([-1.0 if rng.random() < 0.5 else 1.0, 1.0])
    linear = turn @ np.diag(half * mirror)
    frame_half = np.array([w, h]) / 2
    return np.hstack([linear, rng.uniform(-room, room)[:, None]]) / frame_half[:, None]


def warp_frame(frame: Frame, view: NDArray[np.float64], crop: tuple[int, int]) -> Frame:
    """Cut a view out of a frame; what lies outside is mirrored in, as `torch`'s grid_sample does."""
    (fh, fw), (ch, cw) = frame.shape[:2], crop
    # Pixel centres of the crop -> [−1, 1] -> the frame's [−1, 1] -> its pixel centres.
    inner = np.array([[2 / cw, 0, 1 / cw - 1], [0, 2 / ch, 1 / ch - 1], [0, 0, 1]])
    outer = np.array([[fw / 2, 0, (fw - 1) / 2], [0, fh / 2, (fh - 1) / 2]])
    matrix = outer @ np.vstack([view, [0, 0, 1]]) @ inner
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(frame, matrix, (cw, ch), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(warped, dtype=np.uint8)


def vary_colours(rng: np.random.Generator, frame: Frame, a: Augmentation) -> Frame:
    """Light, then brightness, contrast, gamma, saturation and hue, then blur, noise, rain and JPEG."""
    frame = vary_light(rng, frame, a)

    def factor() -> float:
        return math.exp(rng.uniform(-a.colour, a.colour))

    ramp = np.linspace(0.0, 1.0, 256) ** factor() * factor()
    ramp = (ramp - 0.5) * factor() + 0.5
    x: NDArray[Any] = cv2.LUT(frame, (ramp.clip(0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
    hsv = cv2.cvtColor(x, cv2.COLOR_BGR2HSV).astype(np.int16)
    hsv[..., 0] = (hsv[..., 0] + round(rng.uniform(-9, 9))) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * factor(), 0, 255)
    x = np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR), dtype=np.uint8)
    if rng.random() < a.degrade:
        x = np.asarray(cv2.GaussianBlur(x, (0, 0), rng.uniform(0.5, 2.0)), dtype=np.uint8)
    if rng.random() < a.degrade:
        noise = rng.normal(0.0, rng.uniform(2.0, 15.0), x.shape)
        x = np.asarray((x + noise).clip(0, 255), dtype=np.uint8)
    if rng.random() < a.degrade / 3:
        x = streaks(rng, x, rng.uniform(0.0005, 0.003))
    if rng.random() < a.degrade:
        x = jpeg(x, int(rng.integers(20, 80)))
    return x


def vary_light(rng: np.random.Generator, frame: Frame, a: Augmentation) -> Frame:
    """Shadows, sun and dusk: the colours stay, their brightness does not."""
    h, w = frame.shape[:2]
    light = np.ones((h, w), np.float32)
    if rng.random() < a.shade:
        coarse = rng.normal(0.0, 0.4, (4, 5)).astype(np.float32)
        light = np.exp(cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC))
    if rng.random() < a.dim:
        light = light * np.float32(math.exp(rng.uniform(math.log(DUSK), 0.0)))
    return np.asarray((frame * light[..., None]).clip(0, 255), dtype=np.uint8)


def streaks(rng: np.random.Generator, frame: Frame, density: float, length: int = 15) -> Frame:
    """Rain-like: bright, slanted streaks; `density` of them a pixel."""
    drops = (rng.random(frame.shape[:2]) < density).astype(np.float32) * 255.0
    kernel = np.zeros((length, length), np.float32)
    lean = int(rng.integers(-length // 3, length // 3 + 1))
    cv2.line(kernel, (length // 2 - lean, 0), (length // 2 + lean, length - 1), 1.0)
    rain = cv2.filter2D(drops, -1, kernel)[..., None] * 0.7
    return np.asarray((frame + rain).clip(0, 255), dtype=np.uint8)


def jpeg(frame: Frame, quality: int) -> Frame:
    """Compress and decompress."""
    data = cv2.imencode(".jpg", frame, (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)


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
    augmentation: Augmentation = Augmentation()


def class_weights(scores: NDArray[np.uint8], balance: float) -> Tensor:
    """How much a cell of each class counts: (C,), from all targets (n, C, h, w); see `DistillRecipe`."""
    share = np.array([scores[:, c].mean(dtype=np.float64) for c in range(scores.shape[1])])
    share = (share / share.sum()).clip(1e-3, None)
    return torch.from_numpy((1.0 / (len(share) * share)) ** balance).float()


def distillation_loss(
    logits: Tensor, target: Tensor, class_weight: Tensor, edge_weight: float = 1.0
) -> Tensor:
    """Weighted KL(target ‖ student), a scalar.

    A cell counts as the teacher is sure: nothing at even odds, linearly more above.

    Args:
        logits, target: (B, C, h, w); the target is a distribution over C.
        class_weight: (C,), see `class_weights`. edge_weight: see `DistillRecipe`.
    """
    kl = F.kl_div(logits.log_softmax(1), target, reduction="none").sum(1)
    chance = 1.0 / target.shape[1]
    sure = ((target.amax(1) - chance) / (1.0 - chance)).clamp(0.0, 1.0)
    most = F.max_pool2d(target, 5, 1, 2)
    least = -F.max_pool2d(-target, 5, 1, 2)
    weight = sure * (1.0 + edge_weight * (most - least).amax(1))
    weight = weight * torch.einsum("c,bchw->bhw", class_weight, target)
    return (weight * kl).sum() / weight.sum().clamp_min(1.0)


def feature_loss(projected: Tensor, tokens: Tensor) -> Tensor:
    """1 − cosine of the student's projected features and the teacher's tokens, both (B, K, h, w)."""
    return (1.0 - F.cosine_similarity(projected, tokens, dim=1)).mean()


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
        """Images (B, 3, h, w), target scores (B, C, h/4, w/4) and tokens (B, K, h/16, w/16) of a step."""
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
        scores = scores / scores.sum(1, keepdim=True).clamp_min(1e-6)
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
