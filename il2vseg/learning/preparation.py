"""What comes before the trainer: settings resolved, footage opened, features read, the whitening fitted."""

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from il2vseg.base.errors import UserError
from il2vseg.base.files import sha256_file, write_json
from il2vseg.base.ignore import IgnoreMask
from il2vseg.base.images import fitting_size
from il2vseg.data import Dataset, open_dataset
from il2vseg.evaluation.plots import stability_curve
from il2vseg.learning.features import CachedFeatures, FeatureCache, build_feature_store, describe
from il2vseg.learning.lighting import FRAMES, Lighting, choose_lighting
from il2vseg.learning.live import LiveFeatures
from il2vseg.learning.monitor import Monitor
from il2vseg.learning.precision import AUTOCAST
from il2vseg.learning.processes import Processes
from il2vseg.learning.room import make_room
from il2vseg.learning.selection import (
    AUTO_CLUSTERS,
    Proposal,
    Selection,
    choose_whitening,
    components_for,
    propose_classes,
    token_statistics,
)
from il2vseg.learning.store import FeatureStore
from il2vseg.methods import METHODS, load_method
from il2vseg.methods.base import Recipe
from il2vseg.models.backbones import Backbone, backbone_spec, build_backbone, check_size
from il2vseg.models.exposure import EvenExposure
from il2vseg.models.spec import DEFAULT_WIDTH
from il2vseg.models.weights import resolve_weights
from il2vseg.models.whitening import Whitening, identity

if TYPE_CHECKING:
    from il2vseg.train import TrainConfig

UNKNOWN_CLASSES = 6
"""Classes that the exposure is chosen for where their number is proposed later."""


def resolve_scale(config: "TrainConfig", processes: Processes) -> "TrainConfig":
    """Settle what depends on how the command was launched, so that config.yaml gives the same result alone.

    Raises:
        UserError: a precision that `accelerate launch` knows and this command does not.
    """
    precision: Any = config.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in AUTOCAST:
        raise UserError(f"--mixed-precision must be one of {', '.join(AUTOCAST)} (got {precision})")
    return dataclasses.replace(
        config, accumulate=config.accumulate or processes.count, mixed_precision=precision
    )


def resolve_clusters(config: "TrainConfig") -> "TrainConfig":
    """Settle how many clusters `--clusters auto` keeps."""
    if config.clusters != "auto":
        return config
    classes = config.num_classes if isinstance(config.num_classes, int) else 0
    return dataclasses.replace(config, clusters=max(AUTO_CLUSTERS, classes))


def resolve_exposure(config: "TrainConfig") -> "TrainConfig":
    """Settle what is evened as the user says, else as the method does; `dark_only` is None where that is yet
    to be chosen (`choose_exposure`)."""
    method = load_method(config.method)()
    even = method.even_exposure if config.even_exposure is None else config.even_exposure
    dark_only = (method.dark_only if config.dark_only is None else config.dark_only) if even else False
    return dataclasses.replace(config, even_exposure=even, dark_only=dark_only)


def _frames(config: "TrainConfig", limit: int | None) -> Dataset:
    return open_dataset(
        config.dataset,
        config.root,
        config.split,
        seed=config.seed,
        limit=limit,
        crop=config.crop,
        ignore=IgnoreMask.of(config.ignore_mask),
        match=config.match,
    )


def open_footage(config: "TrainConfig", processes: Processes) -> tuple[Dataset, Backbone, str]:
    """The frames, the backbone at their size, and the digest of its weights.

    Raises:
        UserError: no usable frames, no such backbone or weights, a size that does not fit.
    """
    spec = backbone_spec(config.backbone)
    if config.ignore_mask is not None and config.crop != "none":
        raise UserError("--ignore-mask takes whole images; leave --crop out")
    dataset = _frames(config, config.limit)
    size = config.size or fitting_size(dataset.common_shape(), DEFAULT_WIDTH, spec.patch)
    check_size(size, spec.patch)
    check_tokens(config, size, spec.patch)
    with processes.main_first():
        weights = resolve_weights(config.backbone, config.weights)
    digest = "random" if weights is None else sha256_file(weights)
    even, dark_only = bool(config.even_exposure), bool(config.dark_only)
    backbone = build_backbone(config.backbone, size, weights, even, dark_only, config.seed)
    return dataset, backbone.to(processes.device), digest


