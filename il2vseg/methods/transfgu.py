"""TransFGU (Yin et al. 2022): categories of whole windows first, then their maps as labels of the tokens."""

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from il2vseg.learning.clustering import cosine_kmeans
from il2vseg.losses import class_maps
from il2vseg.methods.base import USAGE, Context, Method, PrototypeStage
from il2vseg.models.segmenter import Classifier


class Teacher(nn.Module):
    """The head and the prototypes as they were at the end of the last round."""

    prototypes: Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.head = deepcopy(classifier.head).requires_grad_(False)
        self.register_buffer("prototypes", classifier.local_prototypes.detach().clone())


@dataclass(frozen=True)
class Bootstrapping(PrototypeStage):
    """L_cat + 0.3 L_unc + L_emb train head and prototypes, which are the class embeddings.

    Departures beside those of the losses: the segmentation is the cosine of embeddings and prototypes over τ,
    where TransFGU has a transformer of class tokens and patches; prototypes start as the categories. The
    student goes on when the teacher is renewed, where it starts again. Maps come from the image, the
    segmentation from its colour-jittered copy; without crops, which change nothing for a head that sees each
    token alone.
    """

    steps: int = 300
    round: int = 100
    """Steps after which the teacher becomes what the student is; in the first there is none."""

    uses_views: ClassVar[bool] = True

    def derive(self, context: Context) -> dict[str, Tensor]:
        """The categories T (K, k)."""
        found = []
        for images in context.images.split(16):
            context.images = images
            found.append(class_maps.window_tokens(context.whitened(), context.store.grid).flatten(0, 1).cpu())
        categories, _ = cosine_kmeans(torch.cat(found), context.recipe.prototypes, context.generator)
        return {"categories": categories.to(context.device)}

    def first_prototypes(self, context: Context) -> Tensor:
        first: Tensor = context.classifier.head(context.derived["categories"])
        return first

    def parts(self, classifier: Classifier, generator: Generator) -> Teacher:
        return Teacher(classifier)

    def before_step(self, context: Context) -> None:
        if context.step and context.step % self.round == 0:
            classifier, teacher = context.classifier, teacher_of(context.classifier)
            teacher.head.load_state_dict(classifier.head.state_dict())
            teacher.prototypes.copy_(classifier.local_prototypes)

    def losses(self, context: Context) -> dict[str, Tensor]:
        classifier, classes = context.classifier, context.recipe.prototypes
        z_view, wrong = context.whitened_view(), None
        with torch.no_grad():
            maps = class_maps.class_maps(context.whitened(), context.derived["categories"])
            if context.step >= self.round:
                teacher = teacher_of(classifier)
                taught = classifier.logits(teacher.head(z_view), teacher.prototypes).softmax(-1)
                maps = 0.5 * maps + 0.5 * taught
            labels = maps.argmax(-1)
        if context.step >= self.round:
            renamed = torch.randperm(classes, generator=context.generator).to(context.device)
            wrong = renamed[labels]
        rise = class_maps.LAST_ALPHA - class_maps.FIRST_ALPHA
        alpha = class_maps.FIRST_ALPHA + rise * (context.step % self.round) / self.round
        logits = classifier.logits(context.embeddings(z_view), classifier.local_prototypes)
        context.observe(USAGE, torch.bincount(labels.flatten(), minlength=classes) / labels.numel())
        return {
            "category": class_maps.category_loss(logits, labels, wrong, alpha),
            "uncertainty": class_maps.UNCERTAINTY_WEIGHT * class_maps.uncertainty_loss(logits),
            "embedding": class_maps.embedding_loss(classifier.local_prototypes),
        }

    def after_step(self, context: Context) -> None:
        context.classifier.global_prototypes.copy_(context.classifier.local_prototypes)


def teacher_of(classifier: Classifier) -> Teacher:
    """The teacher among the parts of the classifier."""
    assert isinstance(classifier.parts, Teacher)
    return classifier.parts


@dataclass(frozen=True)
class TransFGU(Method):
    """One stage, from the categories."""

    bootstrapping: Bootstrapping = Bootstrapping()
