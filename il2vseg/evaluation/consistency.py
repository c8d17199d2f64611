"""How well a model's outlines lie, judged without a mask: by the same model at twice the input size."""

from collections.abc import Iterable

import numpy as np
import torch

from il2vseg.base.images import Frame, resize_frame, resize_labels
from il2vseg.evaluation.metrics import BoundaryScore
from il2vseg.models.network import Predictor

TOLERANCE = 2
"""Pixels of the coarse model's input."""


@torch.inference_mode()
def outline_consistency(coarse: Predictor, fine: Predictor, frames: Iterable[Frame]) -> float | None:
    """Boundary F in % of the coarse model's classes against the fine model's, over all frames.

    At twice the size every token covers a quarter of the area, so that outlines are known twice as well; what
    brings the coarse model's outlines closer to them brings them closer to the things.

    Args:
        coarse, fine: the same clusters; `fine` has the larger input size.
        frames: (H, W, 3) uint8 BGR of any size; no masks.
    Returns:
        0 to 100; None when nothing has an outline.
    """
    score = BoundaryScore(len(coarse.class_names), (TOLERANCE,))
    for frame in frames:
        labels, reference = (
            np.asarray(m.predict(torch.from_numpy(resize_frame(frame, m.size))[None])[0][0].numpy())
            for m in (coarse, fine)
        )
        score.update(labels, resize_labels(reference, coarse.size))
    return score.mean(TOLERANCE)
