"""SmooSeg (Lan et al. 2023): a smoothness prior on labels, and prototypes that follow their own labels."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from il2vseg.losses import smoothness
from il2vseg.methods.base import USAGE, Context, Method, PrototypeStage


@dataclass(frozen=True)
class Sample:
    """The sampled positions of a micro-batch, seen by the global prototypes.

    Attributes:
        tokens: of all positions (B, N, D). index: the positions (S,). z: whitened (B, S, k).
        embeddings: (B, S, d). logits: F_seg/τ of the global prototypes (B, S, C). p: their softmax P_seg.
    """

    tokens: Tensor
    index: Tensor
    z: Tensor
    embeddings: Tensor
    logits: Tensor
    p: Tensor

    @classmethod
    def draw(cls, context: Context, samples: int) -> Self:
        """Draw the positions and compute the rest."""
        classifier = context.classifier
        tokens, index = context.store.tokens(context.images), context.positions(samples)
        z = classifier.whitening(tokens, index)
        embeddings = context.embeddings(z)
        logits = classifier.logits(embeddings, classifier.global_prototypes.detach())
        return cls(tokens, index, z, embeddings, logits, logits.softmax(-1))


@dataclass(frozen=True)
class Smoothness(PrototypeStage):
    """L_smo trains the head; its data term trains the local prototypes, which the global ones follow."""

    steps: int = 600
    samples: int = 144
    weight: float = 1.0
    lr: float = 1e-4
    ema: float = 0.99
    """Share of the global prototypes that a step keeps."""

    def losses(self, context: Context) -> dict[str, Tensor]:
        return self.smoothness_losses(context, Sample.draw(context, self.samples))

    def smoothness_losses(self, context: Context, sample: Sample) -> dict[str, Tensor]:
        """L_smo and its data term, and the usage of the prototypes."""
        classifier = context.classifier
        labels = sample.logits.detach().argmax(-1).flatten()
        context.observe(USAGE, torch.bincount(labels, minlength=context.recipe.prototypes) / len(labels))
        local = classifier.logits(sample.embeddings.detach(), classifier.local_prototypes)
        data = smoothness.data_loss(local, sample.logits)
        smooth = smoothness.smoothness_loss(sample.p, sample.z, context.other_images())
        return {"smooth": self.weight * smooth, "data": data}

    def after_step(self, context: Context) -> None:
        classifier = context.classifier
        classifier.global_prototypes.lerp_(classifier.local_prototypes, 1.0 - self.ema)


@dataclass(frozen=True)
class SmooSeg(Method):
    """One stage, from clusters of the whitened tokens."""

    smoothness: Smoothness = Smoothness()
