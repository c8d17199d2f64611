"""python bench/student.py: teacher and student beside ordinary segmentation networks, interleaved.

Everything is exported the same way (uint8 frame in, labels out, one ONNX file) and run on the CPU: in ONNX
Runtime, and where it is installed the teacher in OpenVINO, which is its fastest. What is trained is random
here: speed does not depend on it. What a student's confidence costs is read off the runtime's profile.
"""

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from il2vseg.base.command import MAX_SIDE, MAX_THREADS, Settings, flag, parse
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.images import Frame
from il2vseg.bench import BenchConfig, interleaved, random_segmenter
from il2vseg.calib.convolutions import quantise_convolutions
from il2vseg.calib.layers import layer_norms
from il2vseg.calib.qdq import CPU
from il2vseg.calib.quantise import quantise
from il2vseg.export.graph import export_onnx
from il2vseg.export.runners import onnx_runner, openvino_runner
from il2vseg.models.backbones import backbone_spec
from il2vseg.models.network import Network
from il2vseg.models.novelty import LIMITS, SCENES, Novelty
from il2vseg.models.spec import LowLevelSpec, ModelSpec
from il2vseg.models.student import METHOD, STUDENTS, Student, finish

PROGRAM = "bench/student.py"
CLASSES = ("water", "sky", "obstacle")
CONFIDENT = "mobilenetv4_small_050_fine"
"""The student whose confidence is weighed."""


@dataclass
class StudentBenchConfig(Settings):
    """Compare the speed of teacher, students and networks of torchvision on random frames."""

    size: tuple[int, int] = flag(
        (384, 512), "input height and width, multiples of 32", low=32, high=MAX_SIDE, metavar="PIXELS"
    )
    backbone: str = flag("dinov2_vits14", "the teacher's feature extractor", metavar="NAME")
    weights: Path | None = flag(None, "weights file of the backbone", metavar="FILE")
    rounds: int = flag(
        15, "times that each case is measured; the median counts", low=1, high=1000, metavar="N"
    )
    threads: int = flag(2, "threads of ONNX Runtime", low=1, high=MAX_THREADS, metavar="N")
    deeplab: bool = flag(False, "also deeplabv3_resnet50, which takes seconds per frame")


def random_spec(name: str, size: tuple[int, int]) -> ModelSpec:
    """Of a network with random weights and without a low-level branch."""
    low_level = LowLevelSpec(refine=0)
    return ModelSpec(METHOD, name, "random", size, CLASSES, 0.0, 1.0, False, low_level, "none")


def random_student(name: str, size: tuple[int, int]) -> Student:
    """A student as it is bundled: with the rule of marine classes and a confidence."""
    student = finish(Student(random_spec(name, size)))
    student.spec = replace(student.spec, novelty=dict(LIMITS))
    student.novelty = Novelty(student.width, SCENES)
    return student


