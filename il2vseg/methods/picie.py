"""PiCIE and PiCIE+H (Cho et al. 2021): clusters that survive photometric and geometric changes."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from il2vseg.learning.crops import crop, draw_crops
from il2vseg.losses import pixel_clusters
from il2vseg.methods.base import Context, Method
from il2vseg.methods.mdc import Clusters, PixelClusters, clusters_of
from il2vseg.models.segmenter import Classifier


@dataclass(frozen=True)
class Consistency(PixelClusters):
    """L_within + L_cross of two views train the head: Z⁽¹⁾ = G(f(x)) and Z⁽²⁾ = f(G(x')).

    Departures beside those of the losses: x' is the colour-jittered copy and x the image itself; G, a crop of
    the token grid, is drawn at every step, resamples frozen tokens instead of pixels, and is left out when
    tokens are clustered; the auxiliary head is a linear layer that starts as the identity.
    """

    smallest: float = 0.5
    """Smallest side of a crop, of the grid's."""
    auxiliary: int = 0
    """K₂, clusters behind the auxiliary head; 0 without it."""

    uses_views: ClassVar[bool] = True

    def parts(self, classifier: Classifier, generator: Generator) -> nn.ModuleList:
        parts = super().parts(classifier, generator)
        if self.auxiliary:
            dim = classifier.local_prototypes.shape[1]
            tail = nn.Linear(dim, dim)
            nn.init.eye_(tail.weight)
            nn.init.zeros_(tail.bias)
            parts.append(Clusters(classifier, tail, self.auxiliary))
        return parts

    def parameter_groups(self, classifier: Classifier) -> list[dict[str, Any]]:
        trained = [*classifier.head.parameters(), *classifier.parts.parameters()]
        return [{"params": [p for p in trained if p.requires_grad], "lr": self.lr}]

    def losses(self, context: Context) -> dict[str, Tensor]:
        grid, parts = context.store.grid, clusters_of(context)
        boxes = draw_crops(len(context.images), context.generator, self.smallest)
        z, z_view = context.whitened(), context.cropped_view(boxes)
        views = crop(context.embeddings(z), boxes, grid), context.embeddings(z_view)
        sizes = len(parts[0].first), self.auxiliary
        weights = pixel_clusters.balance(*sizes) if self.auxiliary else (1.0,)
        losses: dict[str, Tensor] = {}
        for clusters, weight, name in zip(parts, weights, ("", "_more"), strict=False):
            centroids = clusters.first, clusters.second
            with torch.no_grad():
                seen = crop(clusters.labeller(z), boxes, grid), clusters.labeller(z_view)
                labels = tuple(map(pixel_clusters.cluster_labels, seen, centroids))
            tailed = clusters.tail(views[0]), clusters.tail(views[1])
            within, cross = pixel_clusters.consistency_losses(tailed, (labels[0], labels[1]), centroids)
            losses |= {f"within{name}": weight * within, f"cross{name}": weight * cross}
        return losses


@dataclass(frozen=True)
class PiCIE(Method):
    """The prototypes are clusters of the embeddings that both views agree on."""

    trains_network: ClassVar[bool] = True

    consistency: Consistency = Consistency()


@dataclass(frozen=True)
class PiCIEH(Method):
    """PiCIE+H: with the auxiliary head and its 100 clusters."""

    trains_network: ClassVar[bool] = True

    consistency: Consistency = Consistency(auxiliary=100)