def choose_exposure(
    config: "TrainConfig", backbone: Backbone, digest: str, processes: Processes, monitor: Monitor
) -> "TrainConfig":
    """Choose whether only dark images are evened, where that was left open, and set the backbone to it."""
    if config.dark_only is not None:
        return config
    lighting = processes.from_main(lambda: _lighting(config, backbone, digest, monitor))
    monitor.say(lighting.summary())
    backbone.exposure = _even(backbone, lighting.dark_only)
    return dataclasses.replace(config, dark_only=lighting.dark_only)


def _even(backbone: Backbone, dark_only: bool) -> EvenExposure:
    return EvenExposure(backbone.size, backbone.patch, dark_only).to(backbone.mean.device)


def _lighting(config: "TrainConfig", backbone: Backbone, digest: str, monitor: Monitor) -> Lighting:
    """What the sample of the footage says. A number of classes that is proposed later counts as
    UNKNOWN_CLASSES."""
    sample = _frames(config, min(FRAMES, config.limit or FRAMES))
    classes = config.num_classes if isinstance(config.num_classes, int) else UNKNOWN_CLASSES
    clusters = config.clusters if isinstance(config.clusters, int) else None
    components = config.whitening or components_for(classes, backbone.dim, clusters)
    centre = load_method(config.method)().centre if config.centre is None else config.centre
    ignore = IgnoreMask.of(config.ignore_mask)
    ignored = None if ignore is None else ignore.cells(backbone.grid)

    def cache(dark_only: bool) -> FeatureCache:
        b, even = backbone, _even(backbone, dark_only)
        form = Backbone(b.name, b.vit, b.size, b.mean, b.std, even)
        return FeatureCache(form, digest, config.cache, config.mixed_precision or "no")

    frames = monitor.track("exposure", len(sample))(s.frame for s in sample)
    files, colours = describe(frames, [cache(False), cache(True)])

    def store(dark_only: bool) -> CachedFeatures:
        return CachedFeatures(backbone.grid, *files[dark_only], np.stack(colours), ignored)

    return choose_lighting(store, clusters or classes, components, bool(centre))


def check_tokens(config: "TrainConfig", size: tuple[int, int], patch: int) -> None:
    """Make sure that a frame has as many tokens as there are prototypes, once their number is known.

    Raises:
        UserError: it has fewer.
    """
    tokens = size[0] // patch * (size[1] // patch)
    wanted = max(n for n in (config.clusters, config.num_classes, 0) if isinstance(n, int))
    if wanted > tokens:
        raise UserError(
            f"{wanted} classes are more than the {tokens} tokens of a {size[0]}x{size[1]} frame; "
            "ask for fewer classes or a larger --size"
        )


def check_trained(config: "TrainConfig") -> None:
    """Refuse settings of frozen tokens where the backbone is trained whole.

    Raises:
        UserError: there are such, or the method cannot train a network.
    """
    able = [name for name in METHODS if load_method(name).trains_network]
    if config.method not in able:
        raise UserError(
            f"--backbone {config.backbone} is trained whole, which --method {config.method} cannot do; "
            f"those that can: {', '.join(able)}"
        )
    refused = {
        "--whitening": config.whitening is not None,
        "--centre": bool(config.centre),
        "--num-classes auto": config.num_classes == "auto",
        "--loss-memory": config.loss_memory is not None,
        "--ignore-mask": config.ignore_mask is not None,
        "--even-exposure": bool(config.even_exposure),
    }
    if given := [name for name, is_given in refused.items() if is_given]:
        raise UserError(f"{', '.join(given)}: for frozen backbones only, and {config.backbone} is trained")


