"""A network in PyTorch as the runtime runs an exported graph: NumPy in, NumPy out."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from il2vseg.models.network import Network, frames_to_images, label_pixels


class EagerBackend:
    """A trained network behind the interface of `il2vseg.runtime.engine.Backend`."""

    provider = "torch"
    batch = 1

    def __init__(self, network: Network) -> None:
        """Take a network in evaluation mode, on any device."""
        self._network = network

    @torch.inference_mode()
    def __call__(self, frames: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
        """Segment frames of its size, uint8 BGR (B, H, W, 3).

        Returns:
            cluster ids (B, H, W) uint8, scores (B, C, gh, gw) float32 and, where the network has one, its
            confidence (B, h, w) float32.
        """
        images = frames_to_images(torch.from_numpy(frames).to(self._network.device))
        scores, confidence = self._network.judge(images)
        labels = label_pixels(scores, images, self._network.spec.low_level)
        outputs = (labels, scores) if confidence is None else (labels, scores, confidence[:, 0])
        return tuple(output.cpu().numpy() for output in outputs)

    def close(self) -> None:
        """Nothing is held that the garbage collector does not release."""
