"""Grouping and contrast of slots: the losses of SlotCon (Wen et al. 2022, section 3).

Prototypes S (K, d) group the pixels of a view: A = softmax_k(cos(z, s_k) / τ_t), and slot k of the view is
the mean of its embeddings weighted by A_k.

*Grouping*: where two views show the same place, the teacher's groups in the one are the target of the
student's in the other, −Σ_k P_k ln Q_k with P = softmax((cos − c) / τ_t) and Q = softmax(cos / τ_s); the
centre c, a running mean of the teacher's cosines, keeps all slots in use.

*Contrast of slots*: −ln( exp(q(s_k)·s'_k / τ_c) / Σ exp(q(s_k)·s'_j / τ_c) ) · 2 τ_c, the sum over the
teacher's slots in all images; q is the student's predictor. A slot counts in an image where it is the
largest somewhere, in both views.

Departure: slots of all images of a micro-batch are contrasted, not of all processes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

STUDENT_TEMPERATURE = 0.1
TEACHER_TEMPERATURE = 0.07
CONTRAST_TEMPERATURE = 0.2
GROUPING_WEIGHT = 0.5
"""λ_g of the grouping loss; the contrast has the rest."""


def similarities(z: Tensor, prototypes: Tensor) -> Tensor:
    """Cosines of embeddings (B, N, d) to prototypes (K, d): (B, N, K)."""
    return F.normalize(z, dim=-1) @ F.normalize(prototypes, dim=-1).T


def slots(z: Tensor, cosines: Tensor) -> Tensor:
    """Slots (B, K, d) of embeddings (B, N, d) with `similarities` (B, N, K)."""
    attention = (cosines / TEACHER_TEMPERATURE).softmax(2) + 1e-6
    return (attention / attention.sum(1, keepdim=True)).mT @ z


def present(cosines: Tensor) -> Tensor:
    """Slots that are the largest somewhere in their image: (B, N, K) -> (B, K) bool."""
    return F.one_hot(cosines.argmax(2), cosines.shape[2]).amax(1).bool()


def grouping_loss(student: Tensor, teacher: Tensor, centre: Tensor) -> Tensor:
    """Cross-entropy of the student's groups against the teacher's.

    Args:
        student, teacher: cosines (B, N, K) at the same places. centre: c (K,).
    Returns:
        scalar.
    """
    target = ((teacher.detach() - centre) / TEACHER_TEMPERATURE).softmax(2)
    return -(target * (student / STUDENT_TEMPERATURE).log_softmax(2)).sum(2).mean()


def slot_contrast(predicted: Tensor, teacher: Tensor, both: Tensor, there: Tensor) -> Tensor:
    """Contrast of the student's slots with the teacher's.

    Args:
        predicted: q(s) (B, K, d). teacher: s' (B, K, d). both: slots present in both views (B, K) bool.
        there: slots present in the teacher's view (B, K) bool.
    Returns:
        scalar; 0 where no slot is in both.
    """
    q, k = F.normalize(predicted.flatten(0, 1), dim=1), F.normalize(teacher.detach().flatten(0, 1), dim=1)
    logits = q @ k.T / CONTRAST_TEMPERATURE
    counted = there.flatten() | torch.eye(len(q), dtype=torch.bool, device=q.device)
    log_p = logits.diagonal() - logits.masked_fill(~counted, -torch.inf).logsumexp(1)
    weight = both.flatten().to(log_p)
    return -(weight * log_p).sum() / weight.sum().clamp_min(1.0) * (2.0 * CONTRAST_TEMPERATURE)
