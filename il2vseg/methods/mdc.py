"""MDC (Cho et al. 2021): DeepCluster for pixels, whose labels are clusters of the embeddings."""

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from il2vseg.learning.clustering import cosine_kmeans
from il2vseg.learning.draws import draw_batch
from il2vseg.losses import pixel_clusters
from il2vseg.methods.base import Context, Method, Stage
from il2vseg.models.segmenter import Classifier


class Clusters(nn.Module):
    """K clusters of each view, and what labels by them.

    Attributes:
        tail: trained layer (d -> d) between the embeddings and the clusters.
        labeller: head and tail as they were when the clusters were found.
        first, second: centroids (K, d) of the images and of their jittered copies.
    """

    first: Tensor
    second: Tensor

    def __init__(self, classifier: Classifier, tail: nn.Module, count: int) -> None:
        super().__init__()
        dim = classifier.local_prototypes.shape[1]
        self.tail = tail
        self.labeller = deepcopy(nn.Sequential(classifier.head, tail)).requires_grad_(False)
        for view in ("first", "second"):
            self.register_buffer(view, torch.zeros(count, dim))

    def renew(self, head: nn.Module, z: Tensor, z_view: Tensor | None, generator: Generator) -> None:
        """Cluster the tokens z (M, k) and those of the copies, as the head sees them now."""
        self.labeller.load_state_dict(nn.Sequential(head, self.tail).state_dict())
        for centroids, tokens in ((self.first, z), (self.second, z_view)):
            if tokens is not None:
                found, _ = cosine_kmeans(
                    self.labeller(tokens).cpu(), len(centroids), generator, iterations=10
                )
                centroids.copy_(found)


@dataclass(frozen=True)
class PixelClusters(Stage):
    """L_clust trains the head; every so many steps, the epoch of the paper, tokens are clustered anew."""

    steps: int = 300
    every: int = 50
    """Steps between two clusterings."""
    images: int = 64
    samples: int = 256
    """Images that a clustering looks at, and tokens of each."""

    def parts(self, classifier: Classifier, generator: Generator) -> nn.ModuleList:
        return nn.ModuleList([Clusters(classifier, nn.Identity(), len(classifier.local_prototypes))])

    def before_step(self, context: Context) -> None:
        if context.step % self.every:
            return
        context.images = draw_batch(len(context.store), self.images, context.generator)
        index = context.positions_per_image(self.samples)
        z = context.whitened(index).flatten(0, 1)
        z_view = context.whitened_view(index).flatten(0, 1) if self.uses_views else None
        for clusters in clusters_of(context):
            clusters.renew(context.classifier.head, z, z_view, context.generator)

    def losses(self, context: Context) -> dict[str, Tensor]:
        (clusters,), z = clusters_of(context), context.whitened()
        with torch.no_grad():
            labels = pixel_clusters.cluster_labels(clusters.labeller(z), clusters.first)
        embeddings = context.embeddings(z)
        return {"clusters": pixel_clusters.cluster_loss(embeddings, labels, clusters.first)}


def clusters_of(context: Context) -> list[Clusters]:
    """The parts of a stage that clusters."""
    parts = context.classifier.parts
    assert isinstance(parts, nn.ModuleList)
    return [clusters for clusters in parts if isinstance(clusters, Clusters)]


@dataclass(frozen=True)
class MDC(Method):
    """The prototypes are clusters of the embeddings that L_clust made."""

    trains_network: ClassVar[bool] = True

    clusters: PixelClusters = PixelClusters()
