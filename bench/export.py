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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from fcm import CLASSES, EAGER, GRID, ITERATIONS, SCIKIT, fcm_cases, write_module
from numpy.typing import NDArray

from il2vseg.base.command import MAX_SIDE, MAX_THREADS, Settings, flag, parse
from il2vseg.base.errors import UserError, run_command
from il2vseg.bench import BenchConfig, interleaved, random_segmenter
from il2vseg.export.runners import onnx_runner, openvino_runner
from il2vseg.models.eager import EagerBackend

if TYPE_CHECKING:
    import onnxruntime as ort

    from il2vseg.export.parity import Runner
    from il2vseg.models.segmenter import Segmenter

PROGRAM = "bench/export.py"
ARITHMETIC = "(arithmetic of the blocks)"
CPU = "CPUExecutionProvider"
FORMS: dict[str, str | None] = {
    EAGER: None,
    "ONNX Runtime, fp32": "model.onnx",
    "ONNX Runtime, fp16": "model.fp16.onnx",
    "ONNX Runtime, int8": "model.int8-cpu.onnx",
    "OpenVINO, fp32": "model.onnx",
    "OpenVINO, int8": "model.int8-cpu.onnx",
}
"""What is measured, and its file."""

FCM, TILED, WHOLE = "fcm", "low-level-tiled", "low-level-whole"
"""What else is measured in a process of its own."""

PLAIN = "plain.onnx"
"""The float32 file without the low-level branch: F_seg, upsampled bilinearly."""

FRAMES = 8
"""How many frames the forms are to agree on."""

SIZES = ((336, 448), (224, 322))
"""The second is 224x320 in whole patches of 14."""

LARGE = (51, 91)
"""Token grid of a 1280x720 frame in patches of 14."""

Size = tuple[int, int]


@dataclass
class ExportBenchConfig(Settings):
    """Compare latency, peak memory, file size and agreement of a model's exported forms."""

    size: Size | None = flag(
        None,
        "input height and width; default: both 336x448 and 224x322",
        low=1,
        high=MAX_SIDE,
        metavar="PIXELS",
    )
    backbone: str = flag("dinov2_vits14", "feature extractor", metavar="NAME")
    weights: Path | None = flag(None, "weights file of the backbone", metavar="FILE")
    checkpoint: Path | None = flag(None, "a trained model instead of a random one", metavar="DIR")
    calib: Path | None = flag(None, "frames to calibrate on; default: synthetic scenes", metavar="DIR|CLIP")
    verify: Path | None = flag(None, "frames to agree on; default: synthetic scenes", metavar="DIR|CLIP")
    rounds: int = flag(
        9, "times that each form is measured; the median counts", low=1, high=1000, metavar="N"
    )
    threads: int = flag(2, "threads of every form", low=1, high=MAX_THREADS, metavar="N")
    only: str | None = flag(None, "print the peak memory of this form, as JSON, and end", metavar="FORM")
    folder: Path | None = flag(None, "with --only: where the files are", metavar="DIR")


def segmenter_of(config: ExportBenchConfig, size: Size) -> "Segmenter":
    """The model that is measured; the same one in every process."""
    import torch

    torch.set_num_threads(config.threads)
    if config.checkpoint is not None:
        from il2vseg.models.checkpoint import load_checkpoint

        return load_checkpoint(config.checkpoint, size=size, weights=config.weights)
    torch.manual_seed(0)
    return random_segmenter(BenchConfig(backbone=config.backbone, weights=config.weights, size=size))


def write_files(
    segmenter: "Segmenter", folder: Path, source: Path | None, say: Callable[[str], None]
) -> None:
    """Write the fp32, fp16 and int8 files of a model into `folder`, and the PLAIN one."""
    import onnx

    from il2vseg.calib.frames import representative_frames
    from il2vseg.experiment import at_prediction
    from il2vseg.export.graph import export_onnx
    from il2vseg.export.variants import to_int8, write_half

    say("exporting")
    folder.mkdir()
    export_onnx(segmenter, folder / "model.onnx")
    write_half(folder)
    frames = representative_frames(source, segmenter.size, 16)
    export_onnx(at_prediction(segmenter, 0.0, refine=0), folder / PLAIN)
    quantised = to_int8(onnx.load(folder / "model.onnx"), frames, "cpu", progress=say)
    onnx.save(quantised.model, folder / "model.int8-cpu.onnx")


def write_low_level(path: Path, tile: int) -> None:
    """Write the low-level branch alone, of a 1280x720 frame, with a tile of so many affinity rows."""
    import torch

    from il2vseg.models.segmenter import low_level_scores
    from il2vseg.models.spec import LowLevelSpec

    class Branch(torch.nn.Module):
        def forward(self, colours: torch.Tensor, p_seg: torch.Tensor) -> torch.Tensor:
            return low_level_scores(colours, p_seg, LowLevelSpec(), tile)

    inputs = (torch.zeros(1, 3, *LARGE), torch.full((1, CLASSES, *LARGE), 1 / CLASSES))
    write_module(Branch(), inputs, path)


