"""A step of a method beside the same step written out in float64."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from il2vseg.learning.draws import step_generator
from il2vseg.learning.trainer import Trainer
from il2vseg.methods.base import Method, Recipe
from il2vseg.models.whitening import Whitening

IMAGES, GRID, N, DIM, K, C, BATCH = 7, (4, 5), 20, 10, 6, 4, 5
STEP = 3


class RandomStore:
    """Tokens, tokens of jittered copies and colours that have nothing to do with each other."""

    grid = GRID

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._tokens, self._views = (torch.randn(IMAGES, N, DIM, generator=generator) for _ in "ab")
        self._colours = torch.rand(IMAGES, 3, *GRID, generator=generator)

    def __len__(self) -> int:
        return IMAGES

    def tokens(self, images: Tensor) -> Tensor:
        return self._tokens[images]

    def view_tokens(self, images: Tensor) -> Tensor:
        return self._views[images]

    def colours(self, images: Tensor, scale: int) -> Tensor:
        assert scale == 1
        return self._colours[images]


def trainer(method: Method, **settings: Any) -> Trainer:
    """A trainer whose parameters are all random; local and global prototypes differ."""
    generator = torch.Generator().manual_seed(1)
    whitening = Whitening(DIM, K, centre=True)
    for buffer in (whitening.mean, whitening.basis):
        buffer.copy_(torch.randn(buffer.shape, generator=generator))
    t = Trainer(RandomStore(), whitening, Recipe(method, num_classes=C, batch=BATCH, **settings))
    with torch.no_grad():
        for p in (*t.classifier.head.parameters(), t.classifier.local_prototypes):
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
        t.classifier.global_prototypes.copy_(torch.randn(C, 64, generator=generator))
    return t


@dataclass
class Taken:
    """A step that was taken."""

    losses: dict[str, float]
    gradients: dict[str, Tensor | None]
    before: dict[str, Tensor]
    after: dict[str, Tensor]


def set_up(t: Trainer, stage: str) -> Trainer:
    """Make the stage's parts and make them random."""
    t.optimizer = t.make_optimizer(t.stages[stage])
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in t.classifier.parts.state_dict().values():
            value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return t


def take(t: Trainer, stage: str) -> Taken:
    if t.optimizer is None:
        t.optimizer = t.make_optimizer(t.stages[stage])
    before = {k: v.clone() for k, v in t.classifier.state_dict().items()}
    losses = t.step(stage, STEP)
    gradients = {k: None if p.grad is None else p.grad.clone() for k, p in t.classifier.named_parameters()}
    return Taken(losses, gradients, before, {k: v.clone() for k, v in t.classifier.state_dict().items()})


class Reference:
    """The model and the draws of a step, written out, in float64."""

    def __init__(self, t: Trainer, stage: str) -> None:
        self.generator: Generator = step_generator(0, stage, STEP)
        self.images = torch.randperm(IMAGES, generator=self.generator)[:BATCH]
        state = {k: v.double() for k, v in t.classifier.state_dict().items()}
        trained = [k for k, p in t.classifier.named_parameters() if p.requires_grad]
        self.parameters = {k: state[k].requires_grad_() for k in trained}
        self.state = state
        store = t.store
        self.tokens = store.tokens(self.images).double()
        self.views = store.view_tokens(self.images).double()
        self.colours = store.colours(self.images, 1).double()
        self.rgb = self.colours.flatten(2).transpose(1, 2)
        self.all_tokens = store.tokens(torch.arange(IMAGES)).double()

    def positions(self, count: int = N) -> Tensor:
        return torch.randperm(N, generator=self.generator)[:count]

    def derangement(self) -> Tensor:
        order = torch.randperm(BATCH, generator=self.generator).tolist()
        other = torch.empty(BATCH, dtype=torch.long)
        for i, image in enumerate(order):
            other[image] = order[i - 1]
        return other

    def whiten(self, tokens: Tensor) -> Tensor:
        centred = tokens - tokens.mean(1, keepdim=True) - self.state["whitening.mean"]
        return centred @ self.state["whitening.basis"].T

    def head(self, z: Tensor, name: str = "head") -> Tensor:
        p = {k.removeprefix(f"{name}."): v for k, v in self.state.items() if k.startswith(f"{name}.")}
        hidden = F.silu(z @ p["mlp.0.weight"].T + p["mlp.0.bias"])
        linear = z @ p["linear.weight"].T + p["linear.bias"]
        return linear + hidden @ p["mlp.2.weight"].T + p["mlp.2.bias"]

    def embed(self, z: Tensor, name: str = "head") -> Tensor:
        """With a fifth of the channels dropped, others in every image, and the rest scaled up."""
        kept = torch.rand(len(z), 1, K, generator=self.generator) >= 0.2
        return self.head(z * kept / 0.8, name)

    def logits(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
        return cosines(embeddings, prototypes) / 0.1

    def gradients(self, losses: dict[str, Tensor]) -> dict[str, Tensor | None]:
        total = torch.stack(list(losses.values())).sum()
        found = torch.autograd.grad(total, list(self.parameters.values()), allow_unused=True)
        return dict(zip(self.parameters, found, strict=True))


def cosines(a: Tensor, b: Tensor) -> Tensor:
    a, b = (x / x.square().sum(-1, keepdim=True).sqrt() for x in (a, b))
    return a @ b.mT


def standardised(a: Tensor, b: Tensor) -> Tensor:
    s = cosines(a, b).detach()
    s = s - s.mean(2, keepdim=True)
    return s / s.square().mean().sqrt()


def corr(e: Tensor, e_view: Tensor, z: Tensor, z_view: Tensor, others: list[Tensor]) -> Tensor:
    """STEGO, eq. 4."""

    def pair(a: Tensor, b: Tensor, fa: Tensor, fb: Tensor) -> Tensor:
        return -(cosines(a, b).clamp_min(0) * standardised(fa, fb)).mean()

    loss = 0.67 * pair(e, e, z, z) + 0.25 * pair(e, e_view, z, z_view)
    return loss + 0.63 / 3 * torch.stack([pair(e, e_view[o], z, z_view[o]) for o in others]).sum()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.logsumexp(-1) - logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)).mean()


def assert_step(t: Trainer, stage: str, expected: dict[str, Tensor], reference: Reference) -> Taken:
    gradients = reference.gradients(expected)
    taken = take(t, stage)
    assert taken.losses == {k: pytest.approx(float(v.detach()), abs=2e-5) for k, v in expected.items()}
    for name, gradient in gradients.items():
        found = taken.gradients[name]
        if gradient is None:
            assert found is None, name
        else:
            assert found is not None, name
            torch.testing.assert_close(found.double(), gradient, atol=2e-5, rtol=1e-3, msg=name)
    return taken


def per_image(x: Tensor, positions: Tensor) -> Tensor:
    return torch.stack([image[p] for image, p in zip(x, positions, strict=True)])
