"""IIC (Ji et al. 2019): the head's class posteriors tell as much as possible about each other."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from il2vseg.losses.mutual_information import information_loss
from il2vseg.methods.base import USAGE, Context, Method, PrototypeStage
from il2vseg.models.segmenter import Classifier


class OverClustering(nn.Module):
    """The auxiliary head: more classes than are wanted, from random prototypes (K', d)."""

    def __init__(self, count: int, dim: int, generator: Generator) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(count, dim, generator=generator))


@dataclass(frozen=True)
class Information(PrototypeStage):
    """−I of the main head and of the over-clustering one, in every step; both train the embeddings.

    Departures beside those of the loss: the heads are cosines to prototypes over τ; the main one starts from
    our clusters; one sub-head of each, where IIC has several and takes the best; both heads in a step, where
    they take turns.
    """

    steps: int = 300
    lr_prototypes: float = 5e-3
    over_clustering: int = 5
    """Classes of the auxiliary head per prototype (IIC has 15 for 3)."""
    radius: int = 1
    """Of the neighbourhood, in tokens."""

    uses_views: ClassVar[bool] = True

    def parts(self, classifier: Classifier, generator: Generator) -> OverClustering:
        count, dim = classifier.local_prototypes.shape
        return OverClustering(self.over_clustering * count, dim, generator)

    def losses(self, context: Context) -> dict[str, Tensor]:
        classifier, parts = context.classifier, context.classifier.parts
        assert isinstance(parts, OverClustering)
        embeddings = context.embeddings(context.whitened())
        embeddings_view = context.embeddings(context.whitened_view())

        def loss(prototypes: Tensor) -> tuple[Tensor, Tensor]:
            p, p_view = (classifier.logits(e, prototypes).softmax(-1) for e in (embeddings, embeddings_view))
            return information_loss(p, p_view, context.store.grid, self.radius), p

        main, p = loss(classifier.local_prototypes)
        labels = p.detach().argmax(-1).flatten()
        context.observe(USAGE, torch.bincount(labels, minlength=p.shape[-1]) / len(labels))
        return {"information": main, "over": loss(parts.prototypes)[0]}

    def parameter_groups(self, classifier: Classifier) -> list[dict[str, Any]]:
        prototypes = [classifier.local_prototypes, *classifier.parts.parameters()]
        return [
            {"params": list(classifier.head.parameters()), "lr": self.lr},
            {"params": prototypes, "lr": self.lr_prototypes},
        ]

    def after_step(self, context: Context) -> None:
        context.classifier.global_prototypes.copy_(context.classifier.local_prototypes)


@dataclass(frozen=True)
class IIC(Method):
    """One stage, from clusters of the whitened tokens."""

    trains_network: ClassVar[bool] = True

    information: Information = Information()
