"""How far a student says what its teacher says, on frames that it did not learn from. No labels anywhere."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from il2vseg.base.images import decode_frame
from il2vseg.data.dataset import spread
from il2vseg.evaluation.metrics import IGNORE, Confusion, score
from il2vseg.learning.targets import Targets
from il2vseg.models.student import Student

KNOWN = 128
"""A cell is compared where the teacher's scores (times 255) add up to so much: elsewhere it is unsure."""


def held_out(total: int, wanted: int) -> list[int]:
    """Frames to keep from a student, evenly spread: of ten one at most, and none of fewer than five.

    >>> held_out(281, 3), held_out(8, 20), held_out(4, 20)
    ([46, 140, 234], [4], [])
    """
    return spread(total, min(wanted, max(1, total // 10))) if total >= 5 and wanted else []


def agreement(student: Student, frames: Sequence[bytes], targets: Targets) -> dict[str, Any]:
    """Compare a student with the targets of its teacher, cell by cell.

    Args:
        frames: encoded images of the student's size, at least one, in the order of the targets.
    Returns:
        plain values: frames; agreement, % of the cells where the teacher is sure; IoU of every class with
        the teacher's in %, None for a class that the teacher does not show.
    """
    names = targets.class_names
    confusion = Confusion(len(names), len(names))
    for data, scores in zip(frames, targets.scores, strict=True):
        found = student.predict(torch.from_numpy(decode_frame(data))[None])[1][0].argmax(0)
        known = scores.sum(0, dtype=np.int64) >= KNOWN
        said = np.where(known, scores.argmax(0), IGNORE).astype(np.uint8)
        confusion.update(found.numpy().astype(np.uint8), said)
    found_scores = score(confusion.counts, np.arange(len(names)))
    ious = dict(zip(names, found_scores.per_class_iou, strict=True))
    return {"frames": len(frames), "agreement": found_scores.accuracy, "per_class_iou": ious}


def sentence(values: dict[str, Any]) -> str:
    """What `agreement` found, for people.

    >>> sentence({"frames": 2, "agreement": 93.21, "per_class_iou": {"water": 97.0, "boat": None}})
    '2 frames that it did not learn from: the student agrees with its teacher on 93.2 % (IoU: water 97)'
    """
    frames = "1 frame" if values["frames"] == 1 else f"{values['frames']} frames"
    ious = ", ".join(f"{name} {iou:.0f}" for name, iou in values["per_class_iou"].items() if iou is not None)
    return (
        f"{frames} that it did not learn from: the student agrees with its teacher on "
        f"{values['agreement']:.1f} % (IoU: {ious})"
    )
