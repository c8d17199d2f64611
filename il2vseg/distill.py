"""python -m il2vseg.distill: teach a small network what a checkpoint computes, still without labels."""

import dataclasses
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from il2vseg.base.command import (
    IGNORE_MASK_HELP,
    MAX_COUNT,
    MAX_SEED,
    MAX_SIDE,
    MAX_THREADS,
    Settings,
    flag,
    parse,
    to_yaml,
)
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.files import require_writable_dir, sha256_file, write_json, write_text
from il2vseg.base.outputs import footage_files, model_files, protect_run
from il2vseg.base.progress import PROGRESS_HELP, Form

if TYPE_CHECKING:
    from il2vseg.base.ignore import IgnoreMask
    from il2vseg.base.images import Frame
    from il2vseg.data import Dataset
    from il2vseg.data.dataset import Sample
    from il2vseg.learning.monitor import Monitor, StepReport
    from il2vseg.learning.paste import Pasting
    from il2vseg.learning.targets import Targets
    from il2vseg.models.network import Network
    from il2vseg.models.student import Student

PROGRAM = "python -m il2vseg.distill"
TARGETS_NAME = "targets.npz"
AGREEMENT_NAME = "agreement.json"
OUTPUTS = (
    "checkpoint.safetensors",
    "config.yaml",
    "metrics.jsonl",
    "preview.png",
    TARGETS_NAME,
    AGREEMENT_NAME,
)
DEFAULT_WIDTH = 512
FRAME_QUALITY = 95
ELSEWHERE_HELP = (
    "footage of anything else: the student learns the teacher's features of it, but no class, and sees more "
    "at places that its own footage does not show"
)
ELSEWHERE_WEIGHT = 1.5
"""`DistillRecipe.feature_weight` with frames from elsewhere: features are all that they teach."""

RESTYLE_HELP = (
    "probability that a class in a crop gets other colours, the ground waves, the sky clouds: for places "
    "that the footage does not show, at some cost where it does"
)
HELD_OUT_HELP = (
    "keep up to so many frames (a tenth at most) from the student, and say how often it agrees with its "
    "teacher on them"
)


@dataclass
class DistillConfig(Settings):
    """Teach a small network what a trained checkpoint computes. No labels, no pretrained weights."""

    teacher: Path = flag(dataclasses.MISSING, "checkpoint to learn from", metavar="DIR")
    dataset: str = flag("synthetic", "layout of the data; `folder` takes any folder of images or clips")
    root: Path | None = flag(None, "where the data are", metavar="DIR")
    split: str = flag("train", "which split to learn on")
    ignore_mask: str | None = flag(None, IGNORE_MASK_HELP, metavar="FILE|POLYGON")
    elsewhere: Path | None = flag(None, ELSEWHERE_HELP, metavar="DIR")
    student: str = flag("mobilenetv4_small_050", "network to train", metavar="NAME")
    size: tuple[int, int] | None = flag(
        None,
        f"the student's input height and width; default: width {DEFAULT_WIDTH}, aspect of the first frame",
        low=1,
        high=MAX_SIDE,
        metavar="PIXELS",
    )
    steps: int = flag(3000, "optimisation steps", low=1, high=MAX_COUNT, metavar="N")
    batch: int = flag(8, "crops per step", low=2, high=1 << 16, metavar="N")
    scales: tuple[float, ...] = flag(
        (1.0,),
        "input sizes of the teacher, relative to its own; targets are the mean",
        low=0.25,
        high=4,
        metavar="S",
    )
    flip: bool = flag(False, "also ask the teacher about mirrored frames")
    paste: bool | None = flag(
        None,
        "paste obstacles on the water or the road; default: where the teacher has the classes obstacle and "
        "water, or road",
    )
    restyle: float = flag(0.0, RESTYLE_HELP, low=0, high=1, metavar="SHARE")
    workers: int | None = flag(
        None,
        "processes that prepare batches; default: all cores but two",
        low=0,
        high=MAX_THREADS,
    )
    limit: int | None = flag(
        None, "use at most this many frames, spread evenly", low=2, high=MAX_COUNT, metavar="N"
    )
    held_out: int = flag(0, HELD_OUT_HELP, low=0, high=MAX_COUNT, metavar="N")
    seed: int = flag(0, "seed of everything random", low=0, high=MAX_SEED, metavar="S")
    weights: Path | None = flag(None, "weights file of the teacher's backbone", metavar="FILE")
    out: Path | None = flag(None, "output folder; default: runs/DATASET-lite", metavar="DIR")
    progress: Form = flag("bar", PROGRESS_HELP)
    config: Path | None = flag(None, "YAML file of these settings; flags win", metavar="FILE.yaml")


