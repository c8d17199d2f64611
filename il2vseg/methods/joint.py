"""The losses of IL2Vseg (Qing et al. 2025), in the form that helps by day: SmooSeg, STEGO and F_l."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from il2vseg.learning import fcm_kernel
from il2vseg.losses import eigenfunction, fusion
from il2vseg.losses.correspondence import correspondence_loss
from il2vseg.methods.base import Context, Method
from il2vseg.methods.smooseg import Sample, Smoothness
from il2vseg.methods.stego import Correspondence
from il2vseg.models import lowlevel
from il2vseg.models.segmenter import low_level_memberships
from il2vseg.models.spec import PREDICTION_ALPHA, LowLevelSpec


@dataclass(frozen=True)
class FusedSmoothness(Smoothness):
    """L_smo + L_corr + γ·L_fs + β·L_reg (eq. 14) + L_fused."""

    steps: int = 200
    weight: float = 0.3
    correspondence_weight: float = 1.0
    negatives: int = 3
    train_alpha: float = 0.5
    """α of F_f in the eigenfunction losses (paper)."""
    eigen_samples: int = 64
    gamma: float = 0.1
    beta: float = 0.05
    fused_weight: float = 0.3
    fused_alpha: float = 0.3
    """α of F_f in L_fused."""

    uses_views: ClassVar[bool] = True

    def losses(self, context: Context) -> dict[str, Tensor]:
        sample = Sample.draw(context, self.samples)
        losses = self.smoothness_losses(context, sample)
        if self.correspondence_weight:
            z_view = context.whitened_view(sample.index)
            embeddings_view = context.embeddings(z_view)
            negatives = [context.other_images() for _ in range(self.negatives)]
            corr = correspondence_loss(sample.embeddings, embeddings_view, sample.z, z_view, negatives)
            losses["corr"] = self.correspondence_weight * corr
        if self.fused_weight or self.gamma or self.beta:
            losses |= self.fused_losses(context, sample)
        return losses

    def fused_losses(self, context: Context, sample: Sample) -> dict[str, Tensor]:
        """The losses of the fused scores F_f: L_fused, L_fs and L_reg."""
        losses = {}
        p_seg, f_l = low_level_cue(context, sample)
        if self.fused_weight:
            fused = lowlevel.fuse(p_seg, f_l, self.fused_alpha)
            losses["fused"] = self.fused_weight * fusion.fusion_loss(sample.logits, fused)
        if self.gamma or self.beta:
            few = slice(self.eigen_samples)
            gram = gram_matrix(context, sample.z[:, few], sample.index[few])
            f_f = lowlevel.fuse(sample.p[:, few], f_l[:, few], self.train_alpha)
            l_fs, l_reg = eigenfunction.eigenfunction_losses(f_f, gram)
            losses |= {"fs": self.gamma * l_fs, "reg": self.beta * l_reg}
        return losses


@torch.no_grad()
def low_level_cue(context: Context, sample: Sample) -> tuple[Tensor, Tensor]:
    """P_seg without dropout and F_l, both (B, S, C) at the sampled positions."""
    classifier, spec = context.classifier, context.recipe.method.low_level
    z = classifier.whitening(sample.tokens)
    p_seg = classifier.logits(classifier.head(z), classifier.global_prototypes).softmax(-1)
    on_grid = p_seg.transpose(1, 2).unflatten(2, context.store.grid)
    colours = context.store.colours(context.images, 1)
    x, p = low_level_memberships(colours, on_grid, spec, fcm_kernel.fuzzy_cmeans)
    f_l = lowlevel.affinity_rows(x, p, spec.sigma, sample.index)
    return p_seg[:, sample.index], f_l.transpose(1, 2)


def gram_matrix(context: Context, z: Tensor, index: Tensor) -> Tensor:
    """Gram matrix (B·S, B·S) of the positions `index` (S,); z: (B, S, k)."""
    h, w = context.store.grid
    xy = torch.stack([index % w / w, index // w / h], 1).expand(len(z), -1, -1)
    return eigenfunction.gram_matrix(z, context.rgb(index), xy)


@dataclass(frozen=True)
class Joint(Method):
    """L_corr first; then all losses together, from clusters of what it made."""

    predict_alpha: float = PREDICTION_ALPHA
    low_level: LowLevelSpec = LowLevelSpec()
    adapts: bool = True
    correspondence: Correspondence = Correspondence()
    smoothness: FusedSmoothness = FusedSmoothness()
