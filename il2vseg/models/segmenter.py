"""The model: backbone, whitening, head and prototypes (F_seg), low-level branch (F_l), fusion (F_f)."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from il2vseg.base.errors import UserError
from il2vseg.models import lowlevel
from il2vseg.models.adapt import adapted_logits, class_membership
from il2vseg.models.backbones import Backbone
from il2vseg.models.network import Network
from il2vseg.models.spec import AdaptSpec, LowLevelSpec, ModelSpec
from il2vseg.models.whitening import Whitening

EMBEDDING_DIM = 64
"""Of the embeddings, at least: a head that starts as the identity keeps all whitened dimensions."""


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
    """The trained part: whitening, head and prototypes. Tokens in, class distributions out.

    Attributes:
        parts: what a stage of the training needs beside them (`Stage.parts`); empty at all other times.
    """

    def __init__(
        self, whitening: Whitening, num_classes: int, temperature: float = 0.1, dim: int | None = None
    ) -> None:
        """Args:
        dim: of the embeddings; None for that of a new model.
        """
        super().__init__()
        components = whitening.basis.shape[0]
        dim = dim or max(EMBEDDING_DIM, components)
        self.whitening = whitening
        self.head = ProjectionHead(components, dim)
        self.local_prototypes = nn.Parameter(torch.zeros(num_classes, dim))
        self.global_prototypes: Tensor
        self.register_buffer("global_prototypes", torch.zeros(num_classes, dim))
        self.temperature = temperature
        self.parts = nn.Module()

    def set_prototypes(self, prototypes: Tensor) -> None:
        """Start both prototype sets (C, d) from clusters of the embeddings."""
        with torch.no_grad():
            self.local_prototypes.copy_(prototypes)
            self.global_prototypes.copy_(prototypes)

    def reorder(self, order: Tensor) -> None:
        """Number the clusters anew: the cluster `order[k]` becomes k."""
        with torch.no_grad():
            self.local_prototypes.copy_(self.local_prototypes[order])
            self.global_prototypes.copy_(self.global_prototypes[order])

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
    return lowlevel.affinity_tiled(x, p, spec.sigma, tile)


class Segmenter(Network):
    """The ViT with its trained head: F_seg, F_l and their fusion.

    Attributes:
        alpha: weight of F_l in eq. 13, at first that of the spec; see `with_alpha`.
        adapt: how prototypes adapt to the image, None = not; at first that of the spec.
    """

    alpha = 0.0
    adapt: AdaptSpec | None = None
    classes: Tensor | None

    def __init__(self, backbone: Backbone, classifier: Classifier, spec: ModelSpec) -> None:
        h, w = backbone.grid
        super().__init__(spec, backbone.size, (h * spec.low_level.scale, w * spec.low_level.scale))
        self.backbone = backbone
        self.classifier = classifier
        self.patch = backbone.patch
        self.alpha = spec.alpha
        self.adapt = spec.adapt
        self.register_buffer("classes", class_membership(spec.class_names), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Fused scores F_f (eq. 13), see `Network.forward`."""
        p_seg = self.classifier(self.backbone(images).float(), self.adapt, self.classes)
        p_seg = lowlevel.upsample(p_seg, self.grid)
        if self.alpha == 0.0:
            return p_seg
        colours = lowlevel.pool_colours(images.float(), self.grid)
        return lowlevel.fuse(p_seg, low_level_scores(colours, p_seg, self.spec.low_level), self.alpha)


def with_alpha(network: Network, alpha: float | None) -> Network:
    """The same network, sharing its parameters, with another weight of F_l; None leaves it as it is.

    Raises:
        UserError: the network has no low-level branch.
    """
    if alpha is None or alpha == network.alpha:
        return network
    if not isinstance(network, Segmenter):
        raise UserError(f"{network.spec.backbone} has no low-level branch to weigh; leave --alpha out")
    other = copy.copy(network)
    other.alpha = alpha
    return other
