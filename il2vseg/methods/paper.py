"""IL2Vseg as printed (Qing et al., AAAI 2025), for whoever has the paper's data.

RGB without position, memberships without a prior, α = 0.5 in training and at prediction, L_smo and L_corr
at weight 1, no L_fused, bilinear upsampling. What is left open there is settled as in docs/method.md: rows
of the affinity sum to 1, and memberships go with 1/d².
"""

from dataclasses import dataclass

from il2vseg.methods.joint import FusedSmoothness, Joint
from il2vseg.methods.stego import Correspondence
from il2vseg.models.spec import LowLevelSpec


@dataclass(frozen=True)
class Paper(Joint):
    """All losses of eq. 14 together, from clusters of the whitened tokens."""

    predict_alpha: float = 0.5
    low_level: LowLevelSpec = LowLevelSpec(space="rgb", xy_weight=0.0, prior="none", sigma=0.1, refine=0)
    adapts: bool = False
    correspondence: Correspondence = Correspondence(steps=0)
    smoothness: FusedSmoothness = FusedSmoothness(steps=500, weight=1.0, train_alpha=0.5, fused_weight=0.0)
