"""The training set of a network that is trained whole: its tokens are computed when they are asked for."""

import copy
import hashlib
import math
import tempfile
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from il2vseg.base.images import Frame, resize_frame
from il2vseg.data import Dataset
from il2vseg.data.dataset import spread
from il2vseg.learning.crops import crop_maps
from il2vseg.learning.features import jitter_colours
from il2vseg.learning.precision import MixedPrecision, autocast
from il2vseg.models import lowlevel
from il2vseg.models.backbones import Backbone
from il2vseg.models.network import frames_to_images

AT_ONCE = 16
"""Images of a forward pass without gradients."""
FIRST_MEANS = 64
"""Frames that the first running means of batch norm come from."""


class LiveFeatures:
    """A `store.FeatureStore` whose tokens a network computes that learns.

    Where gradients are enabled they flow into the network, and its batch norm normalises by the images asked
    for; elsewhere it is in evaluation mode. Of a network with a teacher, tokens without gradients are the
    teacher's.

    Attributes:
        grid, dim: (h, w) and channels D of the tokens. footage: digest of all frames.
        networks: what `Trainer` is given: the one that learns, and the teacher, which `follow` moves.
        network: that learns. teacher: the backbone's own; None where that is what learns.
    """

    def __init__(
        self,
        dataset: Dataset,
        backbone: Backbone,
        precision: MixedPrecision = "no",
        progress: Callable[[Iterable[Frame]], Iterable[Frame]] = lambda frames: frames,
        taught: bool = False,
    ) -> None:
        """Unfreeze the backbone, and read all frames at its size into a temporary file.

        Args:
            progress: wraps the iteration over frames.
            taught: a copy of the backbone learns, and the backbone is its teacher.
        Raises:
            UserError: nothing is readable.
        """
        self.grid, self.dim = backbone.grid, backbone.dim
        self._backbone, self._precision = backbone, precision
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
        self._begin_running_means()
        self._learner = copy.deepcopy(backbone) if taught else backbone
        self.network = self._learner.vit.requires_grad_(True)
        self.teacher = backbone.vit if taught else None
        self.networks = {"network": self.network} | ({"teacher": backbone.vit} if taught else {})

    @torch.no_grad()
    def _begin_running_means(self) -> None:
        """Give batch norm the means of the footage, without which a network at random is another one in
        evaluation mode than in training."""
        network = self._backbone.vit
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all parts
        network.train()
        chosen = torch.tensor(spread(len(self), FIRST_MEANS))
        for part in chosen.tensor_split(math.ceil(len(chosen) / AT_ONCE)):
            self._forward(self._backbone, self._images(self._chosen(part)))
        network.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def __len__(self) -> int:
        return len(self._frames)

    @torch.no_grad()
    def follow(self, keep: float) -> None:
        """The teacher keeps this share of its weights and running means; the rest is the network's."""
        assert self.teacher is not None, "made without `taught`"
        slow, fast = self.teacher.state_dict(), self.network.state_dict()
        for name, value in slow.items():
            if value.is_floating_point():
                value.lerp_(fast[name], 1.0 - keep)

    def tokens(self, images: Tensor, boxes: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D) float32 of the images (B,), or of crops (B, 4) of them."""
        return self._tokens(self._chosen(images), boxes)

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
        if not torch.is_grad_enabled():
            return torch.cat([self._forward(self._backbone, part) for part in images.split(AT_ONCE)])
        self.network.train()
        tokens = self._forward(self._learner, images)
        self.network.eval()
        return tokens

    def _forward(self, backbone: Backbone, images: Tensor) -> Tensor:
        with autocast(images.device, self._precision):
            tokens: Tensor = backbone(images)
        return tokens.float().flatten(2).transpose(1, 2)
