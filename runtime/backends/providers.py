"""Providers: which runtimes can run a model here, and which of its files each one prefers.

A provider is a row of PROVIDERS. `open_engine` goes through the rows in the order of `preferred`, loads the
first one that really works and prints which.
"""

import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np

from il2vseg.base.errors import UserError
from il2vseg.runtime.backends.onnx import OnnxBackend
from il2vseg.runtime.catalog import find_model
from il2vseg.runtime.engine import Backend, Engine, Stabiliser
from il2vseg.runtime.manifest import FILE_NAME, Format, Manifest, ModelFile, Precision, Target, verify_file


class UnavailableError(Exception):
    """A provider cannot run here, or cannot run this model; the message says why."""


OpenBackend = Callable[[Path, Manifest, ModelFile, int | None], Backend]


@dataclass(frozen=True)
class Provider:
    """A row of the table.

    Attributes:
        formats: file formats that it loads, best first. target: family of the files made for it.
        precisions: what it runs well, best first.
        open: folder, manifest, file and number of threads -> backend; raises UnavailableError or UserError.
    """

    formats: tuple[Format, ...]
    target: Target
    precisions: tuple[Precision, ...]
    open: OpenBackend


def _open_onnx(
    name: str,
    execution_provider: str,
    folder: Path,
    manifest: Manifest,
    entry: ModelFile,
    threads: int | None,
) -> Backend:
    # Looked up before the import: a process that ends with both ONNX Runtime and OpenVINO in it may crash.
    found = find_spec("onnxruntime")
    if found is None:
        raise UnavailableError("onnxruntime is not installed (pip install 'il2vseg[cpu]')")
    if not _has_library(Path(str(found.origin)).parent, execution_provider):
        raise UnavailableError(f"this onnxruntime has no {execution_provider}")
    import onnxruntime as ort

    if execution_provider not in ort.get_available_providers():
        raise UnavailableError(f"this onnxruntime has no {execution_provider}")
    if execution_provider != "CPUExecutionProvider":
        _preload_cuda(ort)
    backend = OnnxBackend(folder / entry.path, manifest, name, execution_provider, threads)
    # A session asked for a provider that does not work falls back to the CPU without an exception.
    if backend.active_provider != execution_provider:
        backend.close()
        raise UnavailableError(f"{execution_provider} is in this onnxruntime but did not start (no device?)")
    return backend


def _preload_cuda(ort: ModuleType) -> None:
    """Load the CUDA libraries of NVIDIA's wheels, which lie where the loader does not look."""
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        with redirect_stdout(io.StringIO()):  # it prints what it does not find; the session says what counts
            preload()


def _has_library(package: Path, execution_provider: str) -> bool:
    """Whether a package of ONNX Runtime has what an execution provider needs; the CPU's is always there."""
    name = execution_provider.removesuffix("ExecutionProvider").lower()
    return name == "cpu" or any(package.glob(f"capi/*onnxruntime_providers_{name}.*"))


def _open_tensorrt(folder: Path, manifest: Manifest, entry: ModelFile, threads: int | None) -> Backend:
    """Run an engine natively, and an ONNX file through ONNX Runtime's provider, which builds its own."""
    if entry.format == "onnx":
        return _open_onnx("tensorrt", "TensorrtExecutionProvider", folder, manifest, entry, threads)
    try:
        import tensorrt
    except ImportError:
        raise UnavailableError("tensorrt is not installed (pip install 'il2vseg[trt]')") from None
    from il2vseg.runtime.backends.cuda import Cuda, CudaError
    from il2vseg.runtime.backends.tensorrt import TensorrtBackend

    try:
        cuda = Cuda()
    except CudaError as error:
        raise UnavailableError(str(error)) from None
    return TensorrtBackend(folder / entry.path, manifest, entry, tensorrt, cuda)


def _open_openvino(folder: Path, manifest: Manifest, entry: ModelFile, threads: int | None) -> Backend:
    if find_spec("openvino") is None:
        raise UnavailableError("openvino is not installed (pip install 'il2vseg[openvino]')")
    from il2vseg.runtime.backends.openvino import OpenvinoBackend

    return OpenvinoBackend(folder / entry.path, manifest, threads)


def _onnx(
    name: str, execution_provider: str, target: Target, precisions: tuple[Precision, ...]
) -> tuple[str, Provider]:
    return name, Provider(("onnx",), target, precisions, partial(_open_onnx, name, execution_provider))


