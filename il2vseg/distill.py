"""python -m il2vseg.distill: teach a small network what a checkpoint computes, still without labels."""

import dataclasses
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
from il2vseg.base.outputs import model_files, protect_run
from il2vseg.base.progress import PROGRESS_HELP, Form

if TYPE_CHECKING:
    from il2vseg.base.images import Frame
    from il2vseg.data import Dataset
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


def frames_and_targets(
    dataset: "Dataset",
    size: tuple[int, int],
    path: Path,
    settings: dict[str, object],
    compute: "Callable[[Iterable[Frame]], Targets]",
) -> "tuple[list[bytes], Targets]":
    """Frames of the student's size, encoded, since decoded ones do not fit into memory, and their targets.

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

    def read() -> "Iterator[Frame]":
        for sample in dataset:
            frames.append(encode_jpeg(resize_frame(sample.frame, size), FRAME_QUALITY))
            yield sample.frame
        if len(frames) < 2:
            raise UserError("distillation needs two frames or more")

    if path.exists():
        deque(read(), maxlen=0)
        targets = Targets.load(path, targets_key(frames, whole=True, **settings))
        if targets is not None:
            return frames, targets
        targets = compute(sample.frame for sample in dataset)
    else:
        targets = compute(read())
    targets.save(path, targets_key(frames, whole=True, **settings))
    return frames, targets


def learn(
    config: DistillConfig,
    frames: "Sequence[bytes]",
    targets: "Targets",
    size: tuple[int, int],
    training_data: str,
    report: "Callable[[StepReport], None]",
) -> "Student":
    """Train a student on frames of `size` and their targets; it is finished and knows what is new to it."""
    import torch

    from il2vseg.learning.distiller import Distiller, DistillRecipe, add_novelty
    from il2vseg.models.spec import LowLevelSpec, ModelSpec
    from il2vseg.models.student import METHOD, Encoder, Student, finish

    torch.manual_seed(config.seed)
    spec = ModelSpec(
        method=METHOD,
        backbone=config.student,
        weights_sha256="random",
        size=size,
        class_names=targets.class_names,
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
        pasting=pasting(config.paste, targets.class_names),
    )
    # The steps are small: more threads only wait for each other.
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workers = default_workers() if config.workers is None else config.workers
    distiller = Distiller(Student(spec), frames, targets, recipe, device=device, workers=workers)
    return add_novelty(finish(distiller.run(report)), frames)


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
    protect_run(out, OUTPUTS, config.root, [*model_files(config.teacher), config.weights])

    import torch

    from il2vseg.base.ignore import IgnoreMask
    from il2vseg.base.images import fitting_size
    from il2vseg.data import open_dataset
    from il2vseg.evaluation.preview import write_preview
    from il2vseg.learning.monitor import Monitor
    from il2vseg.learning.targets import compute_targets
    from il2vseg.models.checkpoint import FILE_NAME, save_student
    from il2vseg.models.student import Encoder

    ignore = IgnoreMask.of(config.ignore_mask)
    dataset = open_dataset(
        config.dataset, config.root, config.split, seed=config.seed, limit=config.limit, ignore=ignore
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teachers = [teacher.to(device) for teacher in load_teachers(config)]
    teacher_digest = sha256_file(config.teacher / FILE_NAME)
    size = config.size or fitting_size(next(iter(dataset)).frame.shape[:2], DEFAULT_WIDTH, Encoder.patch)
    with Monitor(out, config.progress) as monitor:
        monitor.begin(0)
        write_text(out / "config.yaml", to_yaml(dataclasses.replace(config, progress="bar")))

        def compute(whole: "Iterable[Frame]") -> "Targets":
            return compute_targets(teachers, monitor.track("targets", len(dataset))(whole), size, config.flip)

        settings = {"teacher": teacher_digest, "scales": config.scales, "flip": config.flip}
        frames, targets = frames_and_targets(dataset, size, out / TARGETS_NAME, settings, compute)
        if ignore is not None:
            targets = targets.without(ignore)
        note = f"{len(frames)} frames of {config.dataset} ({config.split}), no labels; "
        note += f"teacher {teachers[0].spec.backbone}, {teacher_digest[:12]}"
        student = _learn_and_check(config, frames, targets, size, note, out, monitor)
        save_student(out, student)
        write_preview(out / "preview.png", student, dataset)
    if skipped := dataset.skipped_note():
        print(skipped, file=sys.stderr)
    print(f"{out}: distilled {len(frames)} frames in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return student


def _learn_and_check(
    config: DistillConfig,
    frames: "Sequence[bytes]",
    targets: "Targets",
    size: tuple[int, int],
    note: str,
    out: Path,
    monitor: "Monitor",
) -> "Student":
    """`learn` without the frames held out; write and say how the student agrees with its teacher on them."""
    from il2vseg.learning.agreement import agreement, held_out, sentence

    held = held_out(len(frames), config.held_out)
    learned = [i for i in range(len(frames)) if i not in held]
    student = learn(config, [frames[i] for i in learned], targets.of(learned), size, note, monitor.step)
    (out / AGREEMENT_NAME).unlink(missing_ok=True)  # that of an earlier student
    if held:
        values = agreement(student, [frames[i] for i in held], targets.of(held))
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
