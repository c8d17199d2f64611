"""python -m il2vseg.train: from unlabelled frames to a checkpoint."""

import dataclasses
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from il2vseg.base.command import MAX_COUNT, MAX_SEED, MAX_SIDE, Settings, flag, parse, to_yaml
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.files import require_writable_dir, sha256_file, write_json, write_text
from il2vseg.data.dataset import Crop

if TYPE_CHECKING:
    from torch import Tensor

    from il2vseg.data import Dataset
    from il2vseg.learning.processes import Processes
    from il2vseg.learning.selection import Proposal, Selection
    from il2vseg.learning.trainer import Recipe, Trainer
    from il2vseg.models.segmenter import Segmenter
    from il2vseg.models.spec import AdaptSpec
    from il2vseg.models.whitening import Whitening

PROGRAM = "il2vseg.train"
STATE_NAME = "state.safetensors"
DEFAULT_WIDTH = 448
PREVIEW_FRAMES = 6
MAX_BATCH = 1 << 16


@dataclass
class TrainConfig(Settings):
    """Train a segmenter from unlabelled frames. By default on synthetic marine scenes."""

    dataset: Literal[
        "folder", "mastr1325", "intcatch", "camvid", "cityscapes", "cocostuff", "potsdam", "synthetic"
    ] = flag("synthetic", "layout of the data; `folder` takes any folder of images or clips")
    root: Path | None = flag(None, "where the data are", metavar="DIR")
    split: str = flag("train", "which split to train on")
    crop: Crop = flag("none", "train on whole images, their central squares, or five crops of each")
    num_classes: int | Literal["auto"] = flag(
        3,
        "number of classes to find; auto proposes one and shows its curve",
        low=2,
        high=255,
        metavar="K|auto",
    )
    clusters: int | None = flag(
        None, "prototypes to keep when more than classes, to be named later", low=2, high=255, metavar="N"
    )
    method: Literal["il2vseg", "smooseg", "stego", "hp", "eagle", "kmeans"] = flag(
        "il2vseg", "training preset"
    )
    backbone: str = flag("dinov2_vits14", "frozen feature extractor", metavar="NAME")
    weights: Path | None = flag(
        None, "weights file of the backbone (timm names, safetensors)", metavar="FILE"
    )
    size: tuple[int, int] | None = flag(
        None,
        f"input height and width; default: width {DEFAULT_WIDTH}, aspect of the first frame",
        low=1,
        high=MAX_SIDE,
        metavar="PIXELS",
    )
    limit: int | None = flag(
        None, "use at most this many frames, spread evenly", low=2, high=MAX_COUNT, metavar="N"
    )
    steps: int | None = flag(
        None,
        "optimisation steps of all stages together; default: the method's own",
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
    adapt: bool | None = flag(
        None, "adapt the prototypes to every image at prediction; default: il2vseg on centred tokens does"
    )
    clustering: Literal["ward", "minibatch"] = flag(
        "ward",
        "how prototypes are found: over-cluster a sample of the embeddings and merge, or cosine mini-batch "
        "k-means of all of them",
    )
    recluster: bool = flag(False, "in the end, replace the trained prototypes by clusters of the embeddings")
    seed: int = flag(0, "seed of everything random", low=0, high=MAX_SEED, metavar="S")
    out: Path | None = flag(None, "output folder; default: runs/DATASET", metavar="DIR")
    cache: Path | None = flag(
        None, "folder of cached features; default: $IL2VSEG_CACHE or ~/.cache/il2vseg", metavar="DIR"
    )
    config: Path | None = flag(None, "YAML file of these settings; flags win", metavar="FILE.yaml")
    resume: bool = flag(False, "go on from the last state in --out")


def check(config: TrainConfig) -> None:
    """Refuse settings that do not go together, before anything slow starts.

    Raises:
        UserError: fewer clusters than classes, or more whitened dimensions than the backbone has.
    """
    from il2vseg.models.backbones import backbone_spec

    if isinstance(config.num_classes, int) and (config.clusters or 255) < config.num_classes:
        raise UserError(
            f"--clusters must be at least --num-classes (got {config.clusters} and {config.num_classes})"
        )
    dim = backbone_spec(config.backbone).dim
    if (config.whitening or 0) > dim:
        raise UserError(
            f"--whitening must be at most {dim}, the dimensions of {config.backbone} (got {config.whitening})"
        )


def default_size(frame_size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Input size for frames of `frame_size` (H, W): about DEFAULT_WIDTH wide, their aspect, whole patches."""
    w = max(1, round(DEFAULT_WIDTH / patch))
    h = max(1, round(DEFAULT_WIDTH * frame_size[0] / frame_size[1] / patch))
    return h * patch, w * patch


def recipe_of(config: TrainConfig, changes: dict[str, Any] | None = None) -> "Recipe":
    """The recipe of a method with the settings of the user and, for experiments, `changes` of its fields."""
    from il2vseg.learning.trainer import PRESETS, Recipe

    assert isinstance(config.num_classes, int), "not yet proposed"
    scale: dict[str, Any] = {
        "batch": config.batch,
        "micro_batches": config.accumulate,
        "mixed_precision": config.mixed_precision,
    }
    recipe = Recipe(
        method=config.method,
        num_classes=config.num_classes,
        clusters=config.clusters,
        seed=config.seed,
        clustering=config.clustering,
        recluster=config.recluster,
        **{**PRESETS[config.method], **{k: v for k, v in scale.items() if v is not None}, **(changes or {})},
    )
    if config.steps is None:
        return recipe
    total = sum(steps for _, steps in recipe.stages())
    scaled: dict[str, Any] = {
        f"{stage}_steps": round(config.steps * steps / total) for stage, steps in recipe.stages()
    }
    return dataclasses.replace(recipe, **scaled)


def resolve_scale(config: TrainConfig, processes: "Processes") -> TrainConfig:
    """Settle what depends on how the command was launched, so that config.yaml gives the same result alone.

    Raises:
        UserError: a precision that `accelerate launch` knows and this command does not.
    """
    from il2vseg.learning.trainer import AUTOCAST

    precision: Any = config.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in AUTOCAST:
        raise UserError(f"--mixed-precision {precision}: one of {', '.join(AUTOCAST)}")
    return dataclasses.replace(
        config, accumulate=config.accumulate or processes.count, mixed_precision=precision
    )


def train(config: TrainConfig, changes: dict[str, Any] | None = None) -> "Segmenter":
    """Train as configured and write the checkpoint and its companions to `config.out`.

    Args:
        changes: fields of the recipe to set differently, for experiments.

    Returns:
        the trained model.
    Raises:
        UserError: bad settings, no usable frames, an output folder that cannot be written.
    """
    import torch

    from il2vseg.data import open_dataset
    from il2vseg.data.dataset import spread
    from il2vseg.learning.features import FeatureCache, build_feature_store
    from il2vseg.learning.memory import GIB, micro_batches_within
    from il2vseg.learning.monitor import Monitor, Silence
    from il2vseg.learning.processes import join_processes
    from il2vseg.learning.selection import choose_whitening, propose_classes, token_statistics
    from il2vseg.learning.trainer import Trainer
    from il2vseg.models.backbones import backbone_spec, build_backbone, check_size
    from il2vseg.models.checkpoint import assemble, save_checkpoint
    from il2vseg.models.spec import ModelSpec
    from il2vseg.models.weights import resolve_weights

    started = time.monotonic()
    check(config)
    processes = join_processes()
    config = resolve_scale(config, processes)
    out = config.out or Path("runs") / config.dataset
    if processes.main:
        require_writable_dir(out)
    spec = backbone_spec(config.backbone)
    dataset = open_dataset(
        config.dataset, config.root, config.split, seed=config.seed, limit=config.limit, crop=config.crop
    )
    size = config.size or default_size(next(iter(dataset)).frame.shape[:2], spec.patch)
    check_size(size, spec.patch)
    check_tokens(config, size, spec.patch)
    with processes.main_first():
        weights = resolve_weights(config.backbone, config.weights)
    digest = "random" if weights is None else sha256_file(weights)
    backbone = build_backbone(config.backbone, size, weights).to(processes.device)
    with Monitor(out) if processes.main else Silence() as monitor:
        cache = FeatureCache(backbone, digest, config.cache, config.mixed_precision or "no")
        mine = math.ceil(len(dataset) / processes.count)
        store = build_feature_store(
            dataset, cache, progress=monitor.track("features", mine), processes=processes
        )
        if dataset.skipped:
            monitor.say(f"left out {len(dataset.skipped)} unreadable files, the first: {dataset.skipped[0]}")
        # The training steps are small: more threads only wait for each other.
        torch.set_num_threads(1)

        def fit() -> "tuple[int, Selection, Whitening]":
            statistics = token_statistics(store)
            classes = config.num_classes
            if classes == "auto":
                proposal = propose_classes(
                    store, statistics, config.centre, monitor.track("number of classes")
                )
                write_proposal(out, proposal)
                monitor.say(proposal.summary())
                classes = proposal.num_classes
            whiten = monitor.track("whitening")
            selection = choose_whitening(store, statistics, classes, config.whitening, config.centre, whiten)
            return classes, selection, statistics.whitening(selection.components, selection.centre)

        num_classes, selection, whitening = processes.from_main(fit)
        config = dataclasses.replace(config, num_classes=num_classes)
        check_tokens(config, size, spec.patch)
        recipe = recipe_of(config, changes)
        monitor.say(selection.summary())
        if config.loss_memory is not None:
            limit, batch = int(config.loss_memory * GIB), min(recipe.batch, len(store))
            dims = (backbone.dim, selection.components)
            needed = processes.from_main(
                lambda: micro_batches_within(limit, recipe, batch, store.grid, *dims)
            )
            recipe = dataclasses.replace(recipe, micro_batches=max(recipe.micro_batches, needed))
            config = dataclasses.replace(config, accumulate=recipe.micro_batches)
            monitor.say(f"micro-batches: {recipe.micro_batches}")
        trainer = Trainer(store, whitening, recipe, processes)
        monitor.begin(_restore(trainer, out) if config.resume else 0)
        if processes.main:
            write_text(out / "config.yaml", to_yaml(dataclasses.replace(config, resume=False)))
        shown = torch.tensor(spread(len(store), PREVIEW_FRAMES))

        def save() -> None:
            _save_state(trainer, out)
            if trainer.usage is not None and processes.main:
                monitor.scores(trainer.store.colours(shown, 1), trainer.score_maps(shown))

        classifier = trainer.run(monitor.step, save)
        monitor.scores(trainer.store.colours(shown, 1), trainer.score_maps(shown))
        classifier = classifier.cpu()
        model_spec = ModelSpec(
            method=config.method,
            backbone=config.backbone,
            weights_sha256=digest,
            size=size,
            class_names=tuple(f"class {i}" for i in range(recipe.prototypes)),
            alpha=recipe.prediction_alpha if config.alpha is None else config.alpha,
            temperature=recipe.temperature,
            centre=selection.centre,
            low_level=recipe.prediction_low_level,
            training_data=f"{len(store)} frames of {config.dataset} ({config.split}), no labels",
            selection=selection.to_dict(),
            adapt=adaptation(config, selection.centre),
        )
        segmenter = assemble(backbone.cpu(), classifier, model_spec)
        if processes.main:
            save_checkpoint(out, classifier, model_spec)
            (out / STATE_NAME).unlink(missing_ok=True)
            write_preview(out / "preview.png", segmenter, dataset)
    if processes.main:
        print(f"{out}: trained on {len(store)} frames in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return segmenter


def adaptation(config: TrainConfig, centre: bool) -> "AdaptSpec | None":
    """How prototypes adapt to the image at prediction. Only those of centred tokens gain by it."""
    from il2vseg.models.spec import AdaptSpec

    wanted = config.method == "il2vseg" and centre if config.adapt is None else config.adapt
    return AdaptSpec() if wanted else None


def check_tokens(config: TrainConfig, size: tuple[int, int], patch: int) -> None:
    """Make sure that a frame has as many tokens as there are prototypes, once their number is known.

    Raises:
        UserError: it has fewer.
    """
    tokens = size[0] // patch * (size[1] // patch)
    wanted = max(config.clusters or 0, config.num_classes if isinstance(config.num_classes, int) else 0)
    if wanted > tokens:
        raise UserError(
            f"{wanted} classes are more than the {tokens} tokens of a {size[0]}x{size[1]} frame; "
            "ask for fewer classes or a larger --size"
        )


def write_proposal(out: Path, proposal: "Proposal") -> None:
    """Write num_classes.json and num_classes.png: the number proposed and the curve behind it."""
    from il2vseg.evaluation.plots import stability_curve

    write_json(out / "num_classes.json", proposal.to_dict())
    counts, stability, spread = zip(*(vars(c).values() for c in proposal.curve), strict=True)
    stability_curve(out / "num_classes.png", counts, stability, spread, proposal.num_classes)


def _save_state(trainer: "Trainer", out: Path) -> None:
    from il2vseg.models.checkpoint import save_tensors

    if trainer.processes.main:
        save_tensors(out / STATE_NAME, *trainer.state())


def _restore(trainer: "Trainer", out: Path) -> int:
    """Go on from the state in `out`; return how many steps were done."""
    from il2vseg.models.checkpoint import load_tensors

    path = out / STATE_NAME

    def read() -> "tuple[dict[str, Tensor], dict[str, Any]]":
        if not path.exists():
            raise UserError(f"{path}: nothing to resume; start without --resume")
        return load_tensors(path)

    trainer.restore(*trainer.processes.from_main(read))
    stage, step = trainer.position
    return sum(steps for _, steps in trainer.recipe.stages()[:stage]) + step


def write_preview(path: Path, segmenter: "Segmenter", dataset: "Dataset") -> None:
    """Write a contact sheet of training frames and their predictions."""
    import torch

    from il2vseg.base.images import resize_frame
    from il2vseg.base.palette import default_palette
    from il2vseg.evaluation.plots import SheetRow, sheet

    wanted = {round((i + 0.5) * len(dataset) / PREVIEW_FRAMES) for i in range(PREVIEW_FRAMES)}
    rows = []
    for i, sample in enumerate(dataset):
        if i in wanted:
            frame = resize_frame(sample.frame, segmenter.size)
            labels = segmenter.predict(torch.from_numpy(frame)[None])[0][0].numpy()
            rows.append(SheetRow(sample.name, sample.frame, labels))
    sheet(path, rows, segmenter.class_names, default_palette(segmenter.num_classes))


def main(argv: list[str] | None = None) -> int:
    """Entry point of `python -m il2vseg.train`."""

    def command() -> None:
        train(parse(TrainConfig, f"python -m {PROGRAM}", argv))
        from il2vseg.learning.processes import leave_processes

        leave_processes()

    return run_command(command, PROGRAM)


if __name__ == "__main__":
    raise SystemExit(main())
