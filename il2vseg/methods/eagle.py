"""EAGLE (Kim et al. 2024): objects found by eigen-clusters of every image guide the contrast."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from il2vseg.losses import eigen_aggregation
from il2vseg.losses.correspondence import correspondence_loss
from il2vseg.methods.base import Context, Method, Stage
from il2vseg.methods.stego import Correspondence


@dataclass(frozen=True)
class EigenAggregation(Stage):
    """L_nce and L_corr train the head."""

    steps: int = 200
    samples: int = 144
    negatives: int = 3

    uses_views: ClassVar[bool] = True

    def losses(self, context: Context) -> dict[str, Tensor]:
        index = context.positions(self.samples)
        z, z_view = context.whitened(index), context.whitened_view(index)
        negatives = [context.other_images() for _ in range(self.negatives)]
        embeddings, embeddings_view = context.embeddings(z), context.embeddings(z_view)
        corr = correspondence_loss(embeddings, embeddings_view, z, z_view, negatives)
        objects = eigen_aggregation.eigen_aggregation_loss(
            embeddings, embeddings_view, context.rgb(index), context.recipe.prototypes
        )
        return {
            "corr": eigen_aggregation.CORRESPONDENCE_WEIGHT * corr,
            "objects": eigen_aggregation.OBJECT_WEIGHT * objects,
        }


@dataclass(frozen=True)
class Eagle(Method):
    """L_corr first: eigen-clusters of random embeddings are no objects."""

    correspondence: Correspondence = Correspondence(steps=100)
    eigen_aggregation: EigenAggregation = EigenAggregation()
