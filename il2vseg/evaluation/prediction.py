"""Running a model over labelled frames: batches of frames in, cluster ids out."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Frame, Labels, resize_frame
from il2vseg.data import Dataset, Sample

if TYPE_CHECKING:
    from il2vseg.models.network import Predictor


class Reading(TypedDict, total=False):
    """How frames are read: `flip`, average the scores with those of the mirrored frame; `crf`, refine with a
    dense CRF; `batch_size`, frames per forward pass."""

    flip: bool
    crf: bool
    batch_size: int


def frame_batches(dataset: Dataset, size: int) -> Iterator[list[Sample]]:
    """Yield the samples of a data set, `size` at a time."""
    batch: list[Sample] = []
    for sample in dataset:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _predict(
    model: "Predictor", frames: Sequence[Frame], flip: bool
) -> tuple[list[Labels], NDArray[np.float32]]:
    """Segment frames of the model's size: cluster ids (H, W) each, and scores (B, C, gh, gw)."""
    import torch

    stacked = torch.from_numpy(np.stack(frames))
    labels, scores = model.predict(stacked)
    if flip:
        mirrored = model.predict(stacked.flip(2))[1].flip(3)
        scores = (scores + mirrored) / 2
        labels = model.label(scores, stacked)
    return list(labels.cpu().numpy()), np.asarray(scores.cpu().numpy(), dtype=np.float32)


def predictions(
    model: "Predictor", dataset: Dataset, **reading: Unpack[Reading]
) -> Iterator[tuple[list[Sample], list[Labels]]]:
    """Yield batches with their predicted cluster ids at the model's size."""
    from contextlib import ExitStack

    from il2vseg.evaluation.crf import CrfPool

    with ExitStack() as stack:
        pool = stack.enter_context(CrfPool()) if reading.get("crf") else None
        for batch in frame_batches(dataset, reading.get("batch_size", 8)):
            frames = [resize_frame(sample.frame, model.size) for sample in batch]
            labels, scores = _predict(model, frames, reading.get("flip", False))
            if pool is not None:
                labels = list(pool.refine(zip(frames, scores, strict=True)))
            yield batch, labels
