"""SlotCon (Wen et al. 2022): prototypes group pixels alike in two views, and groups contrast."""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from il2vseg.learning.crops import crop, draw_crops, overlap
from il2vseg.learning.draws import draw_batch
from il2vseg.losses import slots
from il2vseg.methods.base import USAGE, Context, Method, PrototypeStage
from il2vseg.models.segmenter import Classifier


class Student(nn.Module):
    """What learns by gradients, beside the local prototypes; the classifier itself is the teacher.

    Attributes:
        head: of the student. predictor: of its slots, d -> 2d -> d. centre: c of the teacher (K,).
    """

    centre: Tensor

    def __init__(self, classifier: Classifier, generator: Generator) -> None:
        super().__init__()
        count, dim = classifier.local_prototypes.shape
        self.head = deepcopy(classifier.head)
        self.predictor = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        for parameter in self.predictor.parameters():
            if parameter.ndim == 2:
                nn.init.trunc_normal_(parameter, std=0.02, generator=generator)
            else:
                nn.init.zeros_(parameter)
        self.register_buffer("centre", torch.zeros(count))


@dataclass(frozen=True)
class SlotGroups(PrototypeStage):
    """λ_g · grouping + (1 − λ_g) · contrast, each of either view against the other, train the student.

    Departures beside those of the losses: views are crops of the image and of its colour-jittered copy, of
    frozen tokens those of their grids, resampled there; they always meet, which SlotCon draws until it is so.
    K is the number of prototypes, which start from our clusters. The teacher's centre is of images drawn for
    that; no batch norm in the predictor. On frozen tokens the teacher follows by a constant share; of a
    network that is trained whole by SlotCon's schedule, but its batch norm is in evaluation mode, by running
    means that follow as the weights do, where SlotCon's normalises by the batch.
    """

    steps: int = 300
    ema: float = 0.99
    """Share of the teacher that a step keeps; of a network that is trained whole, the first step."""
    centre_ema: float = 0.9
    smallest: float = 0.6
    """Smallest side of a crop, of the grid's: above a half, two of them meet."""

    uses_views: ClassVar[bool] = True

    def parts(self, classifier: Classifier, generator: Generator) -> Student:
        return Student(classifier, generator)

    def before_step(self, context: Context) -> None:
        context.images = draw_batch(len(context.store), context.recipe.batch, context.generator)
        classifier, student = context.classifier, student_of(context.classifier)
        seen = slots.similarities(classifier.head(context.whitened()), classifier.global_prototypes)
        student.centre.lerp_(seen.mean((0, 1)), 1.0 - self.centre_ema)

    def losses(self, context: Context) -> dict[str, Tensor]:
        classifier, grid = context.classifier, context.store.grid
        student = student_of(classifier)
        boxes = [draw_crops(len(context.images), context.generator, self.smallest) for _ in range(2)]

        def views() -> tuple[Tensor, Tensor]:
            return context.cropped(boxes[0]), context.cropped_view(boxes[1])

        seen = views()
        learning = [context.embeddings(x, student.head) for x in seen]
        with torch.no_grad():  # a network that is trained whole is the teacher here
            teaching = [classifier.head(x) for x in (seen if context.live is None else views())]
        q = [slots.similarities(e, classifier.local_prototypes) for e in learning]
        k = [slots.similarities(e, classifier.global_prototypes) for e in teaching]
        meeting = overlap(boxes[0], boxes[1])
        grouping = contrast = learning[0].new_zeros(())
        for a, b in ((0, 1), (1, 0)):
            here, there = (crop(x[i], meeting[i], grid) for x, i in ((q, a), (k, b)))
            grouping = grouping + slots.grouping_loss(here, there, student.centre)
            predicted = student.predictor(slots.slots(learning[a], q[a]))
            at_teacher = slots.present(k[b])
            both = slots.present(q[a]) & at_teacher
            contrast = contrast + slots.slot_contrast(
                predicted, slots.slots(teaching[b], k[b]), both, at_teacher
            )
        labels = k[0].argmax(-1).flatten()
        context.observe(USAGE, torch.bincount(labels, minlength=k[0].shape[-1]) / len(labels))
        weight = slots.GROUPING_WEIGHT
        return {"grouping": weight * grouping, "slots": (1.0 - weight) * contrast}

    def parameter_groups(self, classifier: Classifier) -> list[dict[str, Any]]:
        return [
            {"params": list(classifier.parts.parameters()), "lr": self.lr},
            {"params": [classifier.local_prototypes], "lr": self.lr_prototypes},
        ]

    def after_step(self, context: Context) -> None:
        classifier, keep = context.classifier, self.ema
        if context.live is not None:
            keep = 1.0 - (1.0 - self.ema) * (1.0 + math.cos(math.pi * context.step / self.steps)) / 2.0
            context.live.follow(keep)
        student = student_of(classifier)
        for slow, fast in zip(classifier.head.parameters(), student.head.parameters(), strict=True):
            slow.lerp_(fast, 1.0 - keep)
        classifier.global_prototypes.lerp_(classifier.local_prototypes, 1.0 - keep)


def student_of(classifier: Classifier) -> Student:
    """The part of the classifier that learns."""
    assert isinstance(classifier.parts, Student)
    return classifier.parts


@dataclass(frozen=True)
class SlotCon(Method):
    """The model is the teacher: its network where one is trained, its head, and its prototypes as classes."""

    trains_network: ClassVar[bool] = True
    teaches_network: ClassVar[bool] = True

    slot_groups: SlotGroups = SlotGroups()
