"""TensorRT engines: built on the device that runs them, from model.onnx, without PyTorch."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from il2vseg.base.errors import CheckFailed, UserError
from il2vseg.base.files import write_bytes
from il2vseg.base.images import Frame
from il2vseg.export.parity import LIMITS, ParityReport, compare
from il2vseg.export.runners import onnx_runner
from il2vseg.export.tensorrt_versions import Progress, allow_precision, create_network, show_progress
from il2vseg.runtime.backends.cuda import Cuda, CudaError
from il2vseg.runtime.backends.tensorrt import TensorrtBackend, rebuild_command
from il2vseg.runtime.manifest import EngineInfo, Manifest, ModelFile, Precision, describe_file, verify_file

ENGINE_NAME = "model.engine"


class BuildError(Exception):
    """TensorRT could not parse or build a graph; the message is the parser's or builder's."""


def build_engine(
    model: Path,
    precision: Precision,
    trt: Any,
    *,
    batch: int = 1,
    workspace_mb: int = 2048,
    timing_cache: Path | None = None,
    progress: Progress = lambda line: None,
    configure: Callable[[Any], None] = lambda config: None,
) -> bytes:
    """Build an engine from an ONNX file.

    Args:
        precision: that of the file. trt: the module `tensorrt`, or `tensorrt_rtx`.
        batch: most frames per call, where the file's batch axis is free; the engine is tuned for so many.
        workspace_mb: scratch memory that the builder's tactics may use.
        timing_cache: read if it is there, and written: a second build of the same layers takes seconds.
        configure: sets what else the builder's configuration should have.
    Returns:
        the serialised engine.
    Raises:
        BuildError: the graph has something that this TensorRT cannot do.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network, typed = create_network(trt, builder)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.read_bytes()):
        reasons = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise BuildError(f"TensorRT {trt.__version__} cannot parse {model.name}: {reasons[:400]}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    # On by default, it rounds the inputs of float matrix products to 10 bits: parity and FCM need all 23.
    config.clear_flag(trt.BuilderFlag.TF32)
    if batch > 1:
        profile = builder.create_optimization_profile()
        frame = network.get_input(0)
        profile.set_shape(frame.name, *((n, *tuple(frame.shape)[1:]) for n in (1, batch, batch)))
        config.add_optimization_profile(profile)
    if not typed:
        allow_precision(trt, config, network, precision)
    show_progress(trt, config, progress)
    configure(config)
    if timing_cache is not None:
        known = timing_cache.read_bytes() if timing_cache.is_file() else b""
        cache = config.create_timing_cache(known)
        config.set_timing_cache(cache, ignore_mismatch=False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BuildError(f"TensorRT {trt.__version__} could not build an engine from {model.name}")
    if timing_cache is not None:
        write_bytes(timing_cache, bytes(config.get_timing_cache().serialize()))
    return bytes(engine)


def source_file(manifest: Manifest, precision: Precision) -> ModelFile:
    """The ONNX file of a model that an engine of this precision is built from.

    Raises:
        UserError: the model was not exported in this precision.
    """
    for entry in manifest.files:
        if (entry.format, entry.precision) == ("onnx", precision) and entry.target in ("any", "tensorrt"):
            return entry
    raise UserError(
        f"the model has no {precision} file for TensorRT; "
        f"export it first with `il2vseg-export --checkpoint DIR --precision {precision}`"
    )


def _require_device(folder: Path, precision: Precision) -> tuple[Any, Cuda]:
    command = f"{rebuild_command(folder)} --precision {precision}"
    instead = f"model.onnx is kept in {folder}; copy the folder to the device and run there: `{command}`"
    try:
        import tensorrt

        # A stub of the package without its libraries imports, too.
        tensorrt.Builder  # noqa: B018
    except (ImportError, AttributeError, OSError):
        raise UserError(f"TensorRT is not installed (pip install 'il2vseg[trt]'): {instead}") from None
    try:
        return tensorrt, Cuda()
    except CudaError as error:
        raise UserError(f"{error}: {instead}") from None


def build_into(
    folder: Path,
    precision: Precision,
    *,
    workspace_mb: int,
    timing_cache: Path | None,
    frames: Callable[[tuple[int, int]], Iterator[tuple[str, Frame]]],
    progress: Progress,
) -> ParityReport:
    """Build an engine from an exported model, prove it against model.onnx and add it to the manifest.

    Args:
        frames: gives (name, frame) of the model's size to compare on.
    Raises:
        UserError: no TensorRT or no GPU here, or the model cannot become an engine.
        CheckFailed: parity is outside the limits; the engine is removed.
    """
    manifest = Manifest.load(folder)
    source = source_file(manifest, precision)
    verify_file(folder, source)
    trt, cuda = _require_device(folder, precision)
    progress(f"TensorRT {trt.__version__} builds {ENGINE_NAME} from {source.path}")
    try:
        engine = build_engine(
            folder / source.path,
            precision,
            trt,
            batch=manifest.input.batch,
            workspace_mb=workspace_mb,
            timing_cache=timing_cache,
            progress=progress,
        )
    except BuildError as error:
        raise UserError(str(error)) from None
    device = cuda.device()
    info = EngineInfo(trt.__version__, device.name, device.compute_capability, device.cuda, device.driver)
    candidate = folder / f".{ENGINE_NAME}"  # il2vseg-run never sees it before it is proven
    try:
        write_bytes(candidate, engine)
        entry = describe_file(
            folder, candidate.name, format="tensorrt", precision=precision, target="tensorrt", engine=info
        )
        backend = TensorrtBackend(candidate, manifest, entry, trt, cuda)
        progress("comparing the engine with model.onnx")
        reference = onnx_runner(folder / source_file(manifest, "fp32").path)
        report = compare(reference, backend, frames(manifest.size), LIMITS[precision])
        backend.close()
        if not report.passed:
            raise CheckFailed(f"parity of the engine failed: {'; '.join(report.failures)}")
        candidate.replace(folder / ENGINE_NAME)
    finally:
        candidate.unlink(missing_ok=True)
    others = tuple(file for file in manifest.files if file.path != ENGINE_NAME)
    proven = replace(entry, path=ENGINE_NAME, parity=report.to_dict())
    replace(manifest, files=(*others, proven)).save(folder)
    return report
