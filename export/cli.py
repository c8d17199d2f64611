"""il2vseg-export: a checkpoint becomes one checked ONNX graph with a manifest and a parity report."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from il2vseg import __version__
from il2vseg.command import flag, parse
from il2vseg.errors import CheckFailed, UserError, run_command
from il2vseg.files import require_writable_dir, write_json
from il2vseg.images import Frame, resize_frame

if TYPE_CHECKING:
    from il2vseg.export.parity import ParityReport
    from il2vseg.runtime.manifest import Manifest

    from il2vseg.model import Segmenter

PROGRAM = "il2vseg-export"
MODEL_NAME = "model.onnx"
PARITY_NAME = "parity.json"
PICTURE_NAME = "parity.png"
VERIFY_FRAMES = 20


@dataclass
class ExportConfig:
    """Export a checkpoint as one ONNX graph, and prove that the graph computes what the model computes."""

    checkpoint: Path = flag(Path("runs/synthetic"), "folder of a trained model", metavar="DIR")
    out: Path | None = flag(None, "output folder; default: CHECKPOINT/export", metavar="DIR")
    size: tuple[int, int] | None = flag(
        None, "input height and width; default: that of training", metavar="PIXELS"
    )
    precision: Literal["fp32"] = flag("fp32", "number format of the graph")
    alpha: float | None = flag(None, "weight of the low-level branch, 0 to 1; default: the checkpoint's")
    verify: Path | None = flag(
        None, "frames to check parity on; default: synthetic scenes", metavar="DIR|CLIP"
    )
    weights: Path | None = flag(None, "weights file of the backbone", metavar="FILE")
    name: str | None = flag(None, "name of the model in the manifest; default: the checkpoint folder's")


def verification_frames(source: Path | None, size: tuple[int, int]) -> Iterator[tuple[str, Frame]]:
    """Yield up to VERIFY_FRAMES (name, frame) of `size` from a folder or clip, else synthetic scenes.

    Raises:
        UserError: the source does not exist or holds no readable frame.
    """
    from il2vseg.data import open_dataset

    name, split = ("synthetic", "val") if source is None else ("folder", "all")
    for sample in open_dataset(name, source, split, limit=VERIFY_FRAMES):
        yield sample.name, resize_frame(sample.frame, size)


def verify(
    segmenter: "Segmenter", model: Path, precision: str, frames: Iterator[tuple[str, Frame]]
) -> "ParityReport":
    """Compare an exported file with its eager model; see `parity.compare`."""
    from il2vseg.export.parity import LIMITS, compare
    from il2vseg.export.runners import eager_runner, onnx_runner

    return compare(eager_runner(segmenter), onnx_runner(model), frames, LIMITS[precision])


def build_manifest(segmenter: "Segmenter", name: str, model: Path, report: "ParityReport") -> "Manifest":
    """Describe an exported model."""
    import dataclasses

    import onnx
    import torch
    from il2vseg.export.graph import INPUT, OPSET
    from il2vseg.export.naming import merge
    from il2vseg.runtime.manifest import ClassInfo, InputSpec, Manifest, ModelFile, OutputSpec

    from il2vseg.files import sha256_file
    from il2vseg.palette import default_palette

    spec, (height, width) = segmenter.spec, segmenter.size
    names, clusters = merge(segmenter.class_names)
    colours = default_palette(len(names))
    return Manifest(
        name=name,
        method=spec.method,
        backbone=spec.backbone,
        patch_size=segmenter.patch,
        input=InputSpec(INPUT, height, width),
        outputs=OutputSpec((height, width), (segmenter.num_classes, *segmenter.grid)),
        classes=tuple(ClassInfo(n, c) for n, c in zip(names, colours, strict=True)),
        clusters=clusters,
        files=(
            ModelFile(
                path=model.name,
                format="onnx",
                precision="fp32",
                target="any",
                sha256=sha256_file(model),
                bytes=model.stat().st_size,
                parity=report.to_dict(),
            ),
        ),
        alpha=segmenter.alpha,
        fcm=dataclasses.asdict(spec.low_level),
        training_data=spec.training_data,
        tools={"il2vseg": __version__, "torch": torch.__version__, "onnx": onnx.__version__},
        opset=OPSET,
    )


def export(config: ExportConfig) -> Path:
    """Export as configured; return the folder of the exported model.

    Everything is written beside the output folder and moved into it when it is whole and proven.

    Raises:
        UserError: no whole checkpoint, a size of broken patches, no frame to verify on, a folder that
            cannot be written.
        CheckFailed: parity is outside the limits; graph, report and picture are kept in OUT/rejected.
    """
    out = require_writable_dir(config.out or config.checkpoint / "export")
    if config.alpha is not None and not 0.0 <= config.alpha <= 1.0:
        raise UserError(f"--alpha {config.alpha}: it is from 0 to 1")

    from il2vseg.export.graph import export_onnx
    from rich.console import Console

    from il2vseg.checkpoint import load_checkpoint

    console = Console(stderr=True)
    segmenter = load_checkpoint(config.checkpoint, size=config.size, weights=config.weights)
    if config.alpha is not None:
        segmenter.alpha = config.alpha
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder:
        work = Path(folder)
        with console.status("writing the graph"):
            export_onnx(segmenter, work / MODEL_NAME)
        with console.status("comparing it with the model"):
            frames = verification_frames(config.verify, segmenter.size)
            report = verify(segmenter, work / MODEL_NAME, config.precision, frames)
        console.print(report.table(f"parity on {config.verify or 'synthetic scenes'}"))
        write_json(work / PARITY_NAME, report.to_dict())
        report.write_picture(work / PICTURE_NAME)
        if not report.passed:
            rejected = out / "rejected"
            shutil.rmtree(rejected, ignore_errors=True)
            work.rename(rejected)
            work.mkdir()  # the context manager removes it
            raise CheckFailed(f"parity failed: {'; '.join(report.failures)}; see {rejected / PICTURE_NAME}")
        name = config.name or config.checkpoint.resolve().name
        build_manifest(segmenter, name, work / MODEL_NAME, report).save(work)
        for file in sorted(work.iterdir()):
            file.replace(out / file.name)
    print(f"{out}: {MODEL_NAME}, manifest.json, {PARITY_NAME}, {PICTURE_NAME}", file=sys.stderr)
    return out


def main(argv: list[str] | None = None) -> int:
    """Entry point of `il2vseg-export`."""

    def command() -> None:
        export(parse(ExportConfig, PROGRAM, argv))

    return run_command(command, PROGRAM)
