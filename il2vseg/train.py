"""python -m il2vseg.train: from unlabelled frames to a checkpoint."""

import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from il2vseg.base.command import (
    IGNORE_MASK_HELP,
    MAX_COUNT,
    MAX_SEED,
    MAX_SIDE,
    Settings,
    flag,
    parse,
    to_yaml,
)
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.files import require_writable_dir, write_text
from il2vseg.base.outputs import protect_run
from il2vseg.base.progress import PROGRESS_HELP, Form
from il2vseg.data import DATASETS, Crop
from il2vseg.evaluation.preview import PREVIEW_FRAMES
from il2vseg.methods import DEFAULT_METHOD, METHODS, WITHOUT_STEPS, load_method
from il2vseg.models.spec import DEFAULT_WIDTH, AdaptSpec, ModelSpec

if TYPE_CHECKING:
    from il2vseg.data import Dataset
    from il2vseg.learning.clusters import ClusterFacts
    from il2vseg.learning.monitor import Monitor
    from il2vseg.learning.processes import Processes
    from il2vseg.learning.selection import Selection
    from il2vseg.learning.store import FeatureStore
    from il2vseg.learning.trainer import Trainer
    from il2vseg.methods.base import Recipe
    from il2vseg.models.segmenter import Classifier, Segmenter
    from il2vseg.models.whitening import Whitening

PROGRAM = "python -m il2vseg.train"
STATE_NAME = "state.safetensors"
OUTPUTS = (
    "checkpoint.safetensors",
    "metrics.jsonl",
    "preview.png",
    "num_classes.json",
    "num_classes.png",
    STATE_NAME,
)
MAX_BATCH = 1 << 16


@dataclass
class TrainConfig(Settings):
    """Train a segmenter from unlabelled frames. By default on synthetic marine scenes."""

    dataset: str = flag(
        "synthetic",
        f"layout of the data: {', '.join(DATASETS)}; `folder` takes any folder of images or clips",
        metavar="NAME",
    )
    root: Path | None = flag(None, "where the data are", metavar="DIR")
    split: str = flag("train", "which split to train on")
    match: str | None = flag(
        None, "use only frames whose name matches this regular expression from its start", metavar="REGEX"
    )
    crop: Crop = flag("none", "train on whole images, their central squares, or five crops of each")
    ignore_mask: str | None = flag(None, IGNORE_MASK_HELP, metavar="FILE|POLYGON")
    num_classes: int | Literal["auto"] = flag(
        3,
        "number of classes to find; auto proposes one and shows its curve",
        low=2,
        high=255,
        metavar="K|auto",
    )
    clusters: int | Literal["auto"] | None = flag(
        None,
        "prototypes to keep, more than classes, to be named later; auto keeps 32",
        low=2,
        high=255,
        metavar="N|auto",
    )
    method: str = flag(DEFAULT_METHOD, f"training method: {', '.join(METHODS)}", metavar="NAME")
    backbone: str = flag(
        "dinov2_vits14", "feature extractor, frozen; resnet18_fpn is trained whole", metavar="NAME"
    )
    weights: Path | None = flag(
        None,
        "weights file of the backbone (timm names, safetensors); resnet18_fpn starts at random without one",
        metavar="FILE",
    )
    size: tuple[int, int] | None = flag(
        None,
        f"input height and width; default: width {DEFAULT_WIDTH}, aspect of most frames",
        low=1,
        high=MAX_SIDE,
        metavar="PIXELS",
    )
    limit: int | None = flag(
        None, "use at most this many frames, spread evenly", low=2, high=MAX_COUNT, metavar="N"
    )
    steps: int | None = flag(
        None,
        "optimisation steps of all stages together; default: the method's own; "
        f"{' and '.join(WITHOUT_STEPS)} take none",
        low=0,
        high=MAX_COUNT,
        metavar="N",
    )
    batch: int | None = flag(
        None,
        "images in a step, over all processes; default: the method's own",
        low=1,
        high=MAX_BATCH,
        metavar="N",
    )
    accumulate: int | None = flag(
        None,
        "micro-batches whose gradients are added before a step; the processes divide them, "
        "default: one per process",
        low=1,
        high=MAX_BATCH,
        metavar="N",
    )
    loss_memory: float | None = flag(
        None,
        "maximum peak memory of the tensors of a step; the batch is divided into micro-batches to fit",
        above=0,
        high=10**6,
        metavar="GIB",
    )
    mixed_precision: Literal["no", "bf16", "fp16"] | None = flag(
        None, "precision of backbone and head; default: that of `accelerate launch`, else no"
    )
    whitening: int | None = flag(
        None,
        "whitened dimensions, at most those of the backbone; default: chosen without labels",
        low=1,
        high=1 << 16,
        metavar="DIMS",
    )
    centre: bool | None = flag(None, "subtract every image's mean token; default: chosen without labels")
    alpha: float | None = flag(
        None, "weight of the low-level branch at prediction; default: the method's own", low=0, high=1
    )
    even_exposure: bool | None = flag(
        None, "even out the exposure of every image before the backbone; default: the method's own"
    )
    dark_only: bool | None = flag(
        None,
        "even out only images that are dark as a whole; default: as the method, chosen without labels by "
        f"{DEFAULT_METHOD}",
    )
    adapt: bool | None = flag(
        None, "adapt the prototypes to every image at prediction; default: as the method, with centred tokens"
    )
    clustering: Literal["ward", "minibatch"] = flag(
        "ward",
        "how prototypes are found. ward: over-cluster a sample of the embeddings and merge; "
        "minibatch: cosine mini-batch k-means of all of them",
    )
    recluster: bool = flag(False, "at the end, replace the trained prototypes by clusters of the embeddings")
    seed: int = flag(0, "seed of everything random", low=0, high=MAX_SEED, metavar="S")
    out: Path | None = flag(None, "output folder; default: runs/DATASET", metavar="DIR")
    cache: Path | None = flag(
        None, "folder of cached features; default: $IL2VSEG_CACHE or ~/.cache/il2vseg", metavar="DIR"
    )
    cache_limit: float = flag(
        100.0,
        "maximum size of all cached features; those that were not used for longest are deleted",
        low=0.0,
        high=1e6,
        metavar="GIGABYTES",
    )
    progress: Form = flag("bar", PROGRESS_HELP)
    config: Path | None = flag(None, "YAML file of these settings; flags win", metavar="FILE.yaml")
    resume: bool = flag(False, "continue from the last state in --out")


