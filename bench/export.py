"""python bench/export.py: every form of an exported model beside the eager one, interleaved, in one table.

Peak memory is that of a process of its own that does nothing but load the form and run it. The trained part
is random unless there is a --checkpoint: speed and memory do not depend on it, agreement does.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from il2vseg.bench import BenchConfig, interleaved, random_segmenter
from il2vseg.command import flag, parse
from il2vseg.errors import UserError, run_command
from il2vseg.export.runners import eager_runner, onnx_runner

if TYPE_CHECKING:
    from il2vseg.export.parity import Runner
    from il2vseg.model import Segmenter

PROGRAM = "bench/export.py"
EAGER = "eager"
FORMS: dict[str, str | None] = {
    EAGER: None,
    "ONNX Runtime, fp32": "model.onnx",
    "ONNX Runtime, fp16": "model.fp16.onnx",
    "ONNX Runtime, int8": "model.int8-cpu.onnx",
    "OpenVINO, fp32": "model.onnx",
    "OpenVINO, int8": "model.int8-cpu.onnx",
}
"""What is measured, and its file."""

FCM = "fcm"
FCM_GRID, FCM_CLASSES, FCM_ITERATIONS = (40, 40), 27, 10


@dataclass
class ExportBenchConfig:
    """Compare latency, peak memory, file size and agreement of a model's exported forms."""

    size: tuple[int, int] = flag((336, 448), "input height and width", metavar="PIXELS")
    backbone: str = flag("dinov2_vits14", "feature extractor", metavar="NAME")
    weights: Path | None = flag(None, "weights file of the backbone", metavar="FILE")
    checkpoint: Path | None = flag(None, "a trained model instead of a random one", metavar="DIR")
    frames: Path | None = flag(
        None, "frames to agree on, and to calibrate on; default: synthetic scenes", metavar="DIR|CLIP"
    )
    rounds: int = flag(9, "times that each form is measured; the median counts", metavar="N")
    threads: int = flag(2, "threads of every form", metavar="N")
    only: str | None = flag(None, "print the peak memory of this form, as JSON, and end", metavar="FORM")
    folder: Path | None = flag(None, "with --only: where the files are", metavar="DIR")


def segmenter_of(config: ExportBenchConfig) -> "Segmenter":
    """The model that is measured; the same one in every process."""
    import torch

    torch.set_num_threads(config.threads)
    if config.checkpoint is not None:
        from il2vseg.checkpoint import load_checkpoint

        return load_checkpoint(config.checkpoint, size=config.size, weights=config.weights)
    torch.manual_seed(0)
    return random_segmenter(BenchConfig(backbone=config.backbone, weights=config.weights, size=config.size))


def write_files(
    segmenter: "Segmenter", folder: Path, source: Path | None, say: Callable[[str], None]
) -> None:
    """Write the fp32, fp16 and int8 files of a model into `folder`."""
    import onnx

    from il2vseg.calib.frames import representative_frames
    from il2vseg.calib.qdq import CPU
    from il2vseg.calib.quantise import quantise
    from il2vseg.export.graph import export_onnx
    from il2vseg.export.variants import write_half

    say("exporting")
    export_onnx(segmenter, folder / "model.onnx")
    write_half(folder)
    frames = representative_frames(source, segmenter.size, 16)
    quantised = quantise(onnx.load(folder / "model.onnx"), frames, CPU, progress=say)
    onnx.save(quantised.model, folder / "model.int8-cpu.onnx")


def openvino_runner(model: Path, threads: int) -> "Runner":
    """Run an ONNX file in OpenVINO as the runtime does.

    Raises:
        UserError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError:
        raise UserError("OpenVINO is not installed (pip install 'il2vseg[openvino]')") from None
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(str(model), "CPU", {"PERFORMANCE_HINT": "LATENCY"} | options)

    def run(frame: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        outputs = compiled({"frame": frame})
        return np.array(outputs["labels"]), np.array(outputs["scores"])

    return run


def open_form(form: str, folder: Path, config: ExportBenchConfig) -> "Runner":
    """Load one of FORMS.

    Raises:
        UserError: what runs it is not installed.
    """
    file = FORMS[form]
    if file is None:
        return eager_runner(segmenter_of(config))
    if form.startswith("OpenVINO"):
        return openvino_runner(folder / file, config.threads)
    return onnx_runner(folder / file, config.threads)


def report_alone(config: ExportBenchConfig) -> None:
    """Print what a process of its own is for: FCM's latencies, or the peak memory of a form, as JSON."""
    if config.only == FCM:
        print(json.dumps(interleaved(fcm_cases(), 5 * config.rounds)))
        return
    assert config.only is not None
    assert config.folder is not None
    run = open_form(config.only, config.folder, config)
    for _ in range(2):
        run(np.zeros((1, *config.size, 3), np.uint8))
    # Not getrusage: its peak survives exec, and would be that of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) >> 10)


