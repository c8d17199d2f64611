"""One training loop, six presets: kmeans, stego, smooseg, hp, eagle, il2vseg."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Generator, Tensor

from il2vseg.base.errors import UserError
from il2vseg.learning import clustering, fcm_kernel
from il2vseg.learning.processes import Processes
from il2vseg.losses import (
    correspondence,
    eigen_aggregation,
    eigenfunction,
    fusion,
    hidden_positives,
    smoothness,
)
from il2vseg.models import lowlevel
from il2vseg.models.segmenter import Classifier, low_level_memberships, low_level_scores
from il2vseg.models.spec import PREDICTION_ALPHA, LowLevelSpec
from il2vseg.models.whitening import Whitening

Method = Literal["kmeans", "stego", "smooseg", "hp", "eagle", "il2vseg"]
Stage = Literal["correspondence", "smoothness", "hidden_positives", "eigen_aggregation"]
MixedPrecision = Literal["no", "bf16", "fp16"]
Clustering = Literal["ward", "minibatch"]

AUTOCAST: dict[MixedPrecision, torch.dtype] = {
    "no": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

SAVE_EVERY = 50
"""Steps between two saved states."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the training, apart from the data and the backbone; defaults of il2vseg."""

    method: Method = "il2vseg"
    num_classes: int = 3
    clusters: int | None = None
    """Prototypes kept where more than classes are wanted, to be named many-to-one later."""
    seed: int = 0
    correspondence_steps: int = 300
    smoothness_steps: int = 200
    hidden_positives_steps: int = 300
    eigen_aggregation_steps: int = 200
    batch: int = 16
    """Images of a step, over all processes together."""
    micro_batches: int = 1
    """Parts of a batch whose losses are taken apart and whose gradients are added: pairs of images, and the
    statistics of a loss, lie within a micro-batch. The processes divide the micro-batches, so the result
    depends on their number and not on that of the processes."""
    mixed_precision: MixedPrecision = "no"
    """Of the head; losses, low-level branch and parameters are float32 throughout."""
    correspondence_samples: int = 121
    smoothness_samples: int = 144
    eigen_samples: int = 64
    hidden_positives_samples: int = 64
    reference_pool: int = 2048
    """Tokens that decide what a hidden positive is (hp)."""
    eigen_aggregation_samples: int = 144
    negatives: int = 3
    lr_correspondence: float = 5e-4
    lr_projection: float = 1e-4
    lr_prototypes: float = 5e-4
    ema: float = 0.99
    channel_dropout: float = 0.2
    temperature: float = 0.1
    alpha: float = 0.5
    """α of F_f in the eigenfunction losses (paper)."""
    fused_alpha: float = 0.3
    """α of F_f in L_fused."""
    gamma: float = 0.1
    beta: float = 0.05
    correspondence_weight: float = 1.0
    smoothness_weight: float = 0.3
    fused_weight: float = 0.3
    low_level: LowLevelSpec = field(default_factory=LowLevelSpec)
    clustering: Clustering = "ward"
    """How prototypes are found: over-clustering and Ward merging of a sample of the embeddings, or cosine
    mini-batch k-means of all of them."""
    recluster: bool = False
    """Replace the trained prototypes by clusters of the final embeddings."""

    @property
    def prediction_alpha(self) -> float:
        """Weight of F_l at prediction: the baselines have no low-level branch."""
        return PREDICTION_ALPHA if self.method == "il2vseg" else 0.0

    @property
    def prediction_low_level(self) -> LowLevelSpec:
        """The low-level branch at prediction; the baselines upsample bilinearly."""
        return self.low_level if self.method == "il2vseg" else replace(self.low_level, refine=0)

    @property
    def prototypes(self) -> int:
        """Number of prototypes C."""
        return self.clusters or self.num_classes

    def stages(self) -> list[tuple[Stage, int]]:
        """Stages of the method and their steps."""
        names: dict[Method, list[Stage]] = {
            "kmeans": [],
            "stego": ["correspondence"],
            "smooseg": ["smoothness"],
            "hp": ["hidden_positives"],
            "eagle": ["correspondence", "eigen_aggregation"],
            "il2vseg": ["correspondence", "smoothness"],
        }
        return [(stage, getattr(self, f"{stage}_steps")) for stage in names[self.method]]


