"""il2vseg-export: a checkpoint becomes one checked ONNX graph with a manifest and a parity report."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from il2vseg import __version__
from il2vseg.base.command import MAX_COUNT, MAX_SIDE, Settings, flag, parse
from il2vseg.base.errors import CheckFailed, UserError, run_command
from il2vseg.base.files import require_writable_dir, write_json
from il2vseg.base.images import Frame, resize_frame
from il2vseg.base.outputs import footage_files, protect, require_only
from il2vseg.base.progress import PROGRESS_HELP, Form, Stages
from il2vseg.export.variants import FP32, MODEL_NAME, Variant

if TYPE_CHECKING:
    from il2vseg.export.parity import ParityReport
    from il2vseg.models.network import Network

PROGRAM = "il2vseg-export"
PARITY_NAME = "parity.json"
PICTURE_NAME = "parity.png"
DEVICE_NAME, DEVICE_PICTURE = "device.json", "device.png"


@dataclass
class ExportConfig(Settings):
    """Export a checkpoint as one ONNX graph, and prove that the graph computes what the model computes."""

    REMOVED: ClassVar[dict[str, str]] = {
        "--calib-method": "int8 now always covers the smallest to the largest value (minmax); leave it out"
    }

    checkpoint: Path = flag(Path("runs/synthetic"), "folder of a trained model", metavar="DIR")
    out: Path | None = flag(None, "output folder; default: CHECKPOINT/export", metavar="DIR")
    size: tuple[int, int] | None = flag(
        None, "input height and width; default: that of training", low=1, high=MAX_SIDE, metavar="PIXELS"
    )
    precision: Literal["fp32", "fp16", "int8"] = flag(
        "fp32", "number format; fp16 and int8 files stand beside the fp32 one"
    )
    batch: int = flag(
        1,
        "largest batch of TensorRT or Triton; above 1 the graph's batch axis is free",
        low=1,
        high=1024,
        metavar="N",
    )
    alpha: float | None = flag(
        None, "weight of the low-level branch; default: the checkpoint's", low=0, high=1
    )
    verify: Path | None = flag(
        None, "frames to check parity on; default: synthetic scenes", metavar="DIR|CLIP"
    )
    verify_frames: int = flag(
        20, "frames compared at most, evenly spread", low=1, high=MAX_COUNT, metavar="N"
    )
    calib: Path | None = flag(
        None, "frames to calibrate int8 on; default: those of --verify", metavar="DIR|CLIP"
    )
    calib_frames: int = flag(96, "frames chosen from them", low=1, high=MAX_COUNT, metavar="N")
    trt: bool = flag(False, "build a TensorRT engine for the GPU of this machine")
    model: Path | None = flag(
        None,
        "an exported model, which needs no checkpoint and no PyTorch: build from it with --trt, else compare "
        "every provider of this machine with its model.onnx on the frames of --verify",
        metavar="DIR",
    )
    workspace: int = flag(
        2048, "memory that TensorRT may use while building", low=1, high=1 << 20, metavar="MB"
    )
    timing_cache: Path = flag(
        Path("~/.cache/il2vseg/tensorrt.timing"),
        "cache of measurements that makes the next build fast",
        metavar="FILE",
    )
    triton: bool = flag(False, "write a model repository for Triton Inference Server: OUT/triton")
    weights: Path | None = flag(None, "weights file of the backbone", metavar="FILE")
    name: str | None = flag(None, "name of the model in the manifest; default: the checkpoint folder's")
    progress: Form = flag("bar", PROGRESS_HELP)


def check(config: ExportConfig) -> None:
    """Refuse settings that do not go together, before anything slow starts.

    Raises:
        UserError: a model with nothing to do.
    """
    if config.model is not None and not config.trt and config.verify is None:
        raise UserError(
            "--model DIR needs --trt or --verify DIR|CLIP; to export a checkpoint, pass --checkpoint DIR"
        )


def verification_frames(
    source: Path | None, size: tuple[int, int], limit: int = ExportConfig.verify_frames
) -> Iterator[tuple[str, Frame]]:
    """Yield up to `limit` (name, frame) of `size` from a folder or clip, else synthetic scenes.

    Raises:
        UserError: the source does not exist or holds no readable frame.
    """
    from il2vseg.data import open_dataset

    name, split = ("synthetic", "val") if source is None else ("folder", "all")
    data = open_dataset(name, source, split, limit=limit)
    for sample in data:
        yield sample.name, resize_frame(sample.frame, size)
    if note := data.skipped_note():
        print(note, file=sys.stderr)


def verify(
    network: "Network", model: Path, precision: str, frames: Iterator[tuple[str, Frame]]
) -> "ParityReport":
    """Compare an exported file with its eager model; see `parity.compare`."""
    import torch

    from il2vseg.export.parity import LIMITS, compare
    from il2vseg.export.runners import onnx_runner
    from il2vseg.models.eager import EagerBackend

    candidate = onnx_runner(model, torch.get_num_threads())
    return compare(EagerBackend(network), candidate, frames, LIMITS[precision])


def write_variants(config: ExportConfig, network: "Network", folder: Path, console: Stages) -> list[Variant]:
    """Write model.onnx and what the precision adds into `folder`.

    Raises:
        UserError: no usable frame to calibrate on, or a model that the precision does nothing for.
    """
    from il2vseg.export.graph import export_onnx
    from il2vseg.export.variants import write_half, write_int8

    with console.status("writing the graph") as status:
        export_onnx(network, folder / MODEL_NAME, config.batch)
        if config.precision == "fp16":
            return [FP32, *write_half(folder)]
        if config.precision == "fp32":
            return [FP32]
        from il2vseg.calib.frames import representative_frames

        source = config.calib or config.verify
        if source is None:
            console.print(
                "int8 is calibrated on synthetic scenes; pass --calib DIR with frames of your camera"
            )
        status.update("choosing frames to calibrate on")
        frames = representative_frames(source, network.size, config.calib_frames)
        return [FP32, *write_int8(folder, frames, status.update)]


def warn_of_obstacles(folder: Path, variants: list[Variant], console: Stages) -> None:
    """Say which files TensorRT could not parse, and why; other runtimes may still take them."""
    import onnx

    from il2vseg.export.tensorrt_support import obstacles

    for variant in variants:
        found = [] if variant.target == "cpu" else obstacles(onnx.load(folder / variant.path))
        if found:
            more = f" (and {len(found) - 1} more)" if found[1:] else ""
            console.print(f"{variant.path} cannot be parsed by TensorRT: {found[0]}{more}", markup=False)


def prove(
    config: ExportConfig, network: "Network", folder: Path, variants: list[Variant], console: Stages
) -> "dict[str, ParityReport]":
    """Compare every file with the model; write parity.json and a picture of the worst frames of each.

    parity.json is the report of the file that agrees least, with those of all files under "files" and,
    for a file that failed, the first layer where it diverges under "divergence".
    """
    from il2vseg.base.palette import class_colors
    from il2vseg.export.parity import least_alike

    reports: dict[str, ParityReport] = {}
    divergence: dict[str, Any] = {}
    for variant in variants:
        path = folder / variant.path
        with console.status(f"comparing {variant.path} with the model"):
            frames = verification_frames(config.verify, network.size, config.verify_frames)
            report = verify(network, path, variant.precision, frames)
        console.print(report.table(f"{variant.path} on {config.verify or 'synthetic scenes'}"))
        report.write_picture(folder / _picture(variant), class_colors(network.class_names))
        reports[variant.path] = report
        if not report.passed:
            from il2vseg.export.bisect import TOLERANCES, first_divergence

            with console.status("looking for the first layer that differs"):
                frame = report.worst[0].frame
                found = first_divergence(network, path, frame, TOLERANCES[variant.precision])
            divergence[variant.path] = found.to_dict()
            if found.layer:
                report.failures.append(f"first layer that differs: {found.layer}")
    least = least_alike(reports.values())
    files = {path: report.to_dict() for path, report in reports.items()}
    extra = {"divergence": divergence} if divergence else {}
    write_json(folder / PARITY_NAME, least.to_dict() | {"files": files} | extra)
    return reports


def _picture(variant: Variant) -> str:
    return PICTURE_NAME if variant is FP32 else f"parity.{variant.path.removeprefix('model.')[:-5]}.png"


def export(config: ExportConfig) -> Path:
    """Export as configured; return the folder of the exported model.

    Everything is written beside the output folder and moved into it when it is whole and proven.

    Raises:
        UserError: no complete checkpoint, a size that is no multiple of the patch, no frame to verify on, a
            folder that cannot be written, or no GPU for --trt (what is exported by then stays).
        CheckFailed: parity is outside the limits; graphs, report and pictures are kept in OUT/rejected.
    """
    check(config)
    if config.model is not None:
        return add_engine(config, config.model) if config.trt else check_device(config, config.model)
    out = require_writable_dir(config.out or config.checkpoint / "export")
    check_outputs(config, out)

    from il2vseg.models.checkpoint import load_checkpoint
    from il2vseg.models.segmenter import with_alpha

    network = load_checkpoint(config.checkpoint, size=config.size, weights=config.weights)
    network = with_alpha(network, config.alpha)
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder:
        write_proven(config, network, Path(folder), out, Stages(config.progress))
        written = sorted(file.name for file in Path(folder).iterdir())
        for file in written:
            (Path(folder) / file).replace(out / file)
    print(f"{out}: {', '.join(written)}", file=sys.stderr)
    if config.triton:
        from il2vseg.export.triton import write_repository

        print(f"{write_repository(out)}: Triton model repository", file=sys.stderr)
    if config.trt:
        add_engine(replace(config, model=out), out)
    return out


def write_proven(config: ExportConfig, network: "Network", work: Path, out: Path, console: Stages) -> None:
    """Write graphs, parity reports and, if all of them pass, the manifest into the folder `work`.

    Raises:
        UserError: no frame to verify or to calibrate on.
        CheckFailed: parity is outside the limits; what was written is kept in OUT/rejected.
    """
    import onnx
    import torch

    from il2vseg.export.describe import describe
    from il2vseg.export.opset import OPSET
    from il2vseg.export.parity import failures
    from il2vseg.runtime.manifest import describe_file

    variants = write_variants(config, network, work, console)
    warn_of_obstacles(work, variants, console)
    reports = prove(config, network, work, variants, console)
    if failed := failures(reports):
        rejected = out / "rejected"
        shutil.rmtree(rejected, ignore_errors=True)
        work.rename(rejected)
        work.mkdir()  # its owner removes it
        raise CheckFailed(f"parity failed: {failed}; see {rejected}")
    files = tuple(
        describe_file(
            work,
            v.path,
            format="onnx",
            precision=v.precision,
            target=v.target,
            parity=reports[v.path].to_dict(),
            quantization=v.quantization,
        )
        for v in variants
    )
    name = config.name or config.checkpoint.resolve().name
    manifest = describe(network, name, files, config.batch)
    tools = {"il2vseg": __version__, "torch": torch.__version__, "onnx": onnx.__version__}
    replace(manifest, tools=tools, opset=OPSET).save(work)


def check_outputs(config: ExportConfig, out: Path) -> None:
    """Make sure that nothing is written over, or deleted, that is not an earlier export.

    Raises:
        UserError: something would be.
    """
    require_only(out / "rejected", ("model*", "parity*"))
    if config.triton:
        require_only(out / "triton", ("config.pbtxt", "model*"))
    read = [*footage_files(config.verify, config.calib), config.checkpoint / "checkpoint.safetensors"]
    pictures = [PICTURE_NAME, *(f"parity.{kind}.png" for kind in ("fp16", "int8", "int8-cpu"))]
    names = ["manifest.json", MODEL_NAME, PARITY_NAME, *pictures]
    protect([out / name for name in names], read, advice="choose another --out")


def add_engine(config: ExportConfig, folder: Path) -> Path:
    """Build a TensorRT engine from an exported model and add it to its manifest, proven.

    Raises:
        UserError: no TensorRT or no GPU here; the message has the command to run on the device.
        CheckFailed: parity is outside the limits; the engine is not added.
    """
    from il2vseg.export.engine import build_into

    console = Stages(config.progress)
    with console.status("TensorRT") as status:
        report = build_into(
            folder,
            config.precision,
            workspace_mb=config.workspace,
            timing_cache=config.timing_cache.expanduser(),
            frames=lambda size: verification_frames(config.verify, size, config.verify_frames),
            progress=status.update,
        )
    console.print(report.table("model.engine against model.onnx"))
    return folder


def check_device(config: ExportConfig, folder: Path) -> Path:
    """Compare every provider of this machine with model.onnx; write device.json and a picture to OUT.

    Raises:
        UserError: the model is damaged, there is no frame, or no provider but the reference.
        CheckFailed: a provider's parity is outside the limits.
    """
    from il2vseg.export.device import compare_providers, table
    from il2vseg.export.parity import failures, least_alike
    from il2vseg.runtime.manifest import Manifest

    out = require_writable_dir(config.out or folder)
    protect([out / DEVICE_NAME, out / DEVICE_PICTURE], footage_files(config.verify))
    console = Stages(config.progress)
    with console.status("") as status:
        reports, absent = compare_providers(
            folder,
            lambda size: verification_frames(config.verify, size, config.verify_frames),
            status.update,
        )
    if reports:
        console.print(table(f"{config.verify}, against {folder / MODEL_NAME} in ONNX Runtime", reports))
    for provider, reason in absent.items():
        console.print(f"not available: {provider}: {reason}", markup=False, highlight=False)
    if not reports:
        raise UserError(f"{folder}: there is no provider to compare with ONNX Runtime on the CPU")
    values = {name: report.to_dict() for name, report in reports.items()}
    write_json(out / DEVICE_NAME, {"providers": values, "absent": absent})
    manifest = Manifest.load(folder)
    colors = [manifest.classes[c].color for c in manifest.clusters]
    least_alike(reports.values()).write_picture(out / DEVICE_PICTURE, colors)
    if failed := failures(reports):
        raise CheckFailed(f"parity failed: {failed}; see {out / DEVICE_PICTURE}")
    return out


def main(argv: list[str] | None = None, prog: str = PROGRAM) -> int:
    """Entry point of `il2vseg-export`."""

    def command() -> None:
        export(parse(ExportConfig, prog, argv))

    return run_command(command, prog)
