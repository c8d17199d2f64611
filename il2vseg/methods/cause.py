"""CAUSE (Kim et al. 2023) in its essentials: a clusterbook by modularity, then concept-wise contrast."""

from dataclasses import dataclass

import torch
from torch import Tensor

from il2vseg.learning.draws import draw_batch
from il2vseg.losses import clusterbook
from il2vseg.methods.base import Context, Method, Stage


@dataclass(frozen=True)
class ConceptContrast(Stage):
    """The contrast trains the head; the clusterbook is found before the first step and stays."""

    steps: int = 300
    samples: int = 64
    bank: int = 1024
    """Tokens of other images that are contrasted with, beside those of the batch."""
    concepts: int = 128
    book_steps: int = 150
    book_lr: float = 1e-2
    """Learning rate of the concepts, which have unit length at first."""

    def derive(self, context: Context) -> dict[str, Tensor]:
        """The clusterbook (K, k)."""
        images, generator = context.images, context.generator

        def drawn(count: int) -> Tensor:
            context.images = images[draw_batch(len(images), count, generator)]
            return context.whitened(context.positions_per_image(self.samples))

        seeds = drawn(context.recipe.batch).flatten(0, 1)
        order = torch.randperm(len(seeds), generator=generator)[: self.concepts].to(seeds.device)
        concepts = torch.nn.functional.normalize(seeds[order], dim=1).requires_grad_()
        optimizer = torch.optim.Adam([concepts], lr=self.book_lr)
        with torch.enable_grad():
            for _ in range(self.book_steps):
                optimizer.zero_grad()
                (-clusterbook.modularity(concepts, drawn(context.recipe.batch // 2))).backward()
                optimizer.step()
        return {"concepts": concepts.detach()}

    def losses(self, context: Context) -> dict[str, Tensor]:
        head, book = context.classifier.head, context.derived["concepts"]
        z = context.whitened(context.positions_per_image(self.samples))
        embeddings = context.embeddings(z).flatten(0, 1)
        z = z.flatten(0, 1)
        bank = self._bank(context)
        with torch.no_grad():
            teacher, teacher_bank = head(z), head(bank)
            concepts = clusterbook.nearest_concepts(z, book)
            bank_concepts = clusterbook.nearest_concepts(bank, book)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        inside = clusterbook.concept_contrast(embeddings, teacher, concepts, concepts, itself)
        outside = clusterbook.concept_contrast(embeddings, teacher_bank, concepts, bank_concepts)
        return {"concepts": 0.5 * (inside + outside)}

    def _bank(self, context: Context) -> Tensor:
        """Whitened tokens (R, k) of newly drawn images."""
        store, generator = context.store, context.generator
        images = draw_batch(len(store), context.recipe.batch, generator)
        per_image = max(1, self.bank // len(images))
        positions = torch.rand(len(images), store.grid[0] * store.grid[1], generator=generator)
        index = positions.argsort(1)[:, :per_image].to(context.device)
        bank: Tensor = context.classifier.whitening(store.tokens(images), index).flatten(0, 1)
        return bank


@dataclass(frozen=True)
class Cause(Method):
    """The prototypes are clusters of the embeddings that the contrast made."""

    contrast: ConceptContrast = ConceptContrast()
