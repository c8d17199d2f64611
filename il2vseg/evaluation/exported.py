"""An exported model as a `Predictor`: scored through the code that runs it on a device."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from il2vseg.models.network import frames_to_images, label_pixels
from il2vseg.models.spec import LowLevelSpec
from il2vseg.runtime.engine import Engine


class ExportedModel:
    """The graph of an engine as a `Predictor`. What is scored are its clusters, as of any model.

    Attributes:
        size, grid, class_names, alpha: see `il2vseg.models.network.Predictor`; all are fixed in the graph.
    """

    def __init__(self, engine: Engine) -> None:
        manifest = engine.manifest
        self._engine = engine
        self._low_level = LowLevelSpec.of(manifest.fcm)
        self._alpha = manifest.alpha
        self.size = manifest.size
        self.grid = manifest.outputs.scores[1:]
        self.class_names = [manifest.class_names[c] for c in manifest.clusters]

    @classmethod
    def open(cls, path: Path, provider: str) -> "ExportedModel":
        """Open an export, its folder or one of its files; see `open_engine`."""
        from il2vseg.runtime.backends.providers import open_engine

        return cls(open_engine(path, provider))

    @property
    def alpha(self) -> float:
        """Weight of the low-level branch inside the graph."""
        return self._alpha

    def predict(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Segment frames one after the other, see `Predictor.predict`."""
        outputs = [self._engine.backend(frame[None])[:2] for frame in frames.numpy()]
        labels, scores = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        return torch.from_numpy(labels), torch.from_numpy(scores)

    def label(self, scores: Tensor, frames: Tensor) -> Tensor:
        """Label pixels by scores that were changed since `predict`, as the graph does."""
        return label_pixels(scores, frames_to_images(frames), self._low_level)
