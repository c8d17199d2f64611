"""names.yaml: the names of clusters by what the clusters look like, beside the checkpoint.

Numbers of clusters mean nothing: another seed, or another machine with the same seed, finds the same things
under other numbers. What stays is the backbone, so a name is kept with the mean tokens of its cluster, one
for each scene that it occurs in, in the backbone's own space: before any whitening or head that was trained.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from il2vseg.base.classes import UNSURE
from il2vseg.base.errors import UserError
from il2vseg.base.files import write_text
from il2vseg.models.segmenter import Classifier

FILE_NAME = "names.yaml"

HEADER = "# Names of clusters by what they look like; il2vseg-name --from this file carries them over.\n"

MIN_LIKENESS = 0.4
"""Cosine to the closest named view below which a view is like none of them."""

MIN_VOTING = 0.5
"""Share of a cluster whose views must be like named ones."""

MIN_VOTES = 0.6
"""Share of the votes that the name of a cluster must have."""


@dataclass(frozen=True)
class Views:
    """How V views, clusters in one scene each, look to the backbone.

    Attributes:
        cluster: (V,) which cluster it is. share: (V,) of all tokens of the footage.
        tokens: (V, D), mean token. centred: (V, D), the same less each image's mean token.
    """

    cluster: Tensor
    share: Tensor
    tokens: Tensor
    centred: Tensor

    def embeddings(self, classifier: Classifier) -> Tensor:
        """Where a model has them, (V, d) of unit length."""
        whitening = classifier.whitening
        tokens = self.centred if whitening.centre else self.tokens
        return F.normalize(classifier.head((tokens - whitening.mean) @ whitening.basis.T), dim=1)


@dataclass(frozen=True)
class NamedClusters:
    """The clusters of a model with their names.

    Attributes:
        backbone, weights_sha256: whose tokens they are. names: of the clusters.
    """

    backbone: str
    weights_sha256: str
    names: tuple[str, ...]
    views: Views

    def save(self, path: Path) -> None:
        """Write them."""
        import yaml

        clusters: list[dict[str, Any]] = [{"name": name, "views": []} for name in self.names]
        v = self.views
        for k, share, token, centred in zip(
            v.cluster.tolist(), v.share.tolist(), v.tokens, v.centred, strict=True
        ):
            view = {"share": round(share, 5), "token": _encoded(token), "centred": _encoded(centred)}
            clusters[k]["views"].append(view)
        values = {"backbone": self.backbone, "weights_sha256": self.weights_sha256, "clusters": clusters}
        write_text(path, HEADER + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1 << 20))

    @classmethod
    def load(cls, path: Path) -> "NamedClusters":
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or something else.
        """
        import yaml

        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
            clusters = values["clusters"]
            views = [(k, view) for k, cluster in enumerate(clusters) for view in cluster["views"]]
            return cls(
                backbone=str(values["backbone"]),
                weights_sha256=str(values["weights_sha256"]),
                names=tuple(str(cluster["name"]) for cluster in clusters),
                views=Views(
                    torch.tensor([k for k, _ in views]),
                    torch.tensor([float(view["share"]) for _, view in views]),
                    torch.stack([_decoded(view["token"]) for _, view in views]),
                    torch.stack([_decoded(view["centred"]) for _, view in views]),
                ),
            )
        except (FileNotFoundError, IsADirectoryError):
            raise UserError(
                f"{path}: no such file; il2vseg.train writes it, and il2vseg-name when it gets --root FOOTAGE"
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError, ValueError, KeyError, TypeError, RuntimeError):
            raise UserError(f"{path}: not a {FILE_NAME} of il2vseg.train or il2vseg-name") from None


def _encoded(vector: Tensor) -> str:
    return base64.b64encode(vector.numpy().astype("<f2").tobytes()).decode()


def _decoded(text: Any) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(str(text)), "<f2").astype(np.float32))


@dataclass(frozen=True)
class Match:
    """The name that a cluster takes over.

    Attributes:
        name: `UNSURE` where there is a problem. votes: their share for every name that has any, the largest
            first.
        problem: why no name was taken over, None where one was.
    """

    name: str
    votes: dict[str, float]
    problem: str | None = None


@torch.no_grad()
def carry_over(known: NamedClusters, new: NamedClusters, classifier: Classifier) -> list[Match]:
    """Name the clusters of another model after those that they are like, in the space of its embeddings.

    Every view of a cluster votes for the name of the named view that it is closest to.

    Args:
        new: the other model's clusters, whatever they are called. classifier: of the other model.
    Raises:
        UserError: the backbone is another one.
    """
    if known.weights_sha256 != new.weights_sha256:
        raise UserError(f"the names are of clusters on {known.backbone}; this model has another backbone")
    cosines = new.views.embeddings(classifier) @ known.views.embeddings(classifier).T
    likeness, closest = cosines.max(1)
    matches = []
    for k in range(len(new.names)):
        own = torch.nonzero(new.views.cluster == k).flatten().tolist()
        ballots = [
            (known.names[int(known.views.cluster[closest[v]])], float(new.views.share[v]))
            for v in own
            if likeness[v] >= MIN_LIKENESS
        ]
        matches.append(_match(ballots, float(new.views.share[own].sum())))
    return matches


def _match(ballots: Sequence[tuple[str, float]], total: float) -> Match:
    given = sum(weight for _, weight in ballots)
    votes: dict[str, float] = {}
    for name, weight in ballots:
        votes[name] = votes.get(name, 0.0) + weight / given
    votes = dict(sorted(votes.items(), key=lambda item: -item[1]))
    if not votes or given < MIN_VOTING * total:
        return Match(UNSURE, votes, "is like no named cluster")
    name, most = next(iter(votes.items()))
    if most < MIN_VOTES:
        shown = ", ".join(f"{100 * share:.0f} % {n}" for n, share in votes.items())
        return Match(UNSURE, votes, f"is like several: {shown}")
    return Match(name, votes)