PRESETS: dict[Method, dict[str, Any]] = {
    "kmeans": {},
    "stego": {},
    "smooseg": {"smoothness_steps": 600, "smoothness_weight": 1.0},
    "hp": {},
    "eagle": {"correspondence_steps": 100},
    "il2vseg": {},
}
"""What a method's recipe changes in the defaults."""


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


def step_generator(seed: int, stage: str, step: int, micro_batch: int = 0) -> Generator:
    """Randomness of a micro-batch as a pure function of its position, so that resuming is exact."""
    salt = sum(ord(c) << (5 * i) for i, c in enumerate(stage[:4]))
    # The generator looks at the low 32 bits only: the micro-batch must spread over those.
    position = (seed * 1_000_003 + salt) * 1_000_003 + step + micro_batch * 0x9E3779B1
    return torch.Generator().manual_seed(position)


class FeatureStoreOnDevice:
    """A token store whose answers lie on a device."""

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


def draw_batch(images: int, batch: int, generator: Generator) -> Tensor:
    """Draw distinct images (B,), B = min(batch, images)."""
    return torch.randperm(images, generator=generator)[:batch]


def derangement(n: int, generator: Generator) -> Tensor:
    """A permutation (n,) without fixed points (the identity for n = 1)."""
    order = torch.randperm(n, generator=generator)
    out = torch.empty_like(order)
    out[order] = order.roll(1)
    return out


def channel_dropout(z: Tensor, rate: float, generator: Generator) -> Tensor:
    """Zero whole channels of (B, N, k), one mask an image, and rescale."""
    keep = (torch.rand(z.shape[0], 1, z.shape[2], generator=generator) >= rate).float()
    return z * keep.to(z.device) / (1.0 - rate)


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


@dataclass
class StepReport:
    """What one optimisation step did.

    Attributes:
        alive: of a stage with prototypes, how many of them label at least one of the step's tokens.
    """

    stage: str
    step: int
    steps: int
    losses: dict[str, float]
    alive: int | None = None


