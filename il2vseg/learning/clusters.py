"""What the clusters of a model are in some footage, measured without masks: how much of it, where, how pure.

*Purity* in two numbers. `spread`: how unlike the embeddings inside a cluster are. `agreement`: how alike the
cluster looks in the different scenes that it occurs in, by the backbone's tokens after the image's own mean
is taken off them. A cluster of white floats in one scene and bright water in another has a low agreement and
should not be named as either.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from il2vseg.data.dataset import spread as spread_evenly
from il2vseg.learning.store import FeatureStore
from il2vseg.models.names import FILE_NAME as NAMES_FILE
from il2vseg.models.names import NamedClusters, Views
from il2vseg.models.segmenter import Classifier
from il2vseg.models.spec import AdaptSpec, ModelSpec

SCENES = 8
"""Consecutive parts of the footage that are compared."""

MIN_SHARE = 0.02
"""Share of a cluster that a scene must hold to be compared, and at least MIN_TOKENS of it."""

MIN_TOKENS = 20

SURVEYED_IMAGES = 600

MIXED_BELOW = 0.6
"""Agreement below which a cluster probably holds several things."""


@dataclass(frozen=True)
class ClusterFacts:
    """The K clusters of a model in some footage.

    Attributes:
        share: (K,) of all tokens. height: (K,) mean place in the frame, 0 = top, 1 = bottom.
        scenes: (K, S), share of all tokens that a cluster has in each of S scenes.
        tokens: (K, S, D), mean token of the backbone. centred: (K, S, D), the same less each image's mean.
        spread: (K,), 1 − length of the mean of the unit embeddings: 0 = all alike.
        agreement: (K,), mean cosine of the centred mean tokens of different scenes; NaN where a cluster
            occurs in one scene only.
    """

    share: Tensor
    height: Tensor
    scenes: Tensor
    tokens: Tensor
    centred: Tensor
    spread: Tensor
    agreement: Tensor

    def order(self) -> Tensor:
        """The canonical order of the clusters (K,): from the top of the frames to their bottom, absent ones
        last. It says nothing of seeds and numbers."""
        return torch.where(self.share > 0, self.height, torch.inf).argsort(stable=True)

    def ordered(self, order: Tensor) -> "ClusterFacts":
        """The facts of the clusters `order`."""
        return ClusterFacts(**{name: values[order] for name, values in vars(self).items()})

    def purity(self) -> list[str]:
        """A few words per cluster: "spread 0.22, agreement 0.93", and "mixed?" where it probably is."""
        words = []
        for share, spread, agreement in zip(self.share, self.spread, self.agreement, strict=True):
            if share == 0:
                words.append("absent")
                continue
            scenes = "one scene" if agreement.isnan() else f"agreement {agreement:.2f}"
            mixed = ", mixed?" if agreement < MIXED_BELOW else ""
            words.append(f"spread {spread:.2f}, {scenes}{mixed}")
        return words


class ClusterSurvey:
    """Accumulates `ClusterFacts`, some images at a time."""

    def __init__(self, classifier: Classifier, adapt: AdaptSpec | None) -> None:
        """Args:
        adapt: how prototypes adapt to the image; the names of clusters play no part.
        """
        self.classifier = classifier
        self.adapt = adapt
        k, d = classifier.global_prototypes.shape
        dim = classifier.whitening.basis.shape[1]
        self._count = torch.zeros(SCENES, k, dtype=torch.float64)
        self._rows = torch.zeros(k, dtype=torch.float64)
        self._embeddings = torch.zeros(k, d, dtype=torch.float64)
        self._tokens = torch.zeros(SCENES, k, dim, dtype=torch.float64)
        self._centred = torch.zeros(SCENES, k, dim, dtype=torch.float64)

    @torch.no_grad()
    def update(self, tokens: Tensor, scene: int) -> None:
        """Add the tokens (B, D, h, w) of images of one scene, 0 to SCENES − 1."""
        h, w = tokens.shape[-2:]
        flat = tokens.flatten(2).transpose(1, 2)
        scores = self.classifier(tokens, self.adapt)
        member = F.one_hot(scores.argmax(1).flatten(), scores.shape[1]).double()
        embeddings = F.normalize(self.classifier.head(self.classifier.whitening(flat)), dim=-1)
        centred = flat - flat.mean(1, keepdim=True)
        rows = ((torch.arange(h, device=tokens.device) + 0.5) / h).repeat_interleave(w).repeat(len(tokens))
        self._count[scene] += member.sum(0).cpu()
        self._rows += (member.T @ rows.double()).cpu()
        self._embeddings += (member.T @ embeddings.flatten(0, 1).double()).cpu()
        self._tokens[scene] += (member.T @ flat.flatten(0, 1).double()).cpu()
        self._centred[scene] += (member.T @ centred.flatten(0, 1).double()).cpu()

    def facts(self) -> ClusterFacts:
        """What was seen so far."""
        count = self._count.sum(0)
        some, each = count.clamp_min(1.0), self._count.clamp_min(1.0)[:, :, None]
        return ClusterFacts(
            share=(count / count.sum().clamp_min(1.0)).float(),
            scenes=(self._count / count.sum().clamp_min(1.0)).T.float(),
            height=(self._rows / some).float(),
            tokens=(self._tokens / each).transpose(0, 1).float(),
            centred=(self._centred / each).transpose(0, 1).float(),
            spread=(1.0 - self._embeddings.norm(dim=1) / some).float(),
            agreement=torch.stack([self._agreement(k) for k in range(len(count))]).float(),
        )

    def _agreement(self, cluster: int) -> Tensor:
        """Mean cosine over pairs of scenes, weighted by the tokens of both."""
        count = self._count[:, cluster]
        scenes = count >= max(MIN_TOKENS, MIN_SHARE * float(count.sum()))
        if scenes.sum() < 2:
            return torch.tensor(torch.nan, dtype=torch.float64)
        directions, weights = F.normalize(self._centred[scenes, cluster], dim=1), count[scenes]
        pairs = torch.outer(weights, weights).fill_diagonal_(0.0)
        return (directions @ directions.T * pairs).sum() / pairs.sum()


def save_names(folder: Path, spec: ModelSpec, facts: ClusterFacts) -> None:
    """Write FOLDER/names.yaml: the names that the spec has for the clusters of the facts."""
    least = MIN_SHARE * facts.share[:, None]
    cluster, scene = torch.nonzero((facts.scenes > 0) & (facts.scenes >= least), as_tuple=True)
    views = Views(
        cluster, facts.scenes[cluster, scene], facts.tokens[cluster, scene], facts.centred[cluster, scene]
    )
    NamedClusters(spec.backbone, spec.weights_sha256, spec.class_names, views).save(folder / NAMES_FILE)


def scene_of(index: int, count: int) -> int:
    """The scene of image `index` of `count` in the order of the footage."""
    return index * SCENES // count


@torch.no_grad()
def survey_store(classifier: Classifier, store: FeatureStore, adapt: AdaptSpec | None) -> ClusterFacts:
    """Survey up to SURVEYED_IMAGES training images, evenly spread."""
    survey = ClusterSurvey(classifier, adapt)
    images: Iterable[int] = spread_evenly(len(store), min(len(store), SURVEYED_IMAGES))
    for index in images:
        tokens = store.tokens(torch.tensor([index]))
        survey.update(tokens.transpose(1, 2).unflatten(2, store.grid), scene_of(index, len(store)))
    return survey.facts()
