"""The model: backbone, whitening, head and prototypes (F_seg), low-level branch (F_l), fusion (F_f)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from il2vseg.models import lowlevel
from il2vseg.models.adapt import adapted_logits, class_membership
from il2vseg.models.backbones import Backbone
from il2vseg.models.guided import guided_quads, stitch
from il2vseg.models.spec import AdaptSpec, LowLevelSpec, ModelSpec
from il2vseg.models.whitening import Whitening

EMBEDDING_DIM = 64


class ProjectionHead(nn.Module):
    """h: a linear map plus a two-layer MLP with SiLU, summed; starts as the identity."""

    def __init__(self, in_dim: int, out_dim: int = EMBEDDING_DIM) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim)
        self.mlp = nn.Sequential(nn.Linear(in_dim, in_dim), nn.SiLU(), nn.Linear(in_dim, out_dim))
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        last = self.mlp[2]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, z: Tensor) -> Tensor:
        """(..., k) whitened tokens -> (..., d) embeddings F_c."""
        out: Tensor = self.linear(z) + self.mlp(z)
        return out


class Classifier(nn.Module):
    """The trained part: whitening, head and prototypes. Tokens in, class distributions out."""

    def __init__(self, whitening: Whitening, num_classes: int, temperature: float = 0.1) -> None:
        super().__init__()
        self.whitening = whitening
        self.head = ProjectionHead(whitening.basis.shape[0])
        self.local_prototypes = nn.Parameter(torch.zeros(num_classes, EMBEDDING_DIM))
        self.global_prototypes: Tensor
        self.register_buffer("global_prototypes", torch.zeros(num_classes, EMBEDDING_DIM))
        self.temperature = temperature

    def set_prototypes(self, prototypes: Tensor) -> None:
        """Start both prototype sets (C, d) from clusters of the embeddings."""
        with torch.no_grad():
            self.local_prototypes.copy_(prototypes)
            self.global_prototypes.copy_(prototypes)

    def logits(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
        """F_seg/τ: cosine of embeddings (..., d) to prototypes (C, d), over the temperature -> (..., C)."""
        return F.normalize(embeddings, dim=-1) @ F.normalize(prototypes, dim=-1).T / self.temperature

    def forward(
        self, tokens: Tensor, adapt: AdaptSpec | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """P_seg = softmax(F_seg/τ).

        Args:
            tokens: (B, D, h, w). adapt, classes: see `il2vseg.models.adapt`; None = fixed prototypes.
        Returns:
            (B, C, h, w), a distribution over C.
        """
        b, _, h, w = tokens.shape
        flat = tokens.flatten(2).transpose(1, 2)
        embeddings = self.head(self.whitening(flat))
        if adapt is None:
            logits = self.logits(embeddings, self.global_prototypes)
        else:
            logits = adapted_logits(
                flat, embeddings, self.global_prototypes, self.temperature, adapt, classes
            )
        return logits.softmax(-1).transpose(1, 2).reshape(b, -1, h, w)


def low_level_memberships(
    colours: Tensor,
    p_seg: Tensor,
    spec: LowLevelSpec,
    fuzzy_cmeans: Callable[..., Tensor] = lowlevel.fuzzy_cmeans,
) -> tuple[Tensor, Tensor]:
    """Features x and memberships P of fuzzy c-means seeded by P_seg (eq. 3-8).

    Args:
        colours: RGB (B, 3, gh, gw) on the branch's grid. p_seg: (B, C, gh, gw) on the same grid, detached
            here: the branch is a cue, not a path for gradients into its own seed.
        fuzzy_cmeans: that of `fcm_kernel` is faster on a CPU, and cannot be exported.
    Returns:
        x (B, F, gh, gw) and P (B, C, gh, gw), a distribution over C.
    """
    seed = p_seg.detach()
    x = lowlevel.low_level_features(colours, spec.space, spec.xy_weight)
    prior = {"none": None, "mass": seed.mean((2, 3), keepdim=True), "pixel": seed}[spec.prior]
    return x, fuzzy_cmeans(x, seed, spec.iterations, spec.m, prior=prior)


def low_level_scores(
    colours: Tensor, p_seg: Tensor, spec: LowLevelSpec, tile: int = lowlevel.AFFINITY_TILE
) -> Tensor:
    """F_l = A·P: memberships spread by colour affinity (eq. 9-12), arguments as `low_level_memberships`.

    Args:
        tile: rows of the affinity held at once.
    Returns:
        (B, C, gh, gw), a distribution over C.
    """
    x, p = low_level_memberships(colours, p_seg, spec)
    if spec.window:
        return lowlevel.affinity_windowed(x, p, spec.sigma, spec.window)
    return lowlevel.affinity_tiled(x, p, spec.sigma, tile)


class Segmenter(nn.Module):
    """Frames to class scores; the eager model that every export is compared with.

    Attributes:
        size: (H, W) that images must have. grid: (gh, gw) of the scores.
        num_classes: clusters C. class_names: one per cluster. spec: how it was made.
        alpha: weight of F_l in eq. 13; settable, at first that of the spec.
        adapt: how prototypes adapt to the image, None = not; settable, at first that of the spec.
    """

    classes: Tensor | None

    def __init__(self, backbone: Backbone, classifier: Classifier, spec: ModelSpec) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.spec = spec
        self.alpha = spec.alpha
        self.adapt = spec.adapt
        self.register_buffer("classes", class_membership(spec.class_names), persistent=False)
        self.size: tuple[int, int] = backbone.size
        h, w = backbone.grid
        self.grid = (h * spec.low_level.scale, w * spec.low_level.scale)
        self.num_classes = len(classifier.global_prototypes)
        self.class_names = list(spec.class_names)

    @property
    def patch(self) -> int:
        """Multiple that input sizes must have."""
        return self.backbone.patch

    @property
    def low_level(self) -> LowLevelSpec:
        """Settings of the low-level branch."""
        return self.spec.low_level

    def forward(self, images: Tensor) -> Tensor:
        """Fused scores F_f (eq. 13).

        Args:
            images: (B, 3, H, W) RGB in [0, 1].
        Returns:
            (B, C, gh, gw) float32, a distribution over C at every cell.
        """
        p_seg = self.classifier(self.backbone(images).float(), self.adapt, self.classes)
        p_seg = lowlevel.upsample(p_seg, self.grid)
        if self.alpha == 0.0:
            return p_seg
        colours = lowlevel.pool_colours(images.float(), self.grid)
        return lowlevel.fuse(p_seg, low_level_scores(colours, p_seg, self.spec.low_level), self.alpha)

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores as of `forward`, and how like its training every cell is (B, 1, h, w), where it can tell."""
        return self(images), None

    @torch.inference_mode()
    def predict(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Segment frames of the model's size.

        Args:
            frames: (B, H, W, 3) uint8 BGR.
        Returns:
            labels (B, H, W) uint8, scores (B, C, gh, gw) float32.
        """
        images = frames_to_images(frames)
        scores = self(images)
        return label_pixels(scores, images, self.low_level), scores


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
