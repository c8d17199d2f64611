"""What a method is made of: stages with their losses, the settings that all methods share, and a step's view.

A new method is a file like this, and a row in `il2vseg.methods.METHODS`:

    @dataclass(frozen=True)
    class Agreement(Stage):
        steps: int = 300
        samples: int = 100

        def losses(self, context: Context) -> dict[str, Tensor]:
            index = context.positions(self.samples)
            z, z_view = context.whitened(index), context.whitened_view(index)
            return {"agreement": my_loss(context.embeddings(z), context.embeddings(z_view))}

    @dataclass(frozen=True)
    class MyMethod(Method):
        agreement: Agreement = Agreement()
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Generator, Tensor, nn

from il2vseg.learning.crops import crop
from il2vseg.learning.draws import channel_dropout, derangement
from il2vseg.learning.live import LiveFeatures
from il2vseg.learning.precision import MixedPrecision, autocast
from il2vseg.learning.store import FeatureStore
from il2vseg.models.segmenter import Classifier
from il2vseg.models.spec import LowLevelSpec

Clustering = Literal["ward", "minibatch"]

USAGE = "usage"
"""Name under which a stage with prototypes reports which share of the tokens each of them labels."""


@dataclass(frozen=True)
class Stage(ABC):
    """A part of a training with losses and an optimiser (Adam) of its own. Its fields are its settings."""

    steps: int = 300
    lr: float = 5e-4
    """Learning rate of the head."""

    trains_prototypes: ClassVar[bool] = False
    """Whether it starts from clusters of the embeddings and trains them; else the prototypes are found when
    all stages are done."""

    uses_views: ClassVar[bool] = False
    """Whether its losses look at the colour-jittered copies, whose tokens cost as much as the images'."""

    @abstractmethod
    def losses(self, context: "Context") -> dict[str, Tensor]:
        """The weighted losses, scalars, of a micro-batch; their sum is minimised."""

    def derive(self, context: "Context") -> dict[str, Tensor]:
        """What the losses need of the whole footage, as `Context.derived`: found once, before the first step
        and again where a training is resumed, so it may depend on the context's images and generator, which
        are then the same, and not on the classifier's trained parts."""
        return {}

    def first_prototypes(self, context: "Context") -> Tensor | None:
        """Where a stage that `trains_prototypes` starts: (C, d), None for clusters of the embeddings."""
        return None

    def parts(self, classifier: Classifier, generator: Generator) -> nn.Module:
        """What the training needs beside the classifier and prediction does not, such as an auxiliary head.

        It is `classifier.parts` while the stage runs, and is saved and restored with it.

        Args:
            generator: of what is random in it; on the CPU, as the parts are at first.
        """
        return nn.Module()

    def parameter_groups(self, classifier: Classifier) -> list[dict[str, Any]]:
        """Groups of parameters with their learning rates, for the optimiser: by default the head alone."""
        return [{"params": list(classifier.head.parameters()), "lr": self.lr}]

    def before_step(self, context: "Context") -> None:  # noqa: B027 (nothing to do in most stages)
        """Called before every step of a stage with parts, without gradients, with a context of all images:
        in the main process, which hands its parts to the others."""

    def after_step(self, context: "Context") -> None:  # noqa: B027 (nothing to do in most stages)
        """Called after every step of the optimiser, without gradients, with a context of all images: in all
        processes, so it reads no tokens."""


@dataclass(frozen=True)
class PrototypeStage(Stage):
    """A stage that trains the local prototypes beside the head."""

    lr_prototypes: float = 5e-4

    trains_prototypes: ClassVar[bool] = True

    def parameter_groups(self, classifier: Classifier) -> list[dict[str, Any]]:
        prototypes = {"params": [classifier.local_prototypes], "lr": self.lr_prototypes}
        return [*super().parameter_groups(classifier), prototypes]