def read_features(
    config: "TrainConfig",
    dataset: Dataset,
    backbone: Backbone,
    digest: str,
    processes: Processes,
    monitor: Monitor,
) -> CachedFeatures | LiveFeatures:
    """Tokens and colours of all frames, computed where the cache lacks them; of a backbone that is trained,
    what computes them at every step, in every process from all of the frames."""
    if backbone_spec(config.backbone).trained:
        frames = monitor.track("frames", len(dataset))
        taught = load_method(config.method).teaches_network
        live = LiveFeatures(dataset, backbone, config.mixed_precision or "no", frames, taught)
        say_notes(dataset, backbone, monitor)
        return live
    cache = FeatureCache(backbone, digest, config.cache, config.mixed_precision or "no")
    views = load_method(config.method)().uses_views
    needed = (1 + views) * len(dataset) * cache.bytes_per_frame()  # each frame, and its jittered copy
    limit = int(1e9 * config.cache_limit)
    monitor.say(processes.from_main(lambda: make_room(cache.folder, needed, limit)))
    progress = monitor.track("features", math.ceil(len(dataset) / processes.count))
    ignore = IgnoreMask.of(config.ignore_mask)
    store = build_feature_store(dataset, cache, views, progress=progress, processes=processes, ignore=ignore)
    say_notes(dataset, backbone, monitor)
    return store


def say_notes(dataset: Dataset, backbone: Backbone, monitor: Monitor) -> None:
    """Say what was skipped, and which frames have another shape."""
    for note in (dataset.skipped_note(), dataset.shape_note(backbone.size)):
        if note:
            monitor.say(note)


def fit(
    config: "TrainConfig", store: FeatureStore, out: Path, monitor: Monitor
) -> tuple[Whitening, Selection, int]:
    """The whitening, how it was chosen, and the number of classes, proposed where that is asked for.

    What a network that is trained whole computes is taken as it is.
    """
    if isinstance(store, LiveFeatures):
        assert isinstance(config.num_classes, int), "refused in check_trained"
        return identity(store.dim), Selection(store.dim, False, "trained"), config.num_classes
    statistics = token_statistics(store)
    classes = config.num_classes
    centre = load_method(config.method)().centre if config.centre is None else config.centre
    if classes == "auto":
        proposal = propose_classes(store, statistics, centre, monitor.track("number of classes"))
        write_proposal(out, proposal)
        monitor.say(proposal.summary())
        classes = proposal.num_classes
    progress = monitor.track("whitening")
    assert config.clusters != "auto", "not yet resolved"
    selection = choose_whitening(
        store, statistics, classes, config.whitening, centre, progress, config.clusters
    )
    monitor.say(selection.summary())
    return statistics.whitening(selection.components, selection.centre), selection, classes


def write_proposal(out: Path, proposal: Proposal) -> None:
    """Write num_classes.json and num_classes.png: the number proposed and the curve behind it."""
    write_json(out / "num_classes.json", proposal.to_dict())
    counts, stability, spread = zip(*(vars(c).values() for c in proposal.curve), strict=True)
    stability_curve(out / "num_classes.png", counts, stability, spread, proposal.num_classes)


def recipe_of(config: "TrainConfig", changes: dict[str, Any] | None = None) -> Recipe:
    """The recipe of a method with the settings of the user and, for experiments, `changes` of its fields."""
    assert isinstance(config.num_classes, int), "not yet proposed"
    assert config.clusters != "auto", "not yet resolved"
    scale: dict[str, Any] = {
        "batch": config.batch,
        "micro_batches": config.accumulate,
        "mixed_precision": config.mixed_precision,
    }
    recipe = Recipe(
        load_method(config.method)(),
        num_classes=config.num_classes,
        clusters=config.clusters,
        seed=config.seed,
        clustering=config.clustering,
        recluster=config.recluster,
        **{k: v for k, v in scale.items() if v is not None},
    ).changed(changes or {})
    return (
        recipe if config.steps is None else recipe.changed({"method": recipe.method.with_steps(config.steps)})
    )
