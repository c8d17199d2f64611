"""The training loop: runs the stages of a method, adds gradients up, steps, saves and resumes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from il2vseg.base.errors import UserError
from il2vseg.learning import clustering
from il2vseg.learning.draws import draw_batch, step_generator
from il2vseg.learning.monitor import StepReport
from il2vseg.learning.processes import Processes
from il2vseg.learning.store import (
    FeatureStore,
    FeatureStoreOnDevice,
    embedding_batches,
    sample_embeddings,
)
from il2vseg.methods.base import USAGE, Context, Recipe, Stage
from il2vseg.models import lowlevel
from il2vseg.models.checkpoint import load_tensors, save_tensors
from il2vseg.models.segmenter import Classifier, low_level_scores
from il2vseg.models.whitening import Whitening

SAVE_EVERY = 50
"""Steps between two saved states."""


class Trainer:
    """Runs the stages of a recipe's method over a feature store.

    All state is the classifier, the network if one is trained, its teacher if it has one, the optimiser and
    the position (stage, step):
    randomness is a function of the position, so a run that is resumed takes exactly the steps that it would
    have taken. Where there are several processes, each has all of that state and they add their gradients.
    """

    def __init__(
        self,
        store: FeatureStore,
        whitening: Whitening,
        recipe: Recipe,
        processes: Processes | None = None,
        *,
        footage: str = "",
        network: nn.Module | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        """Args:
            processes: that train together, None for this one alone on the CPU.
            footage: what tells these frames from others; a state is only restored for the same.
            network: computes the tokens of the store, on its device, and is trained with the classifier.
            teacher: of the network (`learning.live`); it is kept with it, and moved by the method.
        Raises:
            UserError: the batch is too small for its micro-batches, or there are fewer of them than
            processes.
        """
        torch.manual_seed(recipe.seed)
        self.processes = processes or Processes()
        self.device = self.processes.device
        there = self.device.type == "cpu" or network is not None
        self.store = store if there else FeatureStoreOnDevice(store, self.device)
        self.recipe = recipe
        self.footage = footage
        self.network = nn.Module() if network is None else network
        self.teacher = nn.Module() if teacher is None else teacher
        self.stages = recipe.method.stages()
        self._check_micro_batches()
        self.classifier = Classifier(whitening, recipe.prototypes, recipe.temperature).to(self.device)
        self.optimizer: torch.optim.Optimizer | None = None
        # Half-precision gradients of the head would underflow; for the other precisions it does nothing.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.mixed_precision == "fp16")
        self.position = (0, 0)
        self._derived: dict[str, dict[str, Tensor]] = {}
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
        names = list(self.stages)
        while self.position[0] < len(names):
            index, step = self.position
            name, steps = names[index], self.stages[names[index]].steps
            if step == 0:
                self.begin(name)
            for i in range(step, steps):
                losses = self.step(name, i)
                self.position = (index, i + 1)
                alive = None if self.usage is None else int((self.usage > 0).sum())
                report(StepReport(name, i, steps, losses, alive))
                if (i + 1) % SAVE_EVERY == 0:
                    save()
            self.position = (index + 1, 0)
            self.classifier.parts = nn.Module()
        trained = any(stage.trains_prototypes for stage in self.stages.values())
        if not trained or self.recipe.recluster:
            self.initialise_prototypes()
        return self.classifier.eval()

    def steps_done(self) -> int:
        """Steps of all stages before the current position."""
        index, step = self.position
        return sum(stage.steps for stage in list(self.stages.values())[:index]) + step

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and description from which `restore` goes on exactly."""
        tensors = {
            f"{name}.{k}": v
            for name, module in self._modules().items()
            for k, v in module.state_dict().items()
        }
        if self.optimizer is not None:
            for i, values in self.optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{k}": v for k, v in values.items()}
        return {k: v.cpu() for k, v in tensors.items()}, {
            "position": list(self.position),
            "recipe": self.recipe.description(),
            "scaler": self.scaler.state_dict(),
            "footage": self.footage,
        }

    def _modules(self) -> dict[str, nn.Module]:
        """What the state consists of, beside the optimiser."""
        return {"classifier": self.classifier, "network": self.network, "teacher": self.teacher}

    def restore(self, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            UserError: it is the state of another recipe, or of other footage.
        """
        if description["recipe"] != self.recipe.description():
            raise UserError(
                "--resume: the settings differ from those of the interrupted run; use its config.yaml"
            )
        if description.get("footage", self.footage) != self.footage:
            raise UserError(
                "--resume: the interrupted run saw other frames; give it the same footage, "
                "or start without --resume"
            )
        index, step = description["position"]
        self.position = (index, step)
        if step > 0:
            self.optimizer = self.make_optimizer(list(self.stages.values())[index])
        for name, module in self._modules().items():
            own = {k: v for k, v in tensors.items() if k.startswith(f"{name}.")}
            module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in own.items()})
        self.scaler.load_state_dict(description["scaler"])
        if self.optimizer is None:
            return
        values: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, i, key = name.split(".")
                values.setdefault(int(i), {})[key] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": values})

    def save(self, path: Path) -> None:
        """Write the state to a file, in the main process."""
        if self.processes.main:
            save_tensors(path, *self.state())

    def resume(self, path: Path) -> int:
        """Go on from the state in a file; return how many steps were done.

        Raises:
            UserError: there is none, or it is that of another recipe.
        """

        def read() -> tuple[dict[str, Tensor], dict[str, Any]]:
            if not path.exists():
                raise UserError(f"{path}: nothing to resume; start without --resume")
            return load_tensors(path)

        self.restore(*self.processes.from_main(read))
        return self.steps_done()

    def make_optimizer(self, stage: Stage) -> torch.optim.Optimizer:
        """A fresh optimiser of a stage and of its parts, which are made here, and of the network."""
        generator = step_generator(self.recipe.seed, "parts", 0)
        self.classifier.parts = stage.parts(self.classifier, generator).to(self.device)
        groups = stage.parameter_groups(self.classifier)
        if network := list(self.network.parameters()):
            groups.append({"params": network, "lr": stage.lr})
        return torch.optim.Adam(groups)

    def initialise_prototypes(self) -> None:
        """Set the prototypes from the current embeddings."""
        self.classifier.set_prototypes(self.processes.from_main(self.find_prototypes))

    def find_prototypes(self) -> Tensor:
        """Clusters of the current embeddings (C, d)."""
        classifier, r = self.classifier, self.recipe
        generator = step_generator(r.seed, "clusters", 0)
        if r.clustering == "minibatch":
            n = self.store.grid[0] * self.store.grid[1]
            order = torch.randperm(len(self.store), generator=generator)
            batches = embedding_batches(classifier, self.store, order, n, generator)
            return clustering.minibatch_kmeans(batches, r.prototypes, generator)
        embeddings = sample_embeddings(classifier, self.store, r.seed)
        if r.method.restarts > 1:
            return clustering.agreeing_prototypes(embeddings, r.prototypes, generator, r.method.restarts)
        return clustering.over_clustered_prototypes(embeddings, r.prototypes, generator)

    def begin(self, name: str) -> None:
        """Set up a stage: its prototypes, if it trains them, and its optimiser."""
        stage = self.stages[name]
        if stage.trains_prototypes:
            self.classifier.set_prototypes(self.processes.from_main(lambda: self._first_prototypes(name)))
        self.optimizer = self.make_optimizer(stage)

    @torch.no_grad()
    def _first_prototypes(self, name: str) -> Tensor:
        """Where a stage's prototypes start (C, d), on the CPU."""
        found = self.stages[name].first_prototypes(self._context_of_all(name, f"first {name}", 0))
        return self.find_prototypes() if found is None else found.cpu()

    def _context(
        self, images: Tensor, generator: Generator, step: int, derived: dict[str, Tensor]
    ) -> Context:
        return Context(
            self.store, self.classifier, self.recipe, self.device, images, generator, step, derived
        )

    def _context_of_all(self, name: str, purpose: str, step: int) -> Context:
        """A context of all images, for what a stage finds out beside its steps."""
        generator = step_generator(self.recipe.seed, purpose, step)
        return self._context(torch.arange(len(self.store)), generator, step, self.derived(name))

    def derived(self, name: str) -> dict[str, Tensor]:
        """What a stage needs of the whole footage, found once: a function of the footage and the seed."""
        if name not in self._derived:
            generator = step_generator(self.recipe.seed, f"derive {name}", 0)
            context = self._context(torch.arange(len(self.store)), generator, 0, {})
            self._derived[name] = self.stages[name].derive(context)
        return self._derived[name]

    @torch.no_grad()
    def _before_step(self, name: str, step: int) -> None:
        """Let a stage with parts change them before a step, alike in all processes."""
        parts = self.classifier.parts
        if not parts.state_dict():
            return

        def changed() -> dict[str, Tensor]:
            self.stages[name].before_step(self._context_of_all(name, f"before {name}", step))
            return {key: value.cpu() for key, value in parts.state_dict().items()}

        parts.load_state_dict(self.processes.from_main(changed))

    def step(self, name: str, step: int) -> dict[str, float]:
        """One optimisation step; returns the values of the losses, over all micro-batches and processes.

        Running means of the network start every micro-batch as they were before the step, and become the mean
        of what the micro-batches make of them: like gradients, they do not depend on who computes what.
        """
        stage, r = self.stages[name], self.recipe
        self._before_step(name, step)
        generator = step_generator(r.seed, name, step)
        images = draw_batch(len(self.store), r.batch, generator)
        micro_batches = images.tensor_split(r.micro_batches)
        values: dict[str, Tensor] = {}
        buffers = dict(self.network.named_buffers())
        before = {key: buffer.clone() for key, buffer in buffers.items()}
        running = {f"network.{key}": b for key, b in buffers.items() if b.is_floating_point()}
        assert self.optimizer is not None
        self.optimizer.zero_grad()
        for i in range(self.processes.rank, r.micro_batches, self.processes.count):
            if i > 0:
                generator = step_generator(r.seed, name, step, micro_batch=i)
            for key, buffer in buffers.items():
                buffer.copy_(before[key])
            context = self._context(micro_batches[i], generator, step, self.derived(name))
            losses = stage.losses(context)
            weight = len(micro_batches[i]) / len(images)
            self.scaler.scale(weight * torch.stack(list(losses.values())).sum()).backward()
            for key, value in (losses | context.observed | running).items():
                values[key] = values.get(key, 0.0) + weight * value.detach()
        self._add_up(values)
        for key, buffer in running.items():
            buffer.copy_(values.pop(key))
        self.usage = values.pop(USAGE, None)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            stage.after_step(self._context_of_all(name, f"after {name}", step))
        return {key: float(value) for key, value in values.items()}

    def _add_up(self, values: dict[str, Tensor]) -> None:
        """Add the gradients and the values up over the processes, in place."""
        if self.processes.count == 1:
            return
        assert self.optimizer is not None
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        sums = self.processes.sum([*(p.grad for p in parameters), *values.values()])
        for parameter, gradient in zip(parameters, sums, strict=False):
            parameter.grad = gradient
        values.update(zip(values, sums[len(parameters) :], strict=True))

    @torch.no_grad()
    def score_maps(self, images: Tensor) -> dict[str, Tensor]:
        """P_seg = softmax(F_seg/τ), F_l and F_f at prediction of the images (B,), each (B, C, h, w)."""
        method = self.recipe.method
        tokens = self.store.tokens(images).transpose(1, 2).unflatten(2, self.store.grid)
        p_seg = self.classifier(tokens)
        f_l = low_level_scores(self.store.colours(images, 1), p_seg, method.low_level)
        return {"F_seg": p_seg, "F_l": f_l, "F_f": lowlevel.fuse(p_seg, f_l, method.predict_alpha)}
