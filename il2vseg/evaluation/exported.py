"""An exported model as `evaluate` sees a Segmenter: scored through the code that runs it on a device."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from il2vseg.base.errors import UserError
from il2vseg.models.spec import LowLevelSpec
from il2vseg.runtime.backends.providers import PROVIDERS, UnavailableError, open_engine
from il2vseg.runtime.engine import Engine
from il2vseg.runtime.manifest import Manifest, verify_file


def open_export(path: Path, provider: str = "auto") -> Engine:
    """Open an export.

    Args:
        path: its folder, of which the provider takes the file it runs best, or one of its files.
        provider: "auto" or a key of PROVIDERS; "auto" runs a single ONNX file on the CPU.
    Raises:
        UserError: no such export, a damaged one, or the provider cannot run it.
    """
    if not path.is_file():
        return open_engine(path, provider)
    folder, manifest = path.parent, Manifest.load(path.parent)
    entry = next((file for file in manifest.files if file.path == path.name), None)
    if entry is None:
        raise UserError(f"{path}: the manifest beside it does not list it; export the model again")
    verify_file(folder, entry)
    if provider == "auto":
        provider = "tensorrt" if entry.format == "tensorrt" else "cpu"
    try:
        return Engine(manifest, PROVIDERS[provider].open(folder, manifest, entry, None))
    except UnavailableError as error:
        raise UserError(f"provider {provider}: {error}") from None


class ExportedModel:
    """An engine's graph with the face of a Segmenter. What is scored are its clusters, as of any model.

    Attributes:
        size: (H, W) of its frames. num_classes: clusters. class_names: one per cluster.
        alpha: weight of the low-level branch inside the graph; setting it changes nothing.
        low_level: the branch's settings.
    """

    def __init__(self, engine: Engine) -> None:
        manifest = engine.manifest
        self._engine = engine
        self.size = manifest.size
        self.num_classes = len(manifest.clusters)
        self.class_names = [manifest.class_names[c] for c in manifest.clusters]
        self.alpha = manifest.alpha
        self.low_level = LowLevelSpec(**manifest.fcm)

    def predict(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """As `Segmenter.predict`, one frame after the other."""
        outputs = [self._engine.infer(frame[None]) for frame in frames.numpy()]
        labels, scores = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        return torch.from_numpy(labels), torch.from_numpy(scores)