@dataclass(frozen=True)
class Method:
    """A method and its settings. Those of its fields that are stages are its stages, in their order."""

    trains_network: ClassVar[bool] = False
    """Whether its losses can train a network whole, as the original does (`--backbone resnet18_fpn`). Those
    that compare with what the tokens already know cannot."""
    teaches_network: ClassVar[bool] = False
    """Whether that network learns from a teacher, which is the model: tokens without gradients are the
    teacher's then, and `after_step` moves it (`Context.live`)."""

    predict_alpha: float = 0.0
    """α at prediction: weight of F_l (eq. 13)."""
    low_level: LowLevelSpec = LowLevelSpec(refine=0)
    """The low-level branch, in training and at prediction."""
    adapts: bool = False
    """Whether prototypes of centred tokens adapt to the image at prediction."""
    centre: bool | None = None
    """Whether tokens are centred per image; None = what is more stable across scenes."""
    even_exposure: bool = False
    """Whether the backbone sees images of even exposure."""
    dark_only: bool | None = False
    """Whether only images that are dark are evened; None = as `il2vseg.learning.lighting` chooses."""
    restarts: int = 1
    """Clusterings that the prototypes are chosen from (`clustering.agreeing_prototypes`)."""

    def stages(self) -> dict[str, Stage]:
        """The stages by their names."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Stage)}

    @property
    def uses_views(self) -> bool:
        """Whether a stage needs the colour-jittered copies."""
        return any(stage.uses_views and stage.steps > 0 for stage in self.stages().values())

    def with_steps(self, total: int) -> Self:
        """The same method with its steps scaled to `total` of all stages together."""
        now = sum(stage.steps for stage in self.stages().values())
        scaled: dict[str, Any] = {
            name: replace(stage, steps=round(total * stage.steps / now))
            for name, stage in self.stages().items()
        }
        return replace(self, **scaled)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the training, apart from the data and the backbone."""

    method: Method
    num_classes: int = 3
    clusters: int | None = None
    """Prototypes kept where more than classes are wanted, to be named many-to-one later."""
    seed: int = 0
    batch: int = 16
    """Images of a step, over all processes together."""
    micro_batches: int = 1
    """Parts of a batch whose losses are taken apart and whose gradients are added: pairs of images, and the
    statistics of a loss, lie within a micro-batch. The processes divide the micro-batches, so the result
    depends on their number and not on that of the processes."""
    mixed_precision: MixedPrecision = "no"
    """Of the head; losses, low-level branch and parameters are float32 throughout."""
    channel_dropout: float = 0.2
    temperature: float = 0.1
    clustering: Clustering = "ward"
    """How prototypes are found: over-clustering and Ward merging of a sample of the embeddings, or cosine
    mini-batch k-means of all of them."""
    recluster: bool = False
    """Replace the trained prototypes by clusters of the final embeddings."""

    @property
    def prototypes(self) -> int:
        """Number of prototypes C."""
        return self.clusters or self.num_classes

    def description(self) -> dict[str, Any]:
        """Plain values that tell this recipe from others."""
        return dataclasses.asdict(self) | {"method_class": type(self.method).__name__}

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """The recipe with some settings changed, by their paths: {"method.smoothness.weight": 0.5}."""
        recipe = self
        for path, value in changes.items():
            recipe = _replaced(recipe, path.split("."), value)
        return recipe


def _replaced(settings: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    return replace(settings, **{name: _replaced(getattr(settings, name), rest, value) if rest else value})


@dataclass
class Context:
    """A micro-batch as the losses of a stage see it. N = h·w positions of an image, S of them sampled.

    Attributes:
        images: (B,), indices into the store. generator: the only source of randomness.
        step: of the stage, from 0.
        derived: see `Stage.derive`. observed: see `observe`.
    """

    store: FeatureStore
    classifier: Classifier
    recipe: Recipe
    device: torch.device
    images: Tensor
    generator: Generator
    step: int
    derived: dict[str, Tensor] = field(default_factory=dict)
    observed: dict[str, Tensor] = field(default_factory=dict)

    def observe(self, name: str, value: Tensor) -> None:
        """Report a value beside the losses: the mean over the micro-batches is shown, and not minimised."""
        self.observed[name] = value.detach()

    def positions(self, count: int) -> Tensor:
        """Draw positions (S,), the same in all images, at most `count`."""
        n = self.store.grid[0] * self.store.grid[1]
        return torch.randperm(n, generator=self.generator)[:count].to(self.device)

    def positions_per_image(self, count: int) -> Tensor:
        """Draw positions (B, S), others in every image, at most `count`."""
        n = self.store.grid[0] * self.store.grid[1]
        drawn = torch.rand(len(self.images), n, generator=self.generator).argsort(1)[:, :count]
        return drawn.to(self.device)

    def other_images(self) -> Tensor:
        """Draw a permutation (B,) that pairs every image with another one."""
        return derangement(len(self.images), self.generator)

    @property
    def live(self) -> LiveFeatures | None:
        """The store where a network that is trained whole computes it; None with frozen tokens."""
        return self.store if isinstance(self.store, LiveFeatures) else None

    def whitened(self, positions: Tensor | None = None) -> Tensor:
        """Whitened tokens (B, S, k) at positions (S,) or (B, S), None for all."""
        z: Tensor = self.classifier.whitening(self.store.tokens(self.images), positions)
        return z

    def whitened_view(self, positions: Tensor | None = None) -> Tensor:
        """As `whitened`, of the colour-jittered copies; the stage says `uses_views`."""
        z: Tensor = self.classifier.whitening(self.store.view_tokens(self.images), positions)
        return z

    def cropped(self, boxes: Tensor) -> Tensor:
        """Whitened tokens (B, N, k) of crops (B, 4) (`learning.crops`) of the images.

        A network that is trained whole sees crops of the pixels; frozen tokens are resampled on their grid.
        """
        if self.live is None:
            return crop(self.whitened(), boxes, self.store.grid)
        z: Tensor = self.classifier.whitening(self.live.tokens(self.images, boxes))
        return z

    def cropped_view(self, boxes: Tensor) -> Tensor:
        """As `cropped`, of the colour-jittered copies."""
        if self.live is None:
            return crop(self.whitened_view(), boxes, self.store.grid)
        z: Tensor = self.classifier.whitening(self.live.view_tokens(self.images, boxes))
        return z

    def embeddings(self, z: Tensor, head: nn.Module | None = None) -> Tensor:
        """Embeddings (B, S, d) float32 of whitened tokens (B, S, k), with channel dropout.

        Args:
            head: None for the classifier's.
        """
        z = channel_dropout(z, self.recipe.channel_dropout, self.generator)
        with autocast(self.device, self.recipe.mixed_precision):
            embeddings: Tensor = (self.classifier.head if head is None else head)(z)
        return embeddings.float()

    def rgb(self, positions: Tensor) -> Tensor:
        """Mean colours (B, S, 3) of the cells at positions (S,)."""
        return self.store.colours(self.images, 1).flatten(2).transpose(1, 2)[:, positions]