def alone(only: str, folder: Path, config: ExportBenchConfig) -> Any:
    """Run `report_alone` in a process of its own and return what it says."""
    command = [sys.executable, __file__, "--only", only, "--folder", str(folder)]
    command += ["--size", *map(str, config.size), "--threads", str(config.threads)]
    command += ["--backbone", config.backbone, "--rounds", str(config.rounds)]
    for name in ("weights", "checkpoint"):
        if (value := getattr(config, name)) is not None:
            command += [f"--{name}", str(value)]
    # Arrays as small as FCM's gain nothing from a second thread, and lose much where cores are busy.
    environment = os.environ | ({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} if only == FCM else {})
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout)


def low_level_share(model: Path, frame: NDArray[np.uint8], threads: int) -> float:
    """Share of ONNX Runtime's time outside backbone and classifier: low-level branch, fusion, upsampling."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_profiling = True
    options.profile_file_prefix = str(model.parent / "profile")
    # Fusion renames nodes after what they do; without it every node still has the name of its module.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    for _ in range(5):
        session.run(None, {"frame": frame})
    events = json.loads(Path(session.end_profiling()).read_text())
    spent = {True: 0, False: 0}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["name"].startswith(("backbone.", "classifier."))] += event["dur"]
    return spent[False] / sum(spent.values())


def fcm_cases() -> dict[str, Callable[[], Any]]:
    """Fuzzy c-means on the same data and seed: ours, and scikit-fuzzy's where it is installed."""
    import torch

    from il2vseg.lowlevel import fuzzy_cmeans

    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, *FCM_GRID, generator=generator)
    seed = torch.rand(1, FCM_CLASSES, *FCM_GRID, generator=generator).softmax(1)

    @torch.inference_mode()
    def ours() -> Any:
        return fuzzy_cmeans(x, seed, FCM_ITERATIONS, spatial=False)

    cases: dict[str, Callable[[], Any]] = {"ours": ours}
    try:
        import skfuzzy
    except ImportError:
        return cases
    data, start = x[0].flatten(1).double().numpy(), seed[0].flatten(1).double().numpy()
    cases["scikit-fuzzy"] = partial(
        skfuzzy.cmeans, data, FCM_CLASSES, 2.0, error=0, maxiter=FCM_ITERATIONS, init=start
    )
    return cases


def bench(config: ExportBenchConfig) -> None:
    """Measure and print one table."""
    if config.only is not None:
        report_alone(config)
        return
    import torch
    from rich.console import Console
    from rich.table import Table

    from il2vseg.export.cli import verification_frames

    console = Console(width=110)
    torch.set_num_threads(config.threads)
    with tempfile.TemporaryDirectory() as name, console.status("") as status:
        folder = Path(name)
        write_files(segmenter_of(config), folder, config.frames, status.update)
        runners: dict[str, Runner] = {}
        for form in FORMS:
            try:
                runners[form] = open_form(form, folder, config)
            except UserError as error:
                console.print(f"left out {form}: {error}")
        status.update("measuring")
        frames = [frame[None] for _, frame in verification_frames(config.frames, config.size)]
        medians = interleaved({f: partial(run, frames[0]) for f, run in runners.items()}, config.rounds)
        expected = [runners[EAGER](frame)[0] for frame in frames]
        agreement = {
            form: float(np.mean([(run(f)[0] == e).mean() for f, e in zip(frames, expected, strict=True)]))
            for form, run in runners.items()
        }
        share = low_level_share(folder / "model.onnx", frames[0], config.threads)
        status.update("measuring memory")
        peaks = {form: alone(form, folder, config) for form in runners}
        sizes = {form: (folder / file).stat().st_size for form, file in FORMS.items() if file}
        fcm = alone(FCM, folder, config)
    height, width = config.size
    model = config.checkpoint or f"{config.backbone}, random head"
    table = Table(title=f"{model}, {height}x{width}, {config.threads} threads, {len(frames)} frames")
    table.add_column("form")
    for heading in ("median ms", "speed-up", "peak MiB", "file MiB", "agreement"):
        table.add_column(heading, justify="right")
    for form, milliseconds in medians.items():
        file_size = f"{sizes[form] / 2**20:.1f}" if form in sizes else ""
        speed_up = f"{medians[EAGER] / milliseconds:.2f}x"
        table.add_row(
            form, f"{milliseconds:.1f}", speed_up, str(peaks[form]), file_size, f"{agreement[form]:.2%}"
        )
    table.add_section()
    rows, columns = FCM_GRID
    for name, milliseconds in fcm.items():
        speed_up = f"{fcm['scikit-fuzzy'] / milliseconds:.2f}x" if "scikit-fuzzy" in fcm else ""
        case = f"FCM {rows}x{columns}x{FCM_CLASSES}, {FCM_ITERATIONS} iterations: {name}"
        table.add_row(case, f"{milliseconds:.2f}", speed_up)
    console.print(table)
    console.print(f"low-level branch, fusion and upsampling: {share:.1%} of the fp32 graph's time")


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    return run_command(lambda: bench(parse(ExportBenchConfig, PROGRAM, argv)), PROGRAM)


if __name__ == "__main__":
    raise SystemExit(main())
