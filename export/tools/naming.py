"""il2vseg-name: give clusters names, and let several clusters be one class where that is true.

Naming takes two steps: the command paints, for every cluster, frames in which it occurs, and a person
(or a handful of masks, --from-masks) says what each one shows. Clusters with the same name are one class from
then on: in the manifest of an export, in the next export of a checkpoint, and for `il2vseg.distill`.
A cluster that holds several things is best called unsure. names.yaml beside a checkpoint keeps the names by
what the clusters look like, and --from carries them over to a model that was trained again.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.classes import merge
from il2vseg.base.command import IGNORE_MASK_HELP, MAX_COUNT, Settings, flag, parse
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.ignore import IGNORED, IgnoreMask
from il2vseg.base.images import Frame, Labels, resize_frame, resize_labels, write_image
from il2vseg.base.outputs import footage_files, model_files, protect

if TYPE_CHECKING:
    from il2vseg.data import Dataset
    from il2vseg.export.tools.prototypes import Clusters
    from il2vseg.learning.clusters import ClusterFacts

PROGRAM = "il2vseg-name"
PICTURE_NAME = "clusters.png"
EXEMPLARS = 7
"""Frames shown of each cluster."""

SEEN_SHARE = 0.01
"""Share of a frame that a cluster must cover to be shown in it."""

CELL = 240
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


@dataclass(frozen=True)
class Survey:
    """Where clusters occur in some footage: shares (N, K) of each of N frames, and the frames."""

    shares: NDArray[np.float64]
    frames: tuple[Frame, ...]
    labels: tuple[Labels, ...]

    def unseen(self) -> list[int]:
        """Clusters that no frame shows."""
        return np.flatnonzero(self.shares.max(0) < SEEN_SHARE).tolist()

    def exemplars(self, cluster: int) -> list[int]:
        """Up to EXEMPLARS frames, in order; each stands for an equal part of the cluster's pixels."""
        seen = np.flatnonzero(self.shares[:, cluster] >= SEEN_SHARE)
        if not len(seen):
            return []
        cumulative = self.shares[seen, cluster].cumsum()
        wanted = (np.arange(EXEMPLARS) + 0.5) / EXEMPLARS * cumulative[-1]
        return [int(i) for i in np.unique(seen[np.searchsorted(cumulative, wanted)])]


def survey(model: NamedModel, dataset: "Dataset", ignore: IgnoreMask | None = None) -> Survey:
    """Segment the footage and count what occurs where; frames are kept small.

    Args:
        ignore: what belongs to the own vessel in every frame, and shows no cluster.
    """
    shares, frames, labels = [], [], []
    height = round(CELL * model.size[0] / model.size[1])
    if model.clusters is not None:
        model.clusters.begin()
    for i, sample in enumerate(dataset):
        frame = resize_frame(sample.frame, model.size)
        predicted = model.predict(frame)
        if model.clusters is not None:
            model.clusters.look(i, len(dataset), ignore)
        if ignore is not None:
            predicted = np.where(ignore.pixels(predicted.shape), np.uint8(IGNORED), predicted)
        counted = predicted[predicted != IGNORED]
        shares.append(np.bincount(counted, minlength=len(model.names)) / max(1, counted.size))
        frames.append(resize_frame(frame, (height, CELL)))
        labels.append(resize_labels(predicted, (height, CELL)))
    return Survey(np.stack(shares), tuple(frames), tuple(labels))


def write_exemplars(
    path: Path, found: Survey, names: Sequence[str], purity: Sequence[str] | None = None
) -> None:
    """Write one picture: a row per cluster, frames in which it occurs, everything else of them dimmed.

    Args:
        purity: a few words per cluster, comma-separated, one line each in the picture.
    """
    height = found.frames[0].shape[0]
    rows = []
    for cluster, name in enumerate(names):
        row = np.full((height + 4, 120 + EXEMPLARS * (CELL + 4), 3), 255, np.uint8)
        share = f"{100 * found.shares[:, cluster].mean():.1f} %"
        remarks = purity[cluster].split(", ") if purity is not None else []
        for line, text in enumerate((str(cluster), name, share, *remarks)):
            at, size = (8, 20 + 19 * line), 0.5 if line < 3 else 0.4
            cv2.putText(row, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (40, 40, 40), 1, cv2.LINE_AA)
        for i, index in enumerate(found.exemplars(cluster)):
            mask = (found.labels[index] == cluster).astype(np.uint8)
            picture = np.where(mask[..., None] > 0, found.frames[index], found.frames[index] // 4)
            picture = np.ascontiguousarray(picture, dtype=np.uint8)
            outline = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]
            cv2.drawContours(picture, outline, -1, (0, 255, 255), 1)
            left = 120 + i * (CELL + 4)
            row[2 : 2 + height, left : left + CELL] = picture
        rows.append(row)
    write_image(path, np.vstack(rows))


def name(config: NameConfig) -> list[str]:
    """Run the command; return the names, one per cluster.

    Raises:
        UserError: no such model, footage or masks, or wrong names.
    """
    from il2vseg.data import open_dataset

    path = config.picture or config.model / PICTURE_NAME
    read = [*footage_files(config.root, config.from_masks), *model_files(config.model)]
    protect([path], read, advice="choose another --picture")
    model = open_model(config.model, config.weights)
    names = list(model.names)
    ignore = IgnoreMask.of(config.ignore_mask)
    if config.from_masks is not None:
        root, split = config.from_masks.resolve().parent, config.from_masks.name
        masks = open_dataset(config.dataset, root, split, labelled=True, limit=config.limit, ignore=ignore)
        names, unseen = names_from_masks(model, masks, names)
        _note(masks)
        _warn(unseen, "does not occur in these masks and keeps its name")
    if config.from_ is not None:
        names = carried_names(model, config.from_)
    names = parse_names(config.set or (), names)
    if names != list(model.names):
        model.rename(names)
    facts = None
    if config.root is not None or config.dataset == "synthetic":
        footage = open_dataset(config.dataset, config.root, config.split, limit=config.limit, ignore=ignore)
        facts = show(model, footage, names, path, ignore)
        _note(footage)
    if model.clusters is not None:
        model.clusters.save_names(names, facts)
    for i, n in enumerate(names):
        print(f"{i}={n}")
    return names


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
