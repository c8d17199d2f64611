"""What the trainer reads: backbone tokens and colours of the training images, and samples of embeddings."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Generator, Tensor

from il2vseg.learning.draws import step_generator
from il2vseg.models.segmenter import Classifier


class FeatureStore(Protocol):
    """Backbone tokens of the training images, computed once."""

    grid: tuple[int, int]

    def __len__(self) -> int: ...

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens (B, N, D) float32 of the images (B,)."""
        ...

    def view_tokens(self, images: Tensor) -> Tensor:
        """Tokens (B, N, D) float32 of the colour-jittered copies."""
        ...

    def colours(self, images: Tensor, scale: int) -> Tensor:
        """Mean RGB (B, 3, h·scale, w·scale) of the cells, in [0, 1]."""
        ...


class FeatureStoreOnDevice:
    """A feature store that returns tensors on a device."""

    def __init__(self, store: FeatureStore, device: torch.device) -> None:
        self.grid = store.grid
        self._store = store
        self._device = device

    def __len__(self) -> int:
        return len(self._store)

    def tokens(self, images: Tensor) -> Tensor:
        """See `FeatureStore.tokens`."""
        return self._store.tokens(images).to(self._device)

    def view_tokens(self, images: Tensor) -> Tensor:
        """See `FeatureStore.view_tokens`."""
        return self._store.view_tokens(images).to(self._device)

    def colours(self, images: Tensor, scale: int) -> Tensor:
        """See `FeatureStore.colours`."""
        return self._store.colours(images, scale).to(self._device)


@torch.no_grad()
def embedding_batches(
    classifier: Classifier, store: FeatureStore, images: Tensor, per_image: int, generator: Generator
) -> Iterator[Tensor]:
    """Embeddings (M, d), on the CPU, of `per_image` random tokens of each image (n,), 32 images at a time."""
    n = store.grid[0] * store.grid[1]
    for part in images.split(32):
        positions = torch.rand(len(part), n, generator=generator).argsort(1)[:, :per_image]
        tokens = store.tokens(part)
        z = classifier.whitening(tokens, positions.to(tokens.device))
        yield classifier.head(z).flatten(0, 1).cpu()


def sample_embeddings(classifier: Classifier, store: FeatureStore, seed: int, limit: int = 200_000) -> Tensor:
    """Embeddings (M, d), on the CPU, of tokens spread evenly over all images, at most about `limit`."""
    generator = step_generator(seed, "embeddings", 0)
    per_image = max(1, min(store.grid[0] * store.grid[1], limit // len(store)))
    every = torch.arange(len(store))
    return torch.cat(list(embedding_batches(classifier, store, every, per_image, generator)))
