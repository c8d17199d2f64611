"""The clusters of a checkpoint on the tokens of some frames, held in memory: labels, facts, divisions.

The backbone runs once per frame, through the cache that training fills; everything else is matrix products.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from il2vseg.base.errors import UserError
from il2vseg.base.ignore import IgnoreMask
from il2vseg.base.images import Frame, resize_frame
from il2vseg.learning.clustering import OVER_CLUSTERING, over_clustered_prototypes
from il2vseg.learning.clusters import ClusterFacts, ClusterSurvey, save_names, scene_of
from il2vseg.learning.draws import step_generator
from il2vseg.learning.features import FeatureCache, nearest_kept
from il2vseg.models import lowlevel
from il2vseg.models.adapt import class_membership
from il2vseg.models.checkpoint import save_checkpoint
from il2vseg.models.network import frames_to_images
from il2vseg.models.segmenter import Classifier, Segmenter, low_level_scores

if TYPE_CHECKING:
    from il2vseg.data import Dataset

MAX_CLUSTERS = 255
BATCH = 4


def read_tokens(
    segmenter: Segmenter,
    dataset: "Dataset",
    folder: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[NDArray[np.float16], list[str]]:
    """Tokens (n, N, D) of the readable frames of a data set, from the cache of training where it has them.

    Args:
        folder: where caches live, None for the usual place. progress: told how many frames are done.
    Returns:
        the tokens, and the names of the frames.
    """
    backbone = segmenter.backbone
    cache = FeatureCache(backbone, segmenter.spec.weights_sha256, folder)
    names: list[str] = []
    pending: list[Frame] = []
    tokens: list[NDArray[np.float16]] = []

    def flush() -> None:
        tokens.extend(np.load(path) for path in cache.compute(pending))
        pending.clear()
        progress(len(tokens))

    for sample in dataset:
        names.append(sample.name)
        pending.append(resize_frame(sample.frame, backbone.size))
        if len(pending) == BATCH:
            flush()
    if pending:
        flush()
    return np.stack(tokens), names


def with_prototypes(classifier: Classifier, prototypes: Tensor) -> Classifier:
    """The same whitening and head with other prototypes (K, d)."""
    other = Classifier(classifier.whitening, len(prototypes), classifier.temperature)
    other.head = classifier.head
    other.local_prototypes = nn.Parameter(prototypes.clone())
    other.global_prototypes = prototypes.clone()
    return other.eval()


class Surveyed:
    """Frames' tokens, and what a classifier makes of them.

    Attributes:
        classifier: the present one; see `use`. grid: (h, w) of the tokens.
    """

    def __init__(
        self, segmenter: Segmenter, tokens: NDArray[np.float16], ignore: IgnoreMask | None = None
    ) -> None:
        """Args:
        tokens: (n, N, D), of n frames in their order. ignore: the own vessel, which shows no cluster.
        """
        self.classifier = segmenter.classifier
        self.grid = segmenter.backbone.grid
        self.ignored = None if ignore is None else ignore.cells(self.grid)
        stand_in = None if self.ignored is None else nearest_kept(self.ignored).ravel()
        self._tokens = tokens if stand_in is None else tokens[:, stand_in]
        self._segmenter = segmenter
        self._cells: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self._tokens)

    def use(self, classifier: Classifier, cells: NDArray[np.uint8] | None = None) -> None:
        """Go on with another classifier; `cells`: those that it was found to give."""
        self.classifier, self._cells = classifier, cells

    def _batch(self, indices: Iterable[int]) -> Tensor:
        tokens = torch.from_numpy(self._tokens[list(indices)]).float()
        on_grid: Tensor = tokens.transpose(1, 2).unflatten(2, self.grid)
        return on_grid

    @torch.no_grad()
    def cells(self) -> NDArray[np.uint8]:
        """The cluster of every token (n, h, w), whatever the clusters are called; 255 on the own vessel."""
        if self._cells is None:
            parts = [
                self.classifier(self._batch(range(i, min(i + BATCH, len(self)))), self._segmenter.adapt)
                for i in range(0, len(self), BATCH)
            ]
            cells = np.asarray(torch.cat([p.argmax(1) for p in parts]).numpy(), np.uint8)
            if self.ignored is not None:
                cells[:, self.ignored] = 255
            self._cells = cells
        return self._cells

    def facts(self) -> ClusterFacts:
        """What the clusters are in these frames."""
        survey = ClusterSurvey(self.classifier, self._segmenter.adapt)
        for i in range(len(self)):
            survey.update(self._batch([i]), scene_of(i, len(self)))
        return survey.facts()

    def _embeddings(self, index: int, cluster: int) -> Tensor:
        """Unit embeddings (M, d) of the tokens of one frame that belong to a cluster."""
        inside = torch.from_numpy(self.cells()[index].ravel() == cluster)
        whitening = self.classifier.whitening
        z = self.classifier.head(whitening(self._batch([index]).flatten(2).transpose(1, 2))[0, inside])
        return F.normalize(z, dim=1)

    @torch.no_grad()
    def divide(self, cluster: int, parts: int = 2) -> Tensor:
        """Prototypes (parts, d) of the clusters inside a cluster, the same whenever they are asked for.

        Raises:
            UserError: it is too small, or there would be too many clusters.
        """
        clusters = len(self.classifier.global_prototypes)
        if clusters + parts - 1 > MAX_CLUSTERS:
            raise UserError(f"there are {clusters} clusters; more than {MAX_CLUSTERS} are not possible")
        z = torch.cat([self._embeddings(i, cluster) for i in range(len(self))])
        if len(torch.unique(z, dim=0)) < OVER_CLUSTERING * parts:
            raise UserError(f"cluster {cluster} is too small to be divided into {parts}")
        return over_clustered_prototypes(z, parts, step_generator(0, "divide", cluster))

    @torch.no_grad()
    def labels(self, index: int, frame: Frame, names: Iterable[str]) -> NDArray[np.uint8]:
        """The cluster of every pixel of a frame (H, W) of the model's size; see `Segmenter.predict`.

        Args:
            names: of the clusters; those with the same name are one class, which adapts to the image.
        """
        segmenter = self._segmenter
        spec, grid = segmenter.spec.low_level, segmenter.grid
        frames = torch.from_numpy(frame)[None]
        images = frames_to_images(frames)
        p = self.classifier(self._batch([index]), segmenter.adapt, class_membership(list(names)))
        p = lowlevel.upsample(p, grid)
        if segmenter.alpha:
            colours = lowlevel.pool_colours(images, grid)
            p = lowlevel.fuse(p, low_level_scores(colours, p, spec), segmenter.alpha)
        return np.asarray(segmenter.label(p, frames)[0].numpy(), np.uint8)


def divide_checkpoint(
    folder: Path,
    segmenter: Segmenter,
    dataset: "Dataset",
    wanted: Mapping[int, int],
    ignore: IgnoreMask | None = None,
) -> None:
    """Divide clusters of a checkpoint, one after the other, and write it and its names.yaml.

    The first part keeps the number of the whole, the others come after all clusters; all keep its name.

    Args:
        segmenter: what was loaded from the folder. wanted: number of parts by cluster.
    Raises:
        UserError: no such cluster, or one that is too small.
    """
    tokens, _ = read_tokens(segmenter, dataset)
    surveyed, names = Surveyed(segmenter, tokens, ignore), list(segmenter.class_names)
    for cluster, parts in wanted.items():
        if not 0 <= cluster < len(segmenter.class_names):
            raise UserError(f"--divide {cluster}: there are clusters 0 to {len(segmenter.class_names) - 1}")
        found = surveyed.divide(cluster, parts)
        prototypes = surveyed.classifier.global_prototypes.clone()
        prototypes[cluster] = found[0]
        surveyed.use(with_prototypes(segmenter.classifier, torch.cat([prototypes, found[1:]])))
        own = names[cluster] != f"class {cluster}"
        names += [names[cluster] if own else f"class {len(names) + i}" for i in range(parts - 1)]
    spec = dataclasses.replace(segmenter.spec, class_names=tuple(names))
    save_checkpoint(folder, surveyed.classifier, spec, segmenter.backbone)
    save_names(folder, spec, surveyed.facts())
