"""The prototypes of a checkpoint during naming: what they show in the footage, and which names fit."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from il2vseg.base.ignore import IgnoreMask
from il2vseg.learning.clusters import ClusterFacts, ClusterSurvey, save_names, scene_of
from il2vseg.learning.features import nearest_kept
from il2vseg.models.names import FILE_NAME, Match, NamedClusters, carry_over
from il2vseg.models.segmenter import Segmenter

if TYPE_CHECKING:
    from il2vseg.data import Dataset


class Clusters:
    """The prototypes of a checkpoint: what they are in the footage, and what other names fit them."""

    def __init__(self, folder: Path, segmenter: Segmenter) -> None:
        """Watch the segmenter's backbone from now on."""
        self.folder, self._segmenter = folder, segmenter
        self._survey = ClusterSurvey(segmenter.classifier, segmenter.adapt)
        self._tokens: list[Tensor] = []
        segmenter.backbone.register_forward_hook(lambda _, __, out: self._tokens.append(out.float()))

    def begin(self) -> None:
        """Forget what the model has seen so far."""
        self._tokens.clear()

    def look(self, index: int, count: int, ignore: IgnoreMask | None) -> None:
        """Take in what the model has just seen: frame `index` of `count`."""
        for tokens in self._tokens:
            if ignore is not None:
                kept = nearest_kept(ignore.cells(self._segmenter.backbone.grid)).ravel()
                tokens = tokens.flatten(2)[:, :, kept].reshape_as(tokens)
            self._survey.update(tokens, scene_of(index, count))
        self._tokens.clear()

    def facts(self) -> ClusterFacts:
        """What the clusters are in the frames taken in."""
        return self._survey.facts()

    def divide(self, wanted: Mapping[int, int], footage: "Dataset", ignore: IgnoreMask | None) -> None:
        """Divide clusters into so many parts each, in the checkpoint; see `surveyed.divide_checkpoint`."""
        from il2vseg.learning.surveyed import divide_checkpoint

        divide_checkpoint(self.folder, self._segmenter, footage, wanted, ignore)

    def names_from(self, source: Path) -> list[Match]:
        """The names that the prototypes of another model have for these.

        Raises:
            UserError: no such file, or names of another backbone.
        """
        known = NamedClusters.load(source / FILE_NAME if source.is_dir() else source)
        return carry_over(known, NamedClusters.load(self.folder / FILE_NAME), self._segmenter.classifier)

    def save_names(self, names: Sequence[str], facts: ClusterFacts | None) -> None:
        """Bring names.yaml up to date; without facts the old ones stay, if there are any."""
        path, spec = self.folder / FILE_NAME, self._segmenter.spec
        if facts is not None:
            save_names(self.folder, dataclasses.replace(spec, class_names=tuple(names)), facts)
        elif path.exists():
            dataclasses.replace(NamedClusters.load(path), names=tuple(names)).save(path)
