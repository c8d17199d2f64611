"""HP (Seong et al. 2023): contrast with hidden positives."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from il2vseg.learning.draws import draw_batch
from il2vseg.losses import hidden_positives
from il2vseg.methods.base import Context, Method, Stage


@dataclass(frozen=True)
class HiddenPositives(Stage):
    """L_hp trains the head; the weight of task-specific positives grows over the stage."""

    steps: int = 300
    samples: int = 64
    reference_pool: int = 2048
    """Tokens that decide what a hidden positive is."""

    uses_views: ClassVar[bool] = True

    def losses(self, context: Context) -> dict[str, Tensor]:
        head = context.classifier.head
        store, generator = context.store, context.generator
        n = store.grid[0] * store.grid[1]
        order = context.positions(n)
        samples = min(self.samples, n // 2)
        index, rest = order[:samples], order[samples:]
        z = context.whitened()
        # The pool lies at other positions: a token in both would be its own threshold.
        pool = self._pool(context, rest)
        embeddings = context.embeddings(z)
        mixed = hidden_positives.local_mixture(embeddings, z, store.grid)[:, index].flatten(0, 1)
        embeddings, anchors = embeddings[:, index].flatten(0, 1), z[:, index].flatten(0, 1)
        agnostic = hidden_positives.hidden_positives(anchors, pool)
        with torch.no_grad():
            specific = hidden_positives.hidden_positives(head(anchors), head(pool))
        drawn = torch.rand(len(embeddings), len(embeddings), generator=generator) < hidden_positives.NEGATIVES
        contrast = hidden_positives.hidden_positive_losses(
            embeddings, mixed, agnostic, specific, context.step / self.steps, drawn.to(context.device)
        )
        embeddings_view = context.embeddings(context.whitened_view(index)).flatten(0, 1)
        consistency = hidden_positives.consistency_loss(embeddings, embeddings_view)
        return {"hp": contrast, "consistency": hidden_positives.CONSISTENCY_WEIGHT * consistency}

    def _pool(self, context: Context, positions: Tensor) -> Tensor:
        """Whitened tokens (R, k) of newly drawn images at the positions (S,)."""
        images = draw_batch(len(context.store), context.recipe.batch, context.generator)
        pool = context.classifier.whitening(context.store.tokens(images), positions).flatten(0, 1)
        chosen = torch.randperm(len(pool), generator=context.generator)[: self.reference_pool]
        reference: Tensor = pool[chosen.to(context.device)]
        return reference


@dataclass(frozen=True)
class HP(Method):
    """The prototypes are clusters of the embeddings that L_hp made."""

    hidden_positives: HiddenPositives = HiddenPositives()
