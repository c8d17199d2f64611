"""il2vseg-name: give clusters names, and let several clusters be one class where that is true.

Naming takes two steps: the command paints, for every cluster, frames in which it occurs, and a person
(or a handful of masks, --from-masks) says what each one shows. Clusters with the same name are one class from
then on: in the manifest of an export, in the next export of a checkpoint, and for `il2vseg.distill`.
A cluster that holds several things is best divided (--divide) or called unsure. names.yaml beside a
checkpoint keeps the names by what the clusters look like, and --from carries them over to a model that was
trained again. --serve does all of that on a page.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from il2vseg.base.classes import merge
from il2vseg.base.command import IGNORE_MASK_HELP, MAX_COUNT, Settings, flag, parse
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.ignore import IgnoreMask
from il2vseg.base.images import Frame, Labels, resize_frame, resize_labels
from il2vseg.base.outputs import footage_files, model_files, protect
from il2vseg.export.tools.exemplars import survey, write_exemplars
from il2vseg.export.tools.judging import divide, judge, parse_divisions, proposed_names, serve

if TYPE_CHECKING:
    from il2vseg.data import Dataset
    from il2vseg.export.tools.prototypes import Clusters
    from il2vseg.learning.clusters import ClusterFacts

PROGRAM = "il2vseg-name"
PICTURE_NAME = "clusters.png"
LIMIT = 300


@dataclass
class NameConfig(Settings):
    """Show what every cluster of a model is, and name clusters. Clusters with the same name are one class."""

    model: Path = flag(dataclasses.MISSING, "folder of a checkpoint or of an export", metavar="DIR")
    dataset: str = flag("folder", "layout of the footage to show clusters in")
    root: Path | None = flag(None, "footage to look at; without it no picture is written", metavar="DIR|CLIP")
    split: str = flag("train", "split of the data set")
    ignore_mask: str | None = flag(None, IGNORE_MASK_HELP, metavar="FILE|POLYGON")
    set: tuple[str, ...] | None = flag(None, "names: 0=water 1=sky 2=water", metavar="N=NAME")
    from_: Path | None = flag(
        None,
        "carry the names over from a names.yaml, or from the checkpoint folder that holds one",
        metavar="FILE|DIR",
    )
    from_masks: Path | None = flag(
        None,
        "name clusters after the masks in this split of a data set (ROOT/SPLIT) of the layout --dataset",
        metavar="DIR",
    )
    divide: tuple[str, ...] | None = flag(
        None, "divide clusters that hold several things: 3 into two, 5=3 into three", metavar="N[=PARTS]"
    )
    like: Path | None = flag(
        None, "propose the names that a named model gives the same frames", metavar="MODEL"
    )
    accept: float | None = flag(
        None,
        "take over the proposals of --like that agree with so much of a cluster without a name",
        above=0,
        high=1,
        metavar="SHARE",
    )
    clicks: Path | None = flag(
        None, "points that a person named: say how many the names agree with", metavar="FILE"
    )
    serve: str | None = flag(
        None,
        "name on a page in the browser; without a host only this machine is served",
        metavar="[HOST:]PORT",
    )
    token: str | None = flag(None, "what a browser must know to see the page", metavar="TEXT")
    allow_host: tuple[str, ...] | None = flag(
        None, "further names of this machine that the page answers to", metavar="NAME"
    )
    picture: Path | None = flag(
        None, f"where to write the exemplars; default: MODEL/{PICTURE_NAME}", metavar="FILE"
    )
    limit: int = flag(LIMIT, "frames to look at, at most, evenly spread", low=1, high=MAX_COUNT, metavar="N")
    weights: Path | None = flag(None, "weights file of the backbone", metavar="FILE")


@dataclass(frozen=True)
class NamedModel:
    """A checkpoint or an export, as naming sees it.

    Attributes:
        size: (H, W) of its frames. names: one per cluster.
        predict: BGR frame (H, W, 3) -> cluster ids (H, W). rename: stores new names, one per cluster.
        clusters: of a checkpoint with prototypes, else None.
    """

    size: tuple[int, int]
    names: tuple[str, ...]
    predict: Callable[[Frame], Labels]
    rename: Callable[[Sequence[str]], None]
    clusters: "Clusters | None" = None


def open_model(folder: Path, weights: Path | None = None) -> NamedModel:
    """Open a checkpoint or an export for naming.

    Raises:
        UserError: the folder holds neither.
    """
    from il2vseg.models.checkpoint import FILE_NAME as CHECKPOINT
    from il2vseg.runtime.manifest import FILE_NAME as MANIFEST

    if (folder / MANIFEST).is_file():
        return _open_export(folder)
    if (folder / CHECKPOINT).is_file():
        return _open_checkpoint(folder, weights)
    raise UserError(f"{folder}: neither a checkpoint ({CHECKPOINT}) nor an export ({MANIFEST})")


def _open_checkpoint(folder: Path, weights: Path | None) -> NamedModel:
    import torch

    from il2vseg.export.tools.prototypes import Clusters
    from il2vseg.models.checkpoint import load_checkpoint, rename_clusters
    from il2vseg.models.segmenter import Segmenter

    segmenter = load_checkpoint(folder, weights=weights)

    def predict(frame: Frame) -> Labels:
        return np.asarray(segmenter.predict(torch.from_numpy(frame)[None])[0][0].numpy(), dtype=np.uint8)

    clusters = Clusters(folder, segmenter) if isinstance(segmenter, Segmenter) else None
    return NamedModel(
        segmenter.size,
        tuple(segmenter.class_names),
        predict,
        lambda names: rename_clusters(folder, names),
        clusters,
    )


def _open_export(folder: Path) -> NamedModel:
    from il2vseg.export.describe import class_infos
    from il2vseg.export.runners import onnx_runner
    from il2vseg.runtime.manifest import Manifest, verify_file

    manifest = Manifest.load(folder)
    entry = next((f for f in manifest.files if f.format == "onnx"), None)
    if entry is None:
        raise UserError(f"{folder}: no ONNX file in the manifest; name the checkpoint and export again")
    run = onnx_runner(verify_file(folder, entry))

    def rename(names: Sequence[str]) -> None:
        classes, clusters = merge(names)
        dataclasses.replace(manifest, classes=class_infos(classes), clusters=clusters).save(folder)

    names = tuple(manifest.classes[c].name for c in manifest.clusters)
    return NamedModel(manifest.size, names, lambda frame: run(frame[None])[0][0], rename)


def parse_names(settings: Sequence[str], current: Sequence[str]) -> list[str]:
    """Apply settings `N=NAME` to the current names, one per cluster.

    Raises:
        UserError: a setting of another form, or of a cluster that does not exist.
    """
    names = list(current)
    for setting in settings:
        number, equals, name = setting.partition("=")
        if not equals or not number.strip().isdigit() or not name.strip():
            raise UserError(f"--set {setting}: write it as 0=water")
        if int(number) >= len(names):
            raise UserError(f"--set {setting}: this model has the clusters 0 to {len(names) - 1}")
        names[int(number)] = name.strip()
    return names


def names_from_masks(
    model: NamedModel, dataset: "Dataset", current: Sequence[str]
) -> tuple[list[str], list[int]]:
    """Name clusters after classes: a class gets the cluster that Hungarian matching finds for it where that
    holds most of the class, the other clusters the class that they cover most.

    Args:
        dataset: opened with masks.
        current: names to keep where a cluster does not occur.
    Returns:
        names, and the clusters that did not occur.
    """
    from il2vseg.evaluation.metrics import UNASSIGNED, Confusion, hungarian, many_to_one

    confusion = Confusion(len(current), len(dataset.class_names))
    for sample in dataset:
        assert sample.labels is not None
        predicted = model.predict(resize_frame(sample.frame, model.size))
        confusion.update(resize_labels(predicted, sample.labels.shape[:2]), sample.labels)
    counts = confusion.counts
    seen = counts.sum(1) > 0
    matched = hungarian(counts)
    held = counts[np.arange(len(counts)), matched] / counts.sum(0)[matched].clip(1)
    own = (matched != UNASSIGNED) & (held > 0.5)
    found = np.where(own, matched, many_to_one(counts))
    names = [dataset.class_names[c] if s else n for c, s, n in zip(found, seen, current, strict=True)]
    return names, np.flatnonzero(~seen).tolist()


def name(config: NameConfig) -> list[str]:
    """Run the command; return the names, one per cluster.

    Raises:
        UserError: no such model, footage or masks, or wrong names.
    """
    from il2vseg.data import open_dataset

    check(config)
    path = config.picture or config.model / PICTURE_NAME
    read = [*footage_files(config.root, config.from_masks), *model_files(config.model)]
    protect([path], read, advice="choose another --picture")
    ignore = IgnoreMask.of(config.ignore_mask)

    def footage() -> "Dataset":
        return open_dataset(config.dataset, config.root, config.split, limit=config.limit, ignore=ignore)

    if config.serve is not None:
        serve(config)
    model = open_model(config.model, config.weights)
    if config.divide is not None:
        divide(model, parse_divisions(config.divide), footage(), ignore)
        model = open_model(config.model, config.weights)
    names = new_names(config, model, footage, ignore)
    if names != list(model.names):
        model.rename(names)
    facts = None
    if config.root is not None or config.dataset == "synthetic":
        shown = footage()
        facts = show(model, shown, names, path, ignore)
        _note(shown)
    if model.clusters is not None:
        model.clusters.save_names(names, facts)
    if config.clicks is not None:
        judge(config, model, names)
    for i, n in enumerate(names):
        print(f"{i}={n}")
    return names


def check(config: NameConfig) -> None:
    """Refuse settings that do not go together.

    Raises:
        UserError: footage is needed, --accept stands alone, or the clicks cannot be read.
    """
    from il2vseg.evaluation.clicks import load_clicks

    if config.clicks is not None and not load_clicks(config.clicks):
        raise UserError(f"{config.clicks}: holds no click")
    needs = [f"--{flag}" for flag in ("divide", "like", "clicks") if getattr(config, flag) is not None]
    if needs and config.root is None and config.dataset != "synthetic":
        raise UserError(f"{needs[0]} needs the footage: --root DIR|CLIP")
    if config.accept is not None and config.like is None:
        raise UserError("--accept takes over proposals: say whose with --like MODEL")


def new_names(
    config: NameConfig, model: NamedModel, footage: "Callable[[], Dataset]", ignore: IgnoreMask | None
) -> list[str]:
    """Names by the flags, each winning over those before it: masks, --from, --like, --set."""
    from il2vseg.data import open_dataset

    names = list(model.names)
    if config.from_masks is not None:
        root, split = config.from_masks.resolve().parent, config.from_masks.name
        masks = open_dataset(config.dataset, root, split, labelled=True, limit=config.limit, ignore=ignore)
        names, unseen = names_from_masks(model, masks, names)
        _note(masks)
        _warn(unseen, "does not occur in these masks and keeps its name")
    if config.from_ is not None:
        names = carried_names(model, config.from_)
    if config.like is not None:
        names = proposed_names(model, footage(), names, config.like, config.accept)
    return parse_names(config.set or (), names)


def _note(dataset: "Dataset") -> None:
    if note := dataset.skipped_note():
        print(note, file=sys.stderr)


def show(
    model: NamedModel, footage: "Dataset", names: Sequence[str], path: Path, ignore: IgnoreMask | None
) -> "ClusterFacts | None":
    """Write the picture, say how pure every cluster is, and return what is known of the clusters."""
    found = survey(model, footage, ignore)
    facts = None if model.clusters is None else model.clusters.facts()
    purity = None if facts is None else facts.purity()
    write_exemplars(path, found, names, purity)
    for cluster, (n, words) in enumerate(zip(names, purity or (), strict=False)):
        share = 100 * found.shares[:, cluster].mean()
        print(f"cluster {cluster} ({n}): {share:.1f} % of the pixels, {words}", file=sys.stderr)
    _warn(found.unseen(), "does not occur in this footage: look at other footage before you name it")
    print(f"{path}: what each cluster shows", file=sys.stderr)
    return facts


def carried_names(model: NamedModel, source: Path) -> list[str]:
    """Names from a names.yaml; says which clusters have no match in it, and calls them unsure.

    Raises:
        UserError: no such file, or a model without prototypes.
    """
    if model.clusters is None:
        raise UserError("--from takes a checkpoint of il2vseg.train: exports and students keep their names")
    matches = model.clusters.names_from(source)
    for cluster, match in enumerate(matches):
        if match.problem is not None:
            print(f"cluster {cluster} {match.problem}: named {match.name}", file=sys.stderr)
    return [match.name for match in matches]


def _warn(clusters: Sequence[int], what: str) -> None:
    for cluster in clusters:
        print(f"cluster {cluster} {what}", file=sys.stderr)


def main(argv: list[str] | None = None, prog: str = PROGRAM) -> int:
    """Entry point of `il2vseg-name`."""

    def command() -> None:
        name(parse(NameConfig, prog, argv))

    return run_command(command, prog)


if __name__ == "__main__":
    raise SystemExit(main())