def crop_size(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Training crop for frames of a size: two thirds of each side, in whole strides."""
    h, w = (max(patch, round(s * 2 / 3 / patch) * patch) for s in size)
    return h, w


def pasting(wanted: bool | None, class_names: "Sequence[str]") -> "Pasting | None":
    """What is pasted on the water or the road; None for nothing.

    Args:
        wanted: as the user said; None where there are the classes for it.
    Raises:
        UserError: it is wanted without the classes for it.
    """
    from il2vseg.base.classes import ground_of
    from il2vseg.learning.paste import PASTINGS

    ground = ground_of(class_names)
    if wanted and ground is None:
        raise UserError(
            "--paste needs a teacher with the classes obstacle and water, or road, not "
            + ", ".join(class_names)
        )
    return None if ground is None or wanted is False else PASTINGS[ground]


def default_workers() -> int:
    """Number of processes that prepare batches: two cores are left for the rest."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, cores - 2)


def load_teachers(config: DistillConfig) -> "list[Network]":
    """Load the teacher at every scale, in whole patches."""
    from il2vseg.models.checkpoint import load_checkpoint

    first = load_checkpoint(config.teacher, weights=config.weights)
    teachers = {first.size: first}
    sizes = []
    for scale in config.scales:
        h, w = (max(1, round(s * scale / first.patch)) * first.patch for s in first.size)
        sizes.append((h, w))
        if (h, w) not in teachers:
            teachers[h, w] = load_checkpoint(config.teacher, size=(h, w), weights=config.weights)
    return [teachers[size] for size in sizes]


@dataclass(frozen=True)
class Taught:
    """What a student learns from.

    Attributes:
        frames: encoded images of the student's size, since decoded ones do not fit into memory.
        targets: one per frame. own: so many frames, the first ones, are of the footage that it is for; the
            targets know no class of the others, which are from elsewhere.
    """

    frames: "Sequence[bytes]"
    targets: "Targets"
    own: int

    def of(self, indices: "Sequence[int]") -> "Taught":
        """Those of some frames, by number, ascending."""
        own = sum(i < self.own for i in indices)
        return Taught([self.frames[i] for i in indices], self.targets.of(indices), own)


def frames_and_targets(
    dataset: "Dataset",
    elsewhere: "Dataset | None",
    size: tuple[int, int],
    path: Path,
    settings: dict[str, object],
    compute: "Callable[[Iterable[Frame]], Targets]",
) -> Taught:
    """Frames and their targets.

    The footage is read once, and a second time where the targets on disk turn out to be of others.

    Args:
        path: of the targets on disk, which are taken if they are of these frames and `settings`.
        compute: frames as they are -> targets: the teacher does not see them as small as the student does.
    Raises:
        UserError: fewer than two frames can be read.
    """
    from il2vseg.base.images import encode_jpeg, resize_frame
    from il2vseg.learning.targets import Targets, targets_key

    frames: list[bytes] = []
    own = 0

    def kept(samples: "Iterable[Sample]") -> "Iterator[Frame]":
        for sample in samples:
            frames.append(encode_jpeg(resize_frame(sample.frame, size), FRAME_QUALITY))
            yield sample.frame

    def read() -> "Iterator[Frame]":
        nonlocal own
        yield from kept(dataset)
        if (own := len(frames)) < 2:
            raise UserError("distillation needs two frames or more")
        yield from kept(elsewhere or ())

    if path.exists():
        deque(read(), maxlen=0)
        targets = Targets.load(path, targets_key(frames, whole=True, **settings))
        if targets is not None:
            return Taught(frames, targets.knowing(own), own)
        targets = compute(sample.frame for sample in chain(dataset, elsewhere or ()))
    else:
        targets = compute(read())
    targets.save(path, targets_key(frames, whole=True, **settings))
    return Taught(frames, targets.knowing(own), own)


def learn(
    config: DistillConfig,
    taught: Taught,
    size: tuple[int, int],
    training_data: str,
    report: "Callable[[StepReport], None]",
) -> "Student":
    """Train a student on frames of `size`; it is finished and knows what is new to it."""
    import torch

    from il2vseg.learning.distiller import Distiller, DistillRecipe, add_novelty
    from il2vseg.learning.restyle import Restyling
    from il2vseg.models.spec import LowLevelSpec, ModelSpec
    from il2vseg.models.student import METHOD, Encoder, Student, finish

    torch.manual_seed(config.seed)
    spec = ModelSpec(
        method=METHOD,
        backbone=config.student,
        weights_sha256="random",
        size=size,
        class_names=taught.targets.class_names,
        alpha=0.0,
        temperature=1.0,
        centre=False,
        low_level=LowLevelSpec(refine=0),
        training_data=training_data,
    )
    recipe = DistillRecipe(
        steps=config.steps,
        batch=config.batch,
        crop=crop_size(size, Encoder.patch),
        seed=config.seed,
        pasting=pasting(config.paste, taught.targets.class_names),
        restyling=Restyling(*3 * [config.restyle]) if config.restyle else None,
    )
    if taught.own < len(taught.frames):
        recipe = dataclasses.replace(recipe, feature_weight=ELSEWHERE_WEIGHT)
    # The steps are small: more threads only wait for each other.
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workers = default_workers() if config.workers is None else config.workers
    student = Student(spec)
    distiller = Distiller(student, taught.frames, taught.targets, recipe, device=device, workers=workers)
    return add_novelty(finish(distiller.run(report)), taught.frames[: taught.own])


def open_footage(config: DistillConfig, ignore: "IgnoreMask | None") -> "tuple[Dataset, Dataset | None]":
    """The footage that the student is for, and that from elsewhere.

    Raises:
        UserError: there is nothing to read.
    """
    from il2vseg.data import open_dataset

    dataset = open_dataset(
        config.dataset, config.root, config.split, seed=config.seed, limit=config.limit, ignore=ignore
    )
    if config.elsewhere is None:
        return dataset, None
    return dataset, open_dataset(
        "folder", config.elsewhere, "train", seed=config.seed, limit=None, ignore=None
    )


def distill(config: DistillConfig) -> "Student":
    """Distil as configured and write the student's checkpoint and its companions to `config.out`.

    Returns:
        the trained student.
    Raises:
        UserError: bad settings, no teacher, no usable frames, an output folder that cannot be written.
    """
    from il2vseg.models.student import student_spec

    started = time.monotonic()
    student_spec(config.student)
    out = require_writable_dir(config.out or Path("runs") / f"{config.dataset}-lite")
    others = [*model_files(config.teacher), *footage_files(config.elsewhere), config.weights]
    protect_run(out, OUTPUTS, config.root, others)

    import torch

    from il2vseg.base.ignore import IgnoreMask
    from il2vseg.base.images import fitting_size
    from il2vseg.evaluation.preview import write_preview
    from il2vseg.learning.monitor import Monitor
    from il2vseg.learning.targets import compute_targets
    from il2vseg.models.checkpoint import FILE_NAME, save_student
    from il2vseg.models.student import Encoder

    ignore = IgnoreMask.of(config.ignore_mask)
    dataset, elsewhere = open_footage(config, ignore)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teachers = [teacher.to(device) for teacher in load_teachers(config)]
    teacher_digest = sha256_file(config.teacher / FILE_NAME)
    size = config.size or fitting_size(next(iter(dataset)).frame.shape[:2], DEFAULT_WIDTH, Encoder.patch)
    with Monitor(out, config.progress) as monitor:
        monitor.begin(0)
        write_text(out / "config.yaml", to_yaml(dataclasses.replace(config, progress="bar")))

        def compute(whole: "Iterable[Frame]") -> "Targets":
            count = len(dataset) + (len(elsewhere) if elsewhere is not None else 0)
            return compute_targets(teachers, monitor.track("targets", count)(whole), size, config.flip)

        settings = {"teacher": teacher_digest, "scales": config.scales, "flip": config.flip}
        path = out / TARGETS_NAME
        taught = frames_and_targets(dataset, elsewhere, size, path, settings, compute)
        if ignore is not None:
            taught = dataclasses.replace(taught, targets=taught.targets.without(ignore))
        note = f"{taught.own} frames of {config.dataset} ({config.split}), no labels; "
        if elsewhere is not None:
            note += f"features of {len(taught.frames) - taught.own} frames from elsewhere; "
        note += f"teacher {teachers[0].spec.backbone}, {teacher_digest[:12]}"
        student = _learn_and_check(config, taught, size, note, out, monitor)
        save_student(out, student)
        write_preview(out / "preview.png", student, dataset)
    for footage in (dataset, elsewhere):
        if footage is not None and (skipped := footage.skipped_note()):
            print(skipped, file=sys.stderr)
    print(f"{out}: distilled {taught.own} frames in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return student


def _learn_and_check(
    config: DistillConfig, taught: Taught, size: tuple[int, int], note: str, out: Path, monitor: "Monitor"
) -> "Student":
    """`learn` without the frames held out; write and say how the student agrees with its teacher on them."""
    from il2vseg.learning.agreement import agreement, held_out, sentence

    held = held_out(taught.own, config.held_out)
    learned = [i for i in range(len(taught.frames)) if i not in held]
    student = learn(config, taught.of(learned), size, note, monitor.step)
    (out / AGREEMENT_NAME).unlink(missing_ok=True)  # that of an earlier student
    if held:
        kept = taught.of(held)
        values = agreement(student, kept.frames, kept.targets)
        write_json(out / AGREEMENT_NAME, values)
        monitor.say(sentence(values))
    return student


def main(argv: list[str] | None = None, prog: str = PROGRAM) -> int:
    """Entry point of `python -m il2vseg.distill`."""

    def command() -> None:
        distill(parse(DistillConfig, prog, argv))

    return run_command(command, prog)


if __name__ == "__main__":
    raise SystemExit(main())
