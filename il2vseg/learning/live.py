"""The training set of a network that is trained whole: its tokens are computed when they are asked for."""

import hashlib
import tempfile
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from il2vseg.base.images import Frame, resize_frame
from il2vseg.data import Dataset
from il2vseg.learning.crops import crop_maps
from il2vseg.learning.features import jitter_colours
from il2vseg.learning.precision import MixedPrecision, autocast
from il2vseg.models import lowlevel
from il2vseg.models.backbones import Backbone
from il2vseg.models.network import frames_to_images

AT_ONCE = 16
"""Images of a forward pass without gradients."""


class LiveFeatures:
    """A `store.FeatureStore` whose tokens a network computes that learns.

    Where gradients are enabled they flow into the network, and its batch norm normalises by the images asked
    for; elsewhere it is in evaluation mode.

    Attributes:
        grid, dim: (h, w) and channels D of the tokens. footage: digest of all frames.
        network: that learns.
    """

    def __init__(
        self,
        dataset: Dataset,
        backbone: Backbone,
        precision: MixedPrecision = "no",
        progress: Callable[[Iterable[Frame]], Iterable[Frame]] = lambda frames: frames,
    ) -> None:
        """Unfreeze the backbone, and read all frames at its size into a temporary file.

        Args:
            progress: wraps the iteration over frames.
        Raises:
            UserError: nothing is readable.
        """
        self.grid, self.dim = backbone.grid, backbone.dim
        self._backbone, self._precision = backbone, precision
        self.network = backbone.vit.requires_grad_(True)
        digest, count = hashlib.blake2b(digest_size=16), 0
        file = tempfile.TemporaryFile(prefix="il2vseg-frames-")  # noqa: SIM115 (as long as the frames)
        for frame in progress(sample.frame for sample in dataset):
            data = resize_frame(frame, backbone.size).tobytes()
            digest.update(data)
            file.write(data)
            count += 1
        file.flush()
        self._frames: NDArray[np.uint8] = np.memmap(file, np.uint8, "r", shape=(count, *backbone.size, 3))
        self.footage = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._frames)

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens (B, N, D) float32 of the images (B,)."""
        return self._tokens(self._chosen(images))

    def view_tokens(self, images: Tensor, boxes: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D) float32 of the jittered copies of the images (B,), or of crops (B, 4) of them."""
        return self._tokens([jitter_colours(frame) for frame in self._chosen(images)], boxes)

    def colours(self, images: Tensor, scale: int) -> Tensor:
        """Mean RGB (B, 3, h·scale, w·scale) in [0, 1]."""
        rgb = self._images(self._chosen(images))
        return lowlevel.pool_colours(rgb, (self.grid[0] * scale, self.grid[1] * scale))

    def _chosen(self, images: Tensor) -> list[Frame]:
        return [np.array(self._frames[i]) for i in images.tolist()]

    def _images(self, frames: list[Frame]) -> Tensor:
        """RGB (B, 3, H, W) in [0, 1], where the network is."""
        return frames_to_images(torch.from_numpy(np.stack(frames)).to(self._backbone.mean.device))

    def _tokens(self, frames: list[Frame], boxes: Tensor | None = None) -> Tensor:
        images = self._images(frames)
        if boxes is not None:
            images = crop_maps(images, boxes)
        learning = torch.is_grad_enabled()
        self.network.train(learning)
        parts = (images,) if learning else images.split(AT_ONCE)
        tokens = torch.cat([self._forward(part) for part in parts])
        self.network.eval()
        return tokens

    def _forward(self, images: Tensor) -> Tensor:
        with autocast(images.device, self._precision):
            tokens: Tensor = self._backbone(images)
        return tokens.float().flatten(2).transpose(1, 2)
