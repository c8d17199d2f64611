"""PriMaPs-EM (Hahn et al. 2024): prototypes fitted to masks from the image's own principal directions."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from il2vseg.losses import principal_masks
from il2vseg.methods.base import USAGE, Context, Method, Stage
from il2vseg.models.segmenter import Classifier


@dataclass(frozen=True)
class MaskFitting(Stage):
    """E: global prototypes label the masks of the images. M: local ones learn that from the jittered copies.

    Departures beside those of the masks: the slow prototypes follow at every step, by the tenth root of the
    paper's 0.98 in every tenth; they are those of prediction; they start from our clusters; cosines over τ.
    The head stays what it is, the identity.
    """

    steps: int = 600
    lr: float = 5e-3
    """Learning rate of the prototypes."""
    ema: float = 0.98**0.1
    """Share of the global prototypes that a step keeps."""

    trains_prototypes: ClassVar[bool] = True
    uses_views: ClassVar[bool] = True

    def derive(self, context: Context) -> dict[str, Tensor]:
        """The masks (n, N) of all images."""
        masks = []
        for images in context.images.split(16):
            context.images = images
            masks.append(principal_masks.principal_masks(context.whitened()).to(torch.int8))
        return {"masks": torch.cat(masks)}

    def losses(self, context: Context) -> dict[str, Tensor]:
        classifier, classes = context.classifier, context.recipe.prototypes
        masks = context.derived["masks"][context.images].long()
        with torch.no_grad():
            logits = classifier.logits(classifier.head(context.whitened()), classifier.global_prototypes)
            labels = principal_masks.voted_labels(masks, logits.argmax(2), classes)
            known = labels[labels >= 0]
            context.observe(USAGE, torch.bincount(known, minlength=classes) / max(len(known), 1))
            embeddings = classifier.head(context.whitened_view())
        logits = classifier.logits(embeddings, classifier.local_prototypes)
        return {"focal": principal_masks.focal_loss(logits, labels)}

    def parameter_groups(self, classifier: Classifier) -> list[dict[str, Any]]:
        return [{"params": [classifier.local_prototypes], "lr": self.lr}]

    def after_step(self, context: Context) -> None:
        classifier = context.classifier
        classifier.global_prototypes.lerp_(classifier.local_prototypes, 1.0 - self.ema)


@dataclass(frozen=True)
class PriMaPs(Method):
    """One stage, from clusters of the whitened tokens."""

    mask_fitting: MaskFitting = MaskFitting()