def open_form(form: str, folder: Path, config: ExportBenchConfig, size: Size) -> "Runner":
    """Load one of FORMS.

    Raises:
        UserError: what runs it is not installed.
    """
    file = FORMS[form]
    if file is None:
        return EagerBackend(segmenter_of(config, size))
    if form.startswith("OpenVINO"):
        return openvino_runner(folder / file, config.threads)
    return onnx_runner(folder / file, config.threads)


def memory(field: str) -> float:
    """MiB that this process holds now ("VmRSS") or held at most ("VmHWM").

    Not getrusage: its peak survives exec, and would be that of the process that started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def report_alone(config: ExportBenchConfig) -> None:
    """Print what a process of its own is for, as JSON: FCM's latencies, or the peak memory of a form."""
    assert config.only is not None
    assert config.folder is not None
    if config.only == FCM:
        import torch

        cases = fcm_cases(config.folder / "fcm.onnx", config.threads)
        with torch.inference_mode():
            print(json.dumps(interleaved(cases, 5 * config.rounds)))
    elif config.only in (TILED, WHOLE):
        import onnxruntime as ort

        session = ort.InferenceSession(config.folder / f"{config.only}.onnx", providers=[CPU])
        before = memory("VmRSS")
        session.run(None, {v.name: np.ones(v.shape, np.float32) for v in session.get_inputs()})
        print(round(memory("VmHWM") - before))
    else:
        assert config.size is not None
        run = open_form(config.only, config.folder, config, config.size)
        for _ in range(2):
            run(np.zeros((1, *config.size, 3), np.uint8))
        print(round(memory("VmHWM")))


def alone(only: str, folder: Path, config: ExportBenchConfig, size: Size | None = None) -> Any:
    """Run `report_alone` in a process of its own and return what it says."""
    command = [sys.executable, __file__, "--only", only, "--folder", str(folder)]
    command += ["--threads", str(config.threads), "--backbone", config.backbone]
    command += ["--rounds", str(config.rounds), *(["--size", *map(str, size)] if size else [])]
    for name in ("weights", "checkpoint"):
        if (value := getattr(config, name)) is not None:
            command += [f"--{name}", str(value)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(config.threads))
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | threads)
    return json.loads(done.stdout)


def profiled(model: Path, threads: int) -> "ort.InferenceSession":
    """Open a model as one whose nodes are timed."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_profiling = True
    options.profile_file_prefix = str(model.with_suffix(".profile"))
    return ort.InferenceSession(str(model), options, providers=[CPU])


def spent(session: "ort.InferenceSession") -> tuple[int, int]:
    """Microseconds until now: in what has the backbone's or classifier's name, and in the rest."""
    events = json.loads(Path(session.end_profiling()).read_text())
    inside = outside = 0
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            if event["name"].startswith(("backbone.", "classifier.")):
                inside += event["dur"]
            else:
                outside += event["dur"]
    return inside, outside


def low_level_share(folder: Path, frame: NDArray[np.uint8], threads: int) -> float:
    """Share of ONNX Runtime's time that the low-level branch adds to a frame with bilinear upsampling."""
    whole, plain = (profiled(folder / name, threads) for name in ("model.onnx", PLAIN))
    for _ in range(20):
        for session in (whole, plain):
            session.run(None, {"frame": frame})
    # Fused nodes of the backbone lose its name, and stand in both rests.
    (inside, with_branch), (_, without) = spent(whole), spent(plain)
    return (with_branch - without) / (inside + with_branch)


