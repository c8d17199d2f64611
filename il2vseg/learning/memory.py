"""Peak memory of a training step: counted, and bounded by dividing the batch into micro-batches.

A step's tensors are counted as PyTorch makes and frees them, forward and backward, on the CPU; the same
step makes the same tensors on a GPU. What kernels use inside, and the backbone, are not among them.
"""

import dataclasses
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from il2vseg.base.errors import UserError
from il2vseg.learning.processes import Processes
from il2vseg.learning.store import FeatureStore
from il2vseg.learning.trainer import Trainer
from il2vseg.methods.base import Recipe
from il2vseg.models.whitening import Whitening

GIB = 1 << 30


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside of it and still alive.

        with PeakMemory() as memory:
            loss().backward()
        print(memory.peak)

    Attributes:
        live, peak: bytes now, and at most so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        before = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in tree_leaves(made):
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                if storage._cdata not in before and storage._cdata not in self._known:
                    self._known.add(storage._cdata)
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return made

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class BlankStore:
    """Random tokens, made when they are read: they cost as much memory as real ones."""

    def __init__(self, images: int, grid: tuple[int, int], dim: int) -> None:
        self.grid = grid
        self._images, self._dim = images, dim

    def __len__(self) -> int:
        return self._images

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens (B, N, D), random."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(len(images), self.grid[0] * self.grid[1], self._dim, generator=generator)

    def view_tokens(self, images: Tensor) -> Tensor:
        """As `tokens`."""
        return self.tokens(images)

    def colours(self, images: Tensor, scale: int) -> Tensor:
        """RGB (B, 3, h·scale, w·scale), grey."""
        return torch.full((len(images), 3, self.grid[0] * scale, self.grid[1] * scale), 0.5)


def step_memory(recipe: Recipe, images: int, grid: tuple[int, int], dim: int, components: int = 64) -> int:
    """Peak bytes of a step on a micro-batch of `images` images, of the stage that takes most.

    Args:
        grid: (h, w) tokens of an image. dim: their channels. components: whitened dimensions.
    """
    recipe = dataclasses.replace(recipe, batch=images, micro_batches=1, clusters=None, mixed_precision="no")
    whitening = Whitening(dim, components, centre=True)
    whitening.basis.copy_(torch.eye(components, dim))
    trainer = Trainer(BlankStore(images, grid, dim), whitening, recipe)
    peak = 0
    for name, stage in recipe.method.stages().items():
        trainer.optimizer = trainer.make_optimizer(stage)
        trainer.classifier.set_prototypes(torch.eye(*trainer.classifier.local_prototypes.shape))
        with PeakMemory() as memory:
            trainer.step(name, 0)
        peak = max(peak, memory.peak)
    return peak


def micro_batches_within(
    limit: int, recipe: Recipe, batch: int, grid: tuple[int, int], dim: int, components: int
) -> int:
    """The number of micro-batches with which no step takes more than `limit` bytes.

    Raises:
        UserError: two images, the fewest that the losses compare, take more.
    """
    images, peak = 2, step_memory(recipe, 2, grid, dim, components)
    if peak > limit:
        raise UserError(
            f"--loss-memory {limit / GIB:.3g}: two images take {peak / GIB:.3g} GiB; allow more, or use a "
            "smaller --size"
        )
    while images < batch and step_memory(recipe, min(2 * images, batch), grid, dim, components) <= limit:
        images = min(2 * images, batch)
    return -(-batch // images)


def within_memory(
    recipe: Recipe, gib: float, store: FeatureStore, whitening: Whitening, processes: Processes
) -> Recipe:
    """The recipe with as many micro-batches as keep a step within `gib`, at least those that it has.

    Raises:
        UserError: two images, the fewest that the losses compare, take more.
    """
    limit, batch = int(gib * GIB), min(recipe.batch, len(store))
    components, dim = whitening.basis.shape
    needed = processes.from_main(
        lambda: micro_batches_within(limit, recipe, batch, store.grid, dim, components)
    )
    return dataclasses.replace(recipe, micro_batches=max(recipe.micro_batches, needed))
