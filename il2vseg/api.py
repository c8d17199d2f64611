"""The functions of the public interface; see `il2vseg`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from il2vseg.runtime.model import Model
from il2vseg.runtime.stream import stream as _stream
from il2vseg.signatures import signature

if TYPE_CHECKING:
    from typing import Unpack

    from il2vseg.evaluate import EvaluationReport
    from il2vseg.evaluation.obstacles import ObstacleScore
    from il2vseg.flags import DistillFlags, EvaluateFlags, ExportFlags, NameFlags, TrainFlags
    from il2vseg.models.network import Network
    from il2vseg.runtime.result import Result

_CHECKPOINT = "checkpoint.safetensors"


def load(
    what: str | Path,
    *,
    provider: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    weights: str | Path | None = None,
) -> Model:
    """Load a model to segment pictures with.

    Args:
        what: a bundled model's name ("marine-lite"), an export's folder or one of its files, or the folder
            of a checkpoint, which runs in PyTorch.
        provider: what runs an export: "auto", cpu, cuda, tensorrt or openvino.
        precision: which file of an export: "auto", fp32, fp16 or int8.
        threads: of one frame; None for one per core.
        weights: weights file of a checkpoint's backbone, where it cannot be downloaded.
    Raises:
        UserError: there is no such model, it is damaged, or it cannot run here.

    >>> model = load("marine-lite")
    >>> sorted(model.names)
    ['obstacle', 'sky', 'water']
    """
    folder = _checkpoint_folder(Path(what))
    if folder is not None:
        from il2vseg.models.checkpoint import load_checkpoint

        return _eager(load_checkpoint(folder, weights=weights), folder.resolve().name)
    from il2vseg.runtime.backends.providers import open_engine

    engine = open_engine(what, provider, precision=precision, threads=threads, say=lambda line: None)
    return Model(engine)


def _checkpoint_folder(what: Path) -> Path | None:
    """The folder of the checkpoint that `what` names; None where it names something else."""
    from il2vseg.runtime.manifest import FILE_NAME

    if what.is_file() and what.name == _CHECKPOINT:
        return what.parent
    return what if (what / _CHECKPOINT).is_file() and not (what / FILE_NAME).is_file() else None


def _eager(network: "Network", name: str) -> Model:
    """A network as a model that runs in PyTorch, on a GPU where there is one."""
    import torch

    from il2vseg.export.describe import describe
    from il2vseg.models.eager import EagerBackend
    from il2vseg.runtime.engine import Engine

    network = network.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return Model(Engine(describe(network, name), EagerBackend(network)))


def stream(
    source: str | Path, model: Model | str | Path, *, max_frames: int | None = None
) -> "Iterator[Result]":
    """Segment a clip, a folder of images, a stream or a camera, frame after frame.

    Every result has its place in the source, its latencies and the frames dropped so far. Recordings lose
    no frame; of a camera or stream the newest frame is next.

    Args:
        source: image or clip, folder or pattern of them; camera index; rtsp://, http://, udp:// or tcp://
            address; `synthetic:frames=30` for the built-in scene.
        model: what `load` returned, or takes.
        max_frames: end after so many; None goes on to the end of the source.
    Raises:
        UserError: there is nothing there that can be read, or no such model.

    >>> for result in stream("synthetic:frames=2", "marine-lite"):
    ...     print(result.index, result.name)
    0 frame_000000
    1 frame_000001
    """
    return _stream(source, model if isinstance(model, Model) else load(model), max_frames=max_frames)


def train(**flags: "Unpack[TrainFlags]") -> Model:
    """Train a segmenter from unlabelled frames, as `il2vseg train` does.

    Args:
        flags: those of the command; without any, on rendered marine scenes.
    Returns:
        the trained model. Its checkpoint is in `out` (default: runs/DATASET).
    Raises:
        UserError: wrong settings, no usable frames, or a folder that cannot be written.

    >>> model = train(backbone="tiny", method="kmeans", size=(64, 64), limit=4, num_classes=2, whitening=8,
    ...               centre=False, out="runs/tiny")
    >>> model.names
    ('class 0', 'class 1')
    """
    from il2vseg.train import TrainConfig
    from il2vseg.train import train as run

    return _eager(run(TrainConfig(**_settings(flags))), "trained")


def distill(**flags: "Unpack[DistillFlags]") -> Model:
    """Teach a small network what a trained model computes, as `il2vseg distill` does.

    Args:
        flags: those of the command; `teacher` is needed.
    Returns:
        the student. Its checkpoint is in `out` (default: runs/DATASET-lite).
    Raises:
        UserError: wrong settings, no teacher, no usable frames, or a folder that cannot be written.

    >>> student = distill(teacher="runs/tiny", size=(64, 64), limit=2, steps=1, batch=2, out="runs/tiny-lite")
    >>> student.names
    ('class 0', 'class 1')
    """
    from il2vseg.distill import DistillConfig
    from il2vseg.distill import distill as run

    return _eager(run(DistillConfig(**_settings(flags))), "distilled")


def name(**flags: "Unpack[NameFlags]") -> list[str]:
    """Name the clusters of a checkpoint or an export, as `il2vseg name` does; one name is one class.

    Args:
        flags: those of the command; `model` is needed.
    Returns:
        the names, one per cluster.
    Raises:
        UserError: no such model or footage, or wrong names.

    >>> name(model="runs/tiny", set=["0=water", "1=sky"])
    0=water
    1=sky
    ['water', 'sky']
    """
    from il2vseg.export.tools.naming import NameConfig
    from il2vseg.export.tools.naming import name as run

    return run(NameConfig(**_settings(flags)))


def export(**flags: "Unpack[ExportFlags]") -> Path:
    """Write a model as one ONNX graph and prove that it computes the same, as `il2vseg export` does.

    Args:
        flags: those of the command; `checkpoint`, or `model` with `trt`, is needed.
    Returns:
        the folder of the export, for `load`.
    Raises:
        UserError: no whole checkpoint, or a folder that cannot be written.
        CheckFailed: the graph does not compute what the model does.

    >>> folder = export(checkpoint="runs/tiny-lite", verify_frames=1)  # doctest: +SKIP
    >>> load(folder).names  # doctest: +SKIP
    ('class 0', 'class 1')
    """
    from il2vseg.export.cli import ExportConfig
    from il2vseg.export.cli import export as run

    return run(ExportConfig(**_settings(flags)))


def evaluate(**flags: "Unpack[EvaluateFlags]") -> "EvaluationReport | ObstacleScore":
    """Score a model on a data set with masks, as `il2vseg evaluate` does, and print the table.

    Args:
        flags: those of the command; `checkpoint` or `model` is needed.
    Returns:
        the report; with `dataset="folder"` and `obstacles=True`, which need no masks, what was found.
    Raises:
        UserError: wrong settings, no such model, or data that cannot be read.

    >>> report = evaluate(checkpoint="runs/tiny", limit=1)  # doctest: +ELLIPSIS
    synthetic val, 1 images...
    >>> report.images
    1
    """
    from il2vseg.evaluate import EvaluateConfig, run

    return run(EvaluateConfig(**_settings(flags)))


def _settings(flags: Mapping[str, object]) -> dict[str, Any]:
    """Flags for a command's dataclass, which converts and checks them."""
    return dict(flags)


# The other commands get theirs in `il2vseg`, where modules have their names.
vars(name)["__signature__"] = signature("name")
