"""Evaluation as the paper states it: mini-batch k-means by cosine on the embeddings, then a dense CRF.

Instead of the trained prototypes, C clusters of the embeddings F_c, C = classes of the data set, the same for
all images; scores upsampled bilinearly and refined by a dense CRF; Hungarian matching over one confusion
matrix. Weight and form of the low-level branch are those of the model. Our notes on the paper do not say what
k-means sees: here the frames given, without their masks, once in random order.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from il2vseg.base.errors import UserError
from il2vseg.base.images import resize_frame
from il2vseg.data import Dataset
from il2vseg.evaluation.crf import require_crf
from il2vseg.evaluation.prediction import frame_batches
from il2vseg.learning.clustering import minibatch_kmeans
from il2vseg.learning.draws import step_generator
from il2vseg.learning.surveyed import with_prototypes
from il2vseg.models.network import Predictor, frames_to_images
from il2vseg.models.segmenter import Segmenter

MAX_EMBEDDINGS = 2_000_000
"""Held at once; of more frames than have room for all of theirs, as many random ones of each are taken."""

BATCH = 32
"""Frames of a mini-batch of k-means."""


def as_in_paper(
    model: Predictor,
    frames: Sequence[Dataset],
    num_classes: int,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Segmenter:
    """The model with clusters of these frames as its classes; score it with `crf=True`.

    Args:
        frames: whose embeddings are clustered; masks are not looked at.
        progress: called with the number of frames done.
    Raises:
        UserError: the model has no embeddings (an export, a student), or pydensecrf is not installed.
    """
    require_crf()
    if not isinstance(model, Segmenter):
        raise UserError(
            "--protocol paper clusters embeddings, which only a checkpoint of `il2vseg train` has"
        )
    generator = step_generator(seed, "paper", 0)
    embeddings = sample_embeddings(model, frames, generator, progress)
    order = torch.randperm(len(embeddings), generator=generator)
    batches = (torch.cat([embeddings[i] for i in part]) for part in order.split(BATCH))
    prototypes = minibatch_kmeans(batches, num_classes, generator)
    return of_clusters(model, prototypes)


@torch.inference_mode()
def sample_embeddings(
    model: Segmenter,
    frames: Sequence[Dataset],
    generator: torch.Generator,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Tensor]:
    """Embeddings (S, d), on the CPU, of S random tokens of every frame."""
    per_frame = max(1, MAX_EMBEDDINGS // sum(map(len, frames)))
    found: list[Tensor] = []
    for batch in (batch for dataset in frames for batch in frame_batches(dataset, 8)):
        stacked = torch.from_numpy(np.stack([resize_frame(sample.frame, model.size) for sample in batch]))
        tokens = model.backbone(frames_to_images(stacked.to(model.device))).float().flatten(2).transpose(1, 2)
        drawn = torch.rand(tokens.shape[:2], generator=generator).argsort(1)[:, :per_frame]
        z = model.classifier.whitening(tokens, drawn.to(tokens.device))
        found += model.classifier.head(z).cpu()
        progress(len(found))
    return found


def of_clusters(model: Segmenter, prototypes: Tensor) -> Segmenter:
    """The same model with other prototypes (C, d), which do not adapt, and bilinear upsampling."""
    spec, classifier = model.spec, with_prototypes(model.classifier, prototypes.to(model.device))
    names = tuple(f"cluster {i}" for i in range(len(prototypes)))
    low_level = replace(spec.low_level, refine=0)
    spec = replace(spec, class_names=names, adapt=None, low_level=low_level, alpha=model.alpha)
    segmenter: Segmenter = Segmenter(model.backbone, classifier, spec).eval()
    return segmenter