PROVIDERS: dict[str, Provider] = dict(
    (
        (
            "tensorrt",
            Provider(("tensorrt", "onnx"), "tensorrt", ("fp16", "int8", "fp32"), _open_tensorrt),
        ),
        _onnx("cuda", "CUDAExecutionProvider", "any", ("fp16", "fp32")),
        ("openvino", Provider(("onnx",), "cpu", ("int8", "fp32"), _open_openvino)),
        _onnx("cpu", "CPUExecutionProvider", "cpu", ("int8", "fp32")),
    )
)
"""In the order in which `auto` tries them, but for students: see `preferred`."""


def preferred(manifest: Manifest) -> list[str]:
    """The providers in the order in which `auto` tries them for a model.

    On a CPU OpenVINO is the faster one for transformers, and ONNX Runtime for students, whose graphs are
    written for it. They are not timed here: a process should load one of them, and the same command should
    run the same one every time (docs/decisions.md).
    """
    return sorted(PROVIDERS, key=lambda name: name == "openvino" and manifest.distilled)


def choose_file(manifest: Manifest, name: str, precision: str = "auto") -> ModelFile:
    """Choose the file of a model that a provider runs best.

    Args:
        name: key of PROVIDERS. precision: "auto" or the one that is wanted.
    Raises:
        UnavailableError: the model has no file for this provider, or none of this precision.
    """
    provider = PROVIDERS[name]
    wanted = provider.precisions if precision == "auto" else (precision,)
    usable = [
        entry
        for entry in manifest.files
        if entry.format in provider.formats
        and entry.target in ("any", provider.target)
        and entry.precision in wanted
    ]
    if not usable:
        has = ", ".join(sorted({f"{f.format} {f.precision} for {f.target}" for f in manifest.files}))
        asked = "" if precision == "auto" else f" of precision {precision}"
        raise UnavailableError(f"the model has no file{asked} for it (it has {has})")
    # An engine before ONNX, the best precision, and a file made for this family before one for any.
    order = provider.formats.index
    return min(usable, key=lambda e: (order(e.format), wanted.index(e.precision), e.target == "any"))


def open_engine(
    model: str | Path,
    provider: str = "auto",
    *,
    precision: str = "auto",
    threads: int | None = None,
    stabiliser: Stabiliser | None = None,
    verbose: bool = False,
    say: Callable[[str], None] | None = None,
) -> Engine:
    """Load a model with the best provider that works here.

    Args:
        model: a bundled one's name, an export's folder or one of its files; see `catalog.find_model`.
        provider: "auto" or a key of PROVIDERS; "auto" runs a single ONNX file on the CPU.
        precision: "auto" or one of the manifest's. threads: of one frame, None for the provider's default.
        verbose: also say why the providers before it do not run. That is always said of an engine in the
            folder that does not run.
        say: told in one line which provider runs; None prints it on standard error.
    Raises:
        UserError: no provider works, the one asked for does not, or the model is damaged.
    """
    if provider != "auto" and provider not in PROVIDERS:
        raise UserError(f"unknown provider '{provider}'; known: auto, {', '.join(PROVIDERS)}")
    folder = find_model(model)
    manifest = Manifest.load(folder)
    file = _named_file(Path(model), manifest)
    names: Sequence[str] = preferred(manifest) if provider == "auto" else (provider,)
    if file is not None and provider == "auto":
        names = ("tensorrt" if file.format == "tensorrt" else "cpu",)
    reasons, noted = [], []
    for name in names:
        entry = None
        try:
            entry = file or choose_file(manifest, name, precision)
            verify_file(folder, entry)
            backend = PROVIDERS[name].open(folder, manifest, entry, threads)
        except UnavailableError as error:
            reasons.append(f"{name}: {error}")
            if verbose or (entry is not None and entry.format == "tensorrt"):
                noted.append(reasons[-1])
            continue
        backend(np.zeros((1, *manifest.size, 3), np.uint8))  # the first call allocates; not during a stream
        why = f" ({'; '.join(noted)})" if noted else ""
        line = f"model {manifest.name}: {entry.path} ({entry.precision}) on provider {name}{why}"
        (say or partial(print, file=sys.stderr))(line)
        return Engine(manifest, backend, stabiliser)
    if provider == "auto" and file is None:
        raise UserError(f"{folder}: no provider can run this model: {'; '.join(reasons)}")
    raise UserError(f"provider {reasons[0]}; --provider auto takes the best that works")


def _named_file(model: Path, manifest: Manifest) -> ModelFile | None:
    """The entry of the manifest that `model` names; None where it names the export as a whole.

    Raises:
        UserError: it is a file that the manifest does not list.
    """
    if not model.is_file() or model.name == FILE_NAME:
        return None
    entry = next((file for file in manifest.files if file.path == model.name), None)
    if entry is None:
        raise UserError(f"{model}: the manifest beside it does not list it; export the model again")
    return entry