class Trainer:
    """Runs the stages of a recipe over a token store.

    All state is the classifier, the optimiser and the position (stage, step): randomness is a function of
    the position, so a run that is resumed takes exactly the steps that it would have taken. Where there
    are several processes, each has all of that state and they add their gradients.
    """

    def __init__(
        self, store: FeatureStore, whitening: Whitening, recipe: Recipe, processes: Processes | None = None
    ) -> None:
        """Args:
            processes: that train together, None for this one alone on the CPU.
        Raises:
            UserError: the batch is too small for its micro-batches, or there are fewer of them than
            processes.
        """
        torch.manual_seed(recipe.seed)
        self.processes = processes or Processes()
        self.device = self.processes.device
        self.store = store if self.device.type == "cpu" else FeatureStoreOnDevice(store, self.device)
        self.recipe = recipe
        self._check_micro_batches()
        self.classifier = Classifier(whitening, recipe.prototypes, recipe.temperature).to(self.device)
        self.optimizer: torch.optim.Optimizer | None = None
        # Half-precision gradients of the head would underflow; for the other precisions it does nothing.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.mixed_precision == "fp16")
        self.position = (0, 0)
        self.usage: Tensor | None = None
        """Share of the last step's tokens that every prototype labels (C,); None before there are any."""

    def _check_micro_batches(self) -> None:
        micro_batches, batch = self.recipe.micro_batches, min(self.recipe.batch, len(self.store))
        if micro_batches < self.processes.count:
            raise UserError(
                f"--accumulate {micro_batches}: fewer micro-batches than the {self.processes.count} processes"
            )
        if micro_batches > 1 and batch < 2 * micro_batches:
            raise UserError(
                f"a batch of {batch} images cannot be divided into {micro_batches} micro-batches of two or "
                "more, which the losses compare; use a larger --batch, a smaller --accumulate or fewer "
                "processes"
            )

    def run(
        self, report: Callable[[StepReport], None] = lambda _: None, save: Callable[[], None] = lambda: None
    ) -> Classifier:
        """Train from the current position to the end and return the classifier.

        Args:
            report: called after every step.
            save: called every SAVE_EVERY steps, when `state()` is consistent.
        """
        stages = self.recipe.stages()
        while self.position[0] < len(stages):
            index, step = self.position
            stage, steps = stages[index]
            if step == 0:
                self.begin(stage)
            for i in range(step, steps):
                losses = self.step(stage, i)
                self.position = (index, i + 1)
                alive = None if self.usage is None else int((self.usage > 0).sum())
                report(StepReport(stage, i, steps, losses, alive))
                if (i + 1) % SAVE_EVERY == 0:
                    save()
            self.position = (index + 1, 0)
        if "smoothness" not in dict(stages) or self.recipe.recluster:
            self.initialise_prototypes()
        return self.classifier.eval()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and description from which `restore` goes on exactly."""
        tensors = {f"classifier.{k}": v for k, v in self.classifier.state_dict().items()}
        if self.optimizer is not None:
            for i, values in self.optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{k}": v for k, v in values.items()}
        return {k: v.cpu() for k, v in tensors.items()}, {
            "position": list(self.position),
            "recipe": dataclasses.asdict(self.recipe),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            UserError: it is the state of another recipe.
        """
        if description["recipe"] != dataclasses.asdict(self.recipe):
            raise UserError(
                "--resume: the settings differ from those of the interrupted run; use its config.yaml"
            )
        index, step = description["position"]
        self.position = (index, step)
        self.classifier.load_state_dict(
            {k.removeprefix("classifier."): v for k, v in tensors.items() if k.startswith("classifier.")}
        )
        self.scaler.load_state_dict(description["scaler"])
        if step == 0:
            return
        self.optimizer = self.make_optimizer(self.recipe.stages()[index][0])
        values: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, i, key = name.split(".")
                values.setdefault(int(i), {})[key] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": values})

    def make_optimizer(self, stage: Stage) -> torch.optim.Optimizer:
        """A fresh optimiser of a stage."""
        r, c = self.recipe, self.classifier
        head: dict[str, Any] = {"params": c.head.parameters()}
        if stage != "smoothness":
            return torch.optim.Adam([head], lr=r.lr_correspondence)
        return torch.optim.Adam(
            [head, {"params": [c.local_prototypes], "lr": r.lr_prototypes}], lr=r.lr_projection
        )

    def initialise_prototypes(self) -> None:
        """Set the prototypes from the current embeddings."""

        def find() -> Tensor:
            generator = step_generator(self.recipe.seed, "clusters", 0)
            k = len(self.classifier.global_prototypes)
            if self.recipe.clustering == "minibatch":
                n = self.store.grid[0] * self.store.grid[1]
                order = torch.randperm(len(self.store), generator=generator)
                batches = embedding_batches(self.classifier, self.store, order, n, generator)
                return clustering.minibatch_kmeans(batches, k, generator)
            embeddings = sample_embeddings(self.classifier, self.store, self.recipe.seed)
            return clustering.over_clustered_prototypes(embeddings, k, generator)

        self.classifier.set_prototypes(self.processes.from_main(find))

    def begin(self, stage: Stage) -> None:
        """Set up a stage: its optimiser and, for smoothness, the prototypes."""
        if stage == "smoothness":
            self.initialise_prototypes()
        self.optimizer = self.make_optimizer(stage)

    def step(self, stage: Stage, step: int) -> dict[str, float]:
        """One optimisation step; returns the values of the losses, over all micro-batches and processes."""
        r = self.recipe
        generator = step_generator(r.seed, stage, step)
        images = draw_batch(len(self.store), r.batch, generator)
        micro_batches = images.tensor_split(r.micro_batches)
        values: dict[str, Tensor] = {}
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        for i in range(self.processes.rank, r.micro_batches, self.processes.count):
            if i > 0:
                generator = step_generator(r.seed, stage, step, micro_batch=i)
            losses = self._losses(stage, step, micro_batches[i], generator)
            weight = len(micro_batches[i]) / len(images)
            self.scaler.scale(weight * torch.stack(list(losses.values())).sum()).backward()
            if stage == "smoothness":
                losses["usage"] = self._usage
            for name, value in losses.items():
                values[name] = values.get(name, 0.0) + weight * value.detach()
        self._add_up(values)
        self.usage = values.pop("usage", None)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if stage == "smoothness":
            with torch.no_grad():
                c = self.classifier
                c.global_prototypes.lerp_(c.local_prototypes, 1.0 - r.ema)
        return {name: float(value) for name, value in values.items()}

    def _add_up(self, values: dict[str, Tensor]) -> None:
        """Add the gradients and the values of the losses up over the processes, in place."""
        if self.processes.count == 1:
            return
        assert self.optimizer is not None
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        sums = self.processes.sum([*(p.grad for p in parameters), *values.values()])
        for parameter, gradient in zip(parameters, sums, strict=False):
            parameter.grad = gradient
        values.update(zip(values, sums[len(parameters) :], strict=True))

    def _losses(self, stage: Stage, step: int, images: Tensor, generator: Generator) -> dict[str, Tensor]:
        """The weighted losses of a micro-batch, images (B,)."""
        if stage == "correspondence":
            return self._correspondence(images, generator)
        if stage == "smoothness":
            return self._smoothness(images, generator)
        if stage == "hidden_positives":
            return self._hidden_positives(step, images, generator)
        return self._eigen_aggregation(images, generator)

    def _embeddings(self, z: Tensor, generator: Generator) -> Tensor:
        """Embeddings (B, S, d) float32 of whitened tokens (B, S, k), with channel dropout."""
        z = channel_dropout(z, self.recipe.channel_dropout, generator)
        mixed = self.recipe.mixed_precision
        with torch.autocast(self.device.type, AUTOCAST[mixed], enabled=mixed != "no"):
            embeddings = self.classifier.head(z)
        assert isinstance(embeddings, Tensor)
        return embeddings.float()

    def _correspondence(self, images: Tensor, generator: Generator) -> dict[str, Tensor]:
        r, c = self.recipe, self.classifier
        n = self.store.grid[0] * self.store.grid[1]
        positions = torch.rand(len(images), n, generator=generator).argsort(1)[:, : r.correspondence_samples]
        positions = positions.to(self.device)
        z = c.whitening(self.store.tokens(images), positions)
        z_view = c.whitening(self.store.view_tokens(images), positions)
        negatives = [derangement(len(images), generator) for _ in range(r.negatives)]
        embeddings = self._embeddings(z, generator)
        embeddings_view = self._embeddings(z_view, generator)
        return {"corr": correspondence.correspondence_loss(embeddings, embeddings_view, z, z_view, negatives)}

    def _hidden_positives(self, step: int, images: Tensor, generator: Generator) -> dict[str, Tensor]:
        r, c = self.recipe, self.classifier
        n = self.store.grid[0] * self.store.grid[1]
        samples = min(r.hidden_positives_samples, n // 2)
        order = torch.randperm(n, generator=generator).to(self.device)
        index, rest = order[:samples], order[samples:]
        z = c.whitening(self.store.tokens(images))
        # The pool lies at other positions: a token in both would be its own threshold.
        others = draw_batch(len(self.store), r.batch, generator)
        pool = c.whitening(self.store.tokens(others), rest).flatten(0, 1)
        chosen = torch.randperm(len(pool), generator=generator)[: r.reference_pool]
        pool = pool[chosen.to(self.device)]
        embeddings = self._embeddings(z, generator)
        mixed = hidden_positives.local_mixture(embeddings, z, self.store.grid)[:, index].flatten(0, 1)
        embeddings, anchors = embeddings[:, index].flatten(0, 1), z[:, index].flatten(0, 1)
        agnostic = hidden_positives.hidden_positives(anchors, pool)
        with torch.no_grad():
            specific = hidden_positives.hidden_positives(c.head(anchors), c.head(pool))
        drawn = torch.rand(len(embeddings), len(embeddings), generator=generator) < hidden_positives.NEGATIVES
        progress = step / r.hidden_positives_steps
        contrast = hidden_positives.hidden_positive_losses(
            embeddings, mixed, agnostic, specific, progress, drawn.to(self.device)
        )
        embeddings_view = self._embeddings(
            c.whitening(self.store.view_tokens(images), index), generator
        ).flatten(0, 1)
        consistency = hidden_positives.consistency_loss(embeddings, embeddings_view)
        return {"hp": contrast, "consistency": hidden_positives.CONSISTENCY_WEIGHT * consistency}

    def _eigen_aggregation(self, images: Tensor, generator: Generator) -> dict[str, Tensor]:
        r, c = self.recipe, self.classifier
        n = self.store.grid[0] * self.store.grid[1]
        index = torch.randperm(n, generator=generator)[: r.eigen_aggregation_samples].to(self.device)
        z = c.whitening(self.store.tokens(images), index)
        z_view = c.whitening(self.store.view_tokens(images), index)
        negatives = [derangement(len(images), generator) for _ in range(r.negatives)]
        embeddings, embeddings_view = self._embeddings(z, generator), self._embeddings(z_view, generator)
        corr = correspondence.correspondence_loss(embeddings, embeddings_view, z, z_view, negatives)
        objects = eigen_aggregation.eigen_aggregation_loss(
            embeddings, embeddings_view, self._rgb(images, index), r.prototypes
        )
        return {
            "corr": eigen_aggregation.CORRESPONDENCE_WEIGHT * corr,
            "objects": eigen_aggregation.OBJECT_WEIGHT * objects,
        }

    def _smoothness(self, images: Tensor, generator: Generator) -> dict[str, Tensor]:
        r, c = self.recipe, self.classifier
        n = self.store.grid[0] * self.store.grid[1]
        tokens = self.store.tokens(images)
        index = torch.randperm(n, generator=generator)[: r.smoothness_samples].to(self.device)
        z = c.whitening(tokens, index)
        embeddings = self._embeddings(z, generator)
        logits = c.logits(embeddings, c.global_prototypes.detach())
        p = logits.softmax(-1)
        labels = logits.detach().argmax(-1).flatten()
        self._usage = torch.bincount(labels, minlength=r.prototypes) / len(labels)
        other = derangement(len(images), generator)
        data = smoothness.data_loss(c.logits(embeddings.detach(), c.local_prototypes), logits)
        losses = {"smooth": r.smoothness_weight * smoothness.smoothness_loss(p, z, other), "data": data}
        if r.method != "il2vseg":
            return losses
        if r.correspondence_weight:
            z_view = c.whitening(self.store.view_tokens(images), index)
            embeddings_view = self._embeddings(z_view, generator)
            negatives = [derangement(len(images), generator) for _ in range(r.negatives)]
            corr = correspondence.correspondence_loss(embeddings, embeddings_view, z, z_view, negatives)
            losses["corr"] = r.correspondence_weight * corr
        if not (r.fused_weight or r.gamma or r.beta):
            return losses
        p_seg, f_l = self._low_level(images, c.whitening(tokens), index)
        if r.fused_weight:
            fused = lowlevel.fuse(p_seg, f_l, r.fused_alpha)
            losses["fused"] = r.fused_weight * fusion.fusion_loss(logits, fused)
        if r.gamma or r.beta:
            few = slice(r.eigen_samples)
            gram = self._gram(images, z[:, few], index[few])
            f_f = lowlevel.fuse(p[:, few], f_l[:, few], r.alpha)
            l_fs, l_reg = eigenfunction.eigenfunction_losses(f_f, gram)
            losses |= {"fs": r.gamma * l_fs, "reg": r.beta * l_reg}
        return losses

    @torch.no_grad()
    def score_maps(self, images: Tensor) -> dict[str, Tensor]:
        """P_seg = softmax(F_seg/τ), F_l and F_f at prediction of the images (B,), each (B, C, h, w)."""
        c, r = self.classifier, self.recipe
        tokens = self.store.tokens(images).transpose(1, 2).unflatten(2, self.store.grid)
        p_seg = c(tokens)
        f_l = low_level_scores(self.store.colours(images, 1), p_seg, r.low_level)
        return {"F_seg": p_seg, "F_l": f_l, "F_f": lowlevel.fuse(p_seg, f_l, r.prediction_alpha)}

    @torch.no_grad()
    def _low_level(self, images: Tensor, z: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """P_seg without dropout and F_l, both (B, S, C) at the positions `index` (S,); z: (B, N, k)."""
        c = self.classifier
        p_seg = c.logits(c.head(z), c.global_prototypes).softmax(-1)
        on_grid = p_seg.transpose(1, 2).reshape(len(images), -1, *self.store.grid)
        x, p = low_level_memberships(
            self.store.colours(images, 1), on_grid, self.recipe.low_level, fcm_kernel.fuzzy_cmeans
        )
        f_l = lowlevel.affinity_rows(x, p, self.recipe.low_level.sigma, index)
        return p_seg[:, index], f_l.transpose(1, 2)

    def _gram(self, images: Tensor, z: Tensor, index: Tensor) -> Tensor:
        """Gram matrix (B·S, B·S) of the positions `index` (S,); z: (B, S, k)."""
        h, w = self.store.grid
        xy = torch.stack([index % w / w, index // w / h], 1).expand(len(images), -1, -1)
        return eigenfunction.gram_matrix(z, self._rgb(images, index), xy)

    def _rgb(self, images: Tensor, index: Tensor) -> Tensor:
        """Mean colours (B, S, 3) of the cells at the positions `index` (S,)."""
        return self.store.colours(images, 1).flatten(2).transpose(1, 2)[:, index]
