"""A network in PyTorch as the runtime runs an exported graph: NumPy in, NumPy out."""

import numpy as np
import torch
from numpy.typing import NDArray

from il2vseg.models.segmenter import Segmenter


class EagerBackend:
    """A trained network behind the interface of `il2vseg.runtime.engine.Backend`."""

    provider = "torch"
    batch = 1

    def __init__(self, segmenter: Segmenter) -> None:
        """Take a network in evaluation mode, on any device."""
        self._segmenter = segmenter

    def __call__(self, frames: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Segment frames: uint8 BGR (B, H, W, 3) -> cluster ids (B, H, W), scores (B, C, h, w)."""
        device = next(self._segmenter.parameters()).device
        labels, scores = self._segmenter.predict(torch.from_numpy(frames).to(device))
        return labels.cpu().numpy(), scores.cpu().numpy()

    def close(self) -> None:
        """Nothing is held that the garbage collector does not release."""
