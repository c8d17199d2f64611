"""Principal mask proposals and the focal loss of PriMaPs-EM (Hahn et al. 2024, section 3).

Masks of an image are found one after the other: v, the leading principal direction of the tokens that are
left; x*, the token most alike to it; all tokens left with cos(x*, x_i) > ψ max_j cos(x*, x_j) are one mask
and leave. It ends when 95 % of the tokens have a mask. A mask takes the label that most of its tokens have
(E-step); prototypes learn the labels of the masks by cross-entropy with weights (1 − χ_c)^γ, χ_c the mean
probability of class c in the batch (M-step).

Departures: whitened tokens, since one direction of DINOv2's own swamps every cosine (1 to 4 masks per image
of CamVid instead of 8 to 14); |cos| to v, which has no sign; no median filter and no CRF, hence masks of
tokens and not of pixels; a bound on the number of masks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

THRESHOLD = 0.4
"""ψ."""
COVERED = 0.95
"""Share of the tokens that must have a mask."""
MAX_MASKS = 20
FOCUS = 2.0
"""γ."""
NO_MASK = -1


def principal_masks(tokens: Tensor) -> Tensor:
    """Decompose images into masks.

    Args:
        tokens: (B, N, k), of any length.
    Returns:
        number of the mask of each token (B, N), from 0 in the order in which they were found, or NO_MASK.
    """
    unit = F.normalize(tokens, dim=2)
    masks = torch.full(tokens.shape[:2], NO_MASK, device=tokens.device)
    for number in range(MAX_MASKS):
        left = masks == NO_MASK
        unfinished = left.sum(1, keepdim=True) > (1.0 - COVERED) * tokens.shape[1]
        if not bool(unfinished.any()):
            break
        weight = left.unsqueeze(2).to(tokens)
        mean = (tokens * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1.0)
        x = (tokens - mean) * weight
        direction = torch.linalg.eigh(x.mT @ x).eigenvectors[:, :, -1:]
        like = (unit @ direction).abs().squeeze(2).masked_fill(~left, -1.0).argmax(1)
        similarity = (unit @ unit[torch.arange(len(unit)), like].unsqueeze(2)).squeeze(2)
        similarity = similarity.masked_fill(~left, -1.0)
        found = (similarity > THRESHOLD * similarity.amax(1, keepdim=True)) & unfinished
        masks[found & left] = number
    return masks


def voted_labels(masks: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Give every mask the label that most of its tokens have, the smaller one where two are as frequent.

    Args:
        masks: (B, N), as `principal_masks` returns them. labels: (B, N) in 0 … classes − 1.
    Returns:
        (B, N), NO_MASK where there is no mask.
    """
    member = F.one_hot(masks + 1, MAX_MASKS + 1).float()
    votes = member.mT @ F.one_hot(labels, classes).float()
    winners = votes.argmax(2).gather(1, masks + 1)
    return winners.masked_fill(masks == NO_MASK, NO_MASK)


def focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """−Σ_i (1 − χ_{y_i})^γ log p_i(y_i) / number of tokens, over the tokens that have a label.

    Args:
        logits: (B, N, C). labels: y (B, N), NO_MASK for none.
    Returns:
        scalar.
    """
    confidence = logits.detach().softmax(2).flatten(0, 1).mean(0)
    weights = (1.0 - confidence) ** FOCUS
    losses = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), weights, ignore_index=NO_MASK, reduction="none"
    )
    return losses.mean()