class TorchvisionSegmenter(Network):
    """A network of torchvision with random weights in the shape that the exporter takes."""

    patch = 32

    def __init__(self, name: str, size: tuple[int, int]) -> None:
        """Args:
        name: of `torchvision.models.segmentation`. size: (H, W).
        """
        import torchvision

        super().__init__(random_spec(name, size), size, size)
        build: Callable[..., nn.Module] = getattr(torchvision.models.segmentation, name)
        self.net = build(weights=None, weights_backbone=None, num_classes=len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [0, 1] -> (B, C, H, W), a distribution over C."""
        out: dict[str, Tensor] = self.net((images - 0.45) / 0.225)
        return out["out"].softmax(1)


def measure(config: StudentBenchConfig) -> dict[str, float]:
    """Median milliseconds per frame of every network."""
    patch = backbone_spec(config.backbone).patch
    teacher_size = (round(config.size[0] / patch) * patch, round(config.size[1] / patch) * patch)
    teacher = random_segmenter(
        BenchConfig(
            backbone=config.backbone, weights=config.weights, size=teacher_size, num_classes=len(CLASSES)
        )
    )
    first = f"teacher, {config.backbone}"
    models: dict[str, Network] = {first: teacher}
    models |= {f"student, {name}": random_student(name, config.size) for name in STUDENTS}
    names = ["lraspp_mobilenet_v3_large", *(["deeplabv3_resnet50"] if config.deeplab else [])]
    models |= {f"torchvision, {name}": TorchvisionSegmenter(name, config.size) for name in names}
    cases: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, model) in enumerate(models.items()):
            path = Path(folder) / f"{i}.onnx"
            export_onnx(model.eval(), path)
            run = onnx_runner(path, config.threads)
            frame = torch.randint(0, 256, (1, *model.size, 3), dtype=torch.uint8).numpy()
            cases[name] = partial(run, frame)
            if isinstance(model, Student) or name == first:
                int8 = write_int8(path, [("random", frame[0])])
                cases[f"{name}, int8"] = partial(onnx_runner(int8, config.threads), frame)
            if name == first and find_spec("openvino"):
                for suffix, file in (("", path), (", int8", int8)):
                    case = openvino_runner(file, config.threads)
                    cases[f"{name}{suffix}, OpenVINO"] = partial(case, frame)
        return interleaved(cases, config.rounds)


def write_int8(model: Path, frames: list[tuple[str, Frame]]) -> Path:
    """Write the INT8 file for CPUs beside a graph; its ranges are of random frames."""
    proto = onnx.load(model)
    if layer_norms(proto):
        quantised = quantise(proto, frames, CPU, goal=0)
    else:
        quantised = quantise_convolutions(proto, frames, CPU)
    path = model.with_suffix(".int8.onnx")
    onnx.save(quantised.model, path)
    return path


def confidence_cost(model: Path, frame: NDArray[np.uint8], rounds: int) -> float:
    """What the nodes that only the confidence needs take, relative to all others: one thread of ONNX Runtime.

    Of one session: two of the very same graph differ by more than the confidence costs, because their memory
    lies elsewhere. The quickest quarter of every node's calls, so that what else the machine does leaves no
    trace: it interrupts the long ones.

    Args:
        frame: what the graph takes, (1, H, W, 3).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(model.with_suffix(".profile"))
    options.optimized_model_filepath = str(model.with_suffix(".as_run.onnx"))
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    for _ in range(rounds):
        session.run(None, {"frame": frame})
    durations: dict[str, list[int]] = defaultdict(list)
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            durations[event["name"].removesuffix("_kernel_time")].append(event["dur"])
    needed = needed_for(onnx.load(options.optimized_model_filepath), ("labels", "scores"))
    spent = {True: 0.0, False: 0.0}
    for name, values in durations.items():
        spent[name in needed] += statistics.mean(sorted(values)[: max(1, len(values) // 4)])
    return spent[False] / spent[True]


def needed_for(model: onnx.ModelProto, outputs: Sequence[str]) -> set[str]:
    """Names of the nodes that these outputs need."""
    maker = {output: node for node in model.graph.node for output in node.output}
    names: set[str] = set()
    wanted = list(outputs)
    while wanted:
        node = maker.get(wanted.pop())
        if node is not None and node.name not in names:
            names.add(node.name)
            wanted.extend(node.input)
    return names


def table(times: dict[str, float], config: StudentBenchConfig) -> Table:
    """The result for people, each against the first."""
    height, width = config.size
    out = Table(title=f"{width}x{height}, {config.threads} threads, median of {config.rounds}")
    out.add_column("network")
    for heading in ("ms", "frames/s", "× teacher"):
        out.add_column(heading, justify="right")
    first = next(iter(times.values()))
    for name, ms in times.items():
        out.add_row(name, f"{ms:.1f}", f"{1e3 / ms:.0f}", f"{first / ms:.1f}")
    return out


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark and print the table."""

    def command() -> None:
        config = parse(StudentBenchConfig, PROGRAM, argv)
        if any(s % 32 for s in config.size):
            raise UserError(f"--size {config.size[0]} {config.size[1]}: multiples of 32 are needed")
        Console().print(table(measure(config), config))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(random_student(CONFIDENT, config.size).eval(), path)
            frame = np.random.default_rng(0).integers(0, 256, (1, *config.size, 3), np.uint8)
            cost = confidence_cost(path, frame, 8 * config.rounds)
        print(f"The confidence of {CONFIDENT} costs {cost:.1%}: one thread, from ONNX Runtime's profile")

    return run_command(command, PROGRAM)


if __name__ == "__main__":
    raise SystemExit(main())