def arithmetic(segmenter: "Segmenter") -> Callable[[], Any]:
    """Linear layers, fused attention and GELU of the transformer's blocks and nothing else, in PyTorch: what
    the best of float32 runtimes still has to do."""
    import torch
    from torch.nn import functional

    blocks: Any = segmenter.backbone.vit.blocks
    count = segmenter.grid[0] * segmenter.grid[1] + 1
    weights = [m.weight for m in blocks.modules() if isinstance(m, torch.nn.Linear)]
    inputs = {w.shape[1]: torch.rand(count, w.shape[1]) for w in weights}
    heads = blocks[0].attn.num_heads
    q = torch.rand(1, heads, count, segmenter.backbone.dim // heads)

    @torch.inference_mode()
    def run() -> None:
        for w in weights:
            functional.linear(inputs[w.shape[1]], w)
        for _ in blocks:
            functional.scaled_dot_product_attention(q, q, q)
            functional.gelu(inputs[max(inputs)])

    return run


@dataclass(frozen=True)
class Row:
    """A form at a size: median milliseconds, peak MiB, file MiB, agreement in [0, 1]; None: has none."""

    milliseconds: float
    peak: int | None = None
    file: float | None = None
    agreement: float | None = None


def measure(
    config: ExportBenchConfig, folder: Path, say: Callable[[str], None]
) -> tuple[dict[tuple[Size, str], Row], dict[Size, float]]:
    """Measure every form at every size, all of them in turn; also the low-level branch's share by size."""
    from il2vseg.export.cli import verification_frames

    runners: dict[tuple[Size, str], Runner] = {}
    frames: dict[Size, list[NDArray[np.uint8]]] = {}
    folders: dict[Size, Path] = {}
    for size in [config.size] if config.size else SIZES:
        where = folders[size] = folder / "x".join(map(str, size))
        write_files(segmenter_of(config, size), where, config.calib, say)
        frames[size] = [frame[None] for _, frame in verification_frames(config.verify, size, FRAMES)]
        for form in FORMS:
            try:
                runners[size, form] = open_form(form, where, config, size)
            except UserError as error:
                print(f"left out {form}: {error}", file=sys.stderr)
    say("measuring latencies")
    cases = {key: partial(run, frames[key[0]][0]) for key, run in runners.items()}
    cases |= {(size, ARITHMETIC): arithmetic(segmenter_of(config, size)) for size in folders}
    medians = interleaved(cases, config.rounds)
    rows = {}
    expected = {size: [runners[size, EAGER](f)[0] for f in frames[size]] for size in folders}
    for (size, form), run in runners.items():
        say(f"{form}: agreement and memory")
        pairs = zip(frames[size], expected[size], strict=True)
        agreement = np.mean([(run(frame)[0] == labels).mean() for frame, labels in pairs])
        peak, file = alone(form, folders[size], config, size), FORMS[form]
        mib = (folders[size] / file).stat().st_size / 2**20 if file else None
        rows[size, form] = Row(medians[size, form], peak, mib, float(agreement))
    rows |= {(size, ARITHMETIC): Row(medians[size, ARITHMETIC]) for size in folders}
    shares = {
        size: low_level_share(where, frames[size][0], config.threads) for size, where in folders.items()
    }
    return rows, shares


def bench(config: ExportBenchConfig) -> None:
    """Measure and print one table."""
    if config.only is not None:
        report_alone(config)
        return
    import torch
    from rich.console import Console
    from rich.table import Table

    from il2vseg.models.lowlevel import AFFINITY_TILE

    console = Console(width=100)
    torch.set_num_threads(config.threads)
    with tempfile.TemporaryDirectory() as name, console.status("") as status:
        folder = Path(name)
        rows, shares = measure(config, folder, status.update)
        status.update("fuzzy c-means, and the low-level branch of a large frame")
        fcm = {n: alone(FCM, folder, replace(config, threads=n)) for n in sorted({1, config.threads})}
        tiles = {TILED: AFFINITY_TILE, WHOLE: LARGE[0] * LARGE[1]}
        for only, tile in tiles.items():
            write_low_level(folder / f"{only}.onnx", tile)
        large = {only: alone(only, folder, config) for only in tiles}
    table = Table(title=f"{config.checkpoint or config.backbone}, {config.threads} threads")
    table.add_column("form")
    for heading in ("median ms", "speed-up", "peak MiB", "file MiB", "agreement"):
        table.add_column(heading, justify="right")
    for (size, form), row in sorted(rows.items(), key=lambda item: -item[0][0][0]):
        if form == EAGER:
            table.add_section()
        speed_up = f"{rows[size, EAGER].milliseconds / row.milliseconds:.2f}x"
        measured = zip(("{}", "{:.1f}", "{:.2%}"), (row.peak, row.file, row.agreement), strict=True)
        values = ["" if value is None else shape.format(value) for shape, value in measured]
        table.add_row(f"{size[0]}x{size[1]} {form}", f"{row.milliseconds:.1f}", speed_up, *values)
    table.add_section()
    for threads, times in fcm.items():
        for name, milliseconds in times.items():
            speed_up = f"{times[SCIKIT] / milliseconds:.1f}x" if SCIKIT in times else ""
            case = f"FCM, {threads} thread{'s' * (threads > 1)}: {name}"
            table.add_row(case, f"{milliseconds:.2f}", speed_up)
    table.add_section()
    for only, tile in tiles.items():
        table.add_row(f"1280x720 low-level, tiles of {tile}", "", "", f"+{large[only]}")
    console.print(table)
    grid = "x".join(map(str, GRID))
    console.print(f"FCM: {grid} cells, {CLASSES} classes, {ITERATIONS} iterations, plain")
    for (height, width), share in shares.items():
        console.print(f"the low-level branch is {share:.1%} of an fp32 frame at {height}x{width}")


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    return run_command(lambda: bench(parse(ExportBenchConfig, PROGRAM, argv)), PROGRAM)


if __name__ == "__main__":
    raise SystemExit(main())
