"""STEGO (Hamilton et al. 2022): feature correspondence distillation."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from il2vseg.losses.correspondence import correspondence_loss
from il2vseg.methods.base import Context, Method, Stage


@dataclass(frozen=True)
class Correspondence(Stage):
    """L_corr trains the head."""

    steps: int = 300
    samples: int = 121
    negatives: int = 3

    uses_views: ClassVar[bool] = True

    def losses(self, context: Context) -> dict[str, Tensor]:
        positions = context.positions_per_image(self.samples)
        z, z_view = context.whitened(positions), context.whitened_view(positions)
        negatives = [context.other_images() for _ in range(self.negatives)]
        embeddings, embeddings_view = context.embeddings(z), context.embeddings(z_view)
        return {"corr": correspondence_loss(embeddings, embeddings_view, z, z_view, negatives)}


@dataclass(frozen=True)
class Stego(Method):
    """The prototypes are clusters of the embeddings that L_corr made."""

    correspondence: Correspondence = Correspondence()
