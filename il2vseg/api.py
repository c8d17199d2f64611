"""The functions of the public interface; see `il2vseg`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from il2vseg.runtime.model import Model
from il2vseg.runtime.stream import stream as _stream

if TYPE_CHECKING:
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
        return load_trained(folder, weights)
    from il2vseg.runtime.backends.providers import open_engine

    engine = open_engine(what, provider, precision=precision, threads=threads, say=lambda line: None)
    return Model(engine)


def _checkpoint_folder(what: Path) -> Path | None:
    """The folder of the checkpoint that `what` names; None where it names something else."""
    from il2vseg.runtime.manifest import FILE_NAME

    if what.is_file() and what.name == _CHECKPOINT:
        return what.parent
    return what if (what / _CHECKPOINT).is_file() and not (what / FILE_NAME).is_file() else None


def load_trained(folder: Path, weights: str | Path | None = None) -> Model:
    """Load a checkpoint as a model that runs in PyTorch, on a GPU where there is one."""
    import torch

    from il2vseg.export.describe import describe
    from il2vseg.models.checkpoint import load_checkpoint
    from il2vseg.models.eager import EagerBackend
    from il2vseg.runtime.engine import Engine

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = load_checkpoint(folder, weights=weights).to(device)
    return Model(Engine(describe(network, folder.resolve().name), EagerBackend(network)))


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