def check(config: TrainConfig) -> None:
    """Refuse settings that do not go together, before anything slow starts.

    Raises:
        UserError: no such method, fewer clusters than classes, or more whitened dimensions than the backbone
            has.
    """
    from il2vseg.learning.preparation import check_trained
    from il2vseg.models.backbones import backbone_spec

    load_method(config.method)
    clusters, classes = config.clusters, config.num_classes
    if isinstance(classes, int) and isinstance(clusters, int) and clusters < classes:
        raise UserError(f"--clusters must be at least --num-classes (got {clusters} and {classes})")
    if backbone_spec(config.backbone).trained:
        check_trained(config)
    dim = backbone_spec(config.backbone).dim
    if (config.whitening or 0) > dim:
        raise UserError(
            f"--whitening must be at most {dim}, the dimensions of {config.backbone} (got {config.whitening})"
        )


def train(config: TrainConfig, changes: dict[str, Any] | None = None) -> "Segmenter":
    """Train as configured and write the checkpoint and its companions to `config.out`.

    Args:
        changes: settings of the recipe by their paths (`Recipe.changed`), for experiments.

    Returns:
        the trained model.
    Raises:
        UserError: bad settings, no usable frames, an output folder that cannot be written.
    """
    import torch

    from il2vseg.learning import preparation as prepare
    from il2vseg.learning.clusters import survey_store
    from il2vseg.learning.monitor import Monitor, Silence
    from il2vseg.learning.processes import join_processes
    from il2vseg.learning.trainer import Trainer
    from il2vseg.models.checkpoint import assemble, backbone_digest

    started = time.monotonic()
    check(config)
    processes = join_processes()
    config = prepare.resolve_exposure(prepare.resolve_clusters(prepare.resolve_scale(config, processes)))
    out = config.out or Path("runs") / config.dataset
    if processes.main:
        require_writable_dir(out)
        protect_run(out, OUTPUTS, config.root, [config.weights])
    dataset, backbone, digest = prepare.open_footage(config, processes)
    with Monitor(out, config.progress) if processes.main else Silence() as monitor:
        config = prepare.choose_exposure(config, backbone, digest, processes, monitor)
        store = prepare.read_features(config, dataset, backbone, digest, processes, monitor)
        if not store.networks:
            # The training steps are small: more threads only wait for each other.
            torch.set_num_threads(1)
        whitening, selection, num_classes = processes.from_main(
            lambda: prepare.fit(config, store, out, monitor)
        )
        config = dataclasses.replace(config, num_classes=num_classes)
        prepare.check_tokens(config, backbone.size, backbone.patch)
        recipe = prepare.recipe_of(config, changes)
        recipe = recipe_within(config.loss_memory, recipe, store, whitening, processes, monitor)
        config = dataclasses.replace(config, accumulate=recipe.micro_batches)
        trainer = Trainer(store, whitening, recipe, processes, footage=store.footage, **store.networks)
        monitor.begin(trainer.resume(out / STATE_NAME) if config.resume else 0)
        if processes.main:
            kept = dataclasses.replace(config, resume=False, progress="bar")
            write_text(out / "config.yaml", to_yaml(kept))
        classifier = run_trainer(trainer, out / STATE_NAME, monitor).cpu()
        backbone = backbone.cpu().requires_grad_(False)
        digest = backbone_digest(backbone) or digest
        spec = model_spec(config, recipe, selection, digest, backbone.size, len(store))
        facts = processes.from_main(lambda: survey_store(classifier, store, spec.adapt))
        classifier.reorder(facts.order())
        segmenter = assemble(backbone, classifier, spec)
        if processes.main:
            write_model(out, segmenter, facts, dataset)
    if processes.main:
        print(f"{out}: trained on {len(store)} frames in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return segmenter


def recipe_within(
    gib: float | None,
    recipe: "Recipe",
    store: "FeatureStore",
    whitening: "Whitening",
    processes: "Processes",
    monitor: "Monitor",
) -> "Recipe":
    """The recipe in as many micro-batches as keep a step within `gib`; None = as it is."""
    from il2vseg.learning.memory import within_memory

    if gib is not None:
        recipe = within_memory(recipe, gib, store, whitening, processes)
        monitor.say(f"micro-batches: {recipe.micro_batches}")
    return recipe


def run_trainer(trainer: "Trainer", state: Path, monitor: "Monitor") -> "Classifier":
    """Train to the end, with a state now and then, and pictures of the scores."""
    import torch

    from il2vseg.data.dataset import spread

    shown = torch.tensor(spread(len(trainer.store), PREVIEW_FRAMES))

    def show() -> None:
        monitor.scores(trainer.store.colours(shown, 1), trainer.score_maps(shown))

    def save() -> None:
        trainer.save(state)
        if trainer.usage is not None and trainer.processes.main:
            show()

    classifier = trainer.run(monitor.step, save)
    show()
    return classifier


def write_model(out: Path, segmenter: "Segmenter", facts: "ClusterFacts", dataset: "Dataset") -> None:
    """Write the checkpoint, the clusters to be named and the preview; the state has served."""
    from il2vseg.evaluation.preview import write_preview
    from il2vseg.learning.clusters import save_names
    from il2vseg.models.checkpoint import save_checkpoint

    save_checkpoint(out, segmenter.classifier, segmenter.spec, segmenter.backbone)
    save_names(out, segmenter.spec, facts.ordered(facts.order()))
    (out / STATE_NAME).unlink(missing_ok=True)
    write_preview(out / "preview.png", segmenter, dataset)


def model_spec(
    config: TrainConfig,
    recipe: "Recipe",
    selection: "Selection",
    digest: str,
    size: tuple[int, int],
    frames: int,
) -> ModelSpec:
    """The description that the checkpoint stores."""
    return ModelSpec(
        method=config.method,
        backbone=config.backbone,
        weights_sha256=digest,
        size=size,
        class_names=tuple(f"class {i}" for i in range(recipe.prototypes)),
        alpha=recipe.method.predict_alpha if config.alpha is None else config.alpha,
        temperature=recipe.temperature,
        centre=selection.centre,
        low_level=recipe.method.low_level,
        training_data=f"{frames} frames of {config.dataset} ({config.split}), no labels",
        selection=selection.to_dict(),
        adapt=adaptation(config, recipe, selection.centre),
        even_exposure=bool(config.even_exposure),
        dark_only=bool(config.dark_only),
    )


def adaptation(config: TrainConfig, recipe: "Recipe", centre: bool) -> AdaptSpec | None:
    """How prototypes adapt to the image at prediction. Only those of centred tokens gain by it."""
    wanted = recipe.method.adapts and centre if config.adapt is None else config.adapt
    return AdaptSpec() if wanted else None


def main(argv: list[str] | None = None, prog: str = PROGRAM) -> int:
    """Entry point of `python -m il2vseg.train`."""

    def command() -> None:
        train(parse(TrainConfig, prog, argv))
        from il2vseg.learning.processes import leave_processes

        leave_processes()

    return run_command(command, prog)


if __name__ == "__main__":
    raise SystemExit(main())
