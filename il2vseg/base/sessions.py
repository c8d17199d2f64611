"""Sessions of ONNX Runtime: opened in one way everywhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

CPU = "CPUExecutionProvider"


SPIN_US = 100
"""Microseconds that a thread waits awake for the next operator."""


def spinning(version: str) -> dict[str, str]:
    """Settings of the threads that wait for work, by the version of ONNX Runtime.

    A network of small operators asks for its threads a hundred times a frame, and waking one costs more than
    waiting for the next operator. Longer waiting, as is the default, burns the cores that others need
    (decoding, sinks, a model that is compared); before 1.27 there is only that, or none.
    """
    if tuple(int(part) for part in version.split(".")[:2]) < (1, 27):
        return {"allow_spinning": "0"}
    return {"spin_duration_us": str(SPIN_US)}


def open_session(model: Path | bytes, threads: int | None = None, providers: Sequence[Any] = (CPU,)) -> Any:
    """Load a graph in ONNX Runtime.

    Args:
        model: an ONNX file, or its content. threads: of one call; None for one per core.
        providers: ONNX Runtime's names, each alone or with its options, in the order of preference.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for name, value in spinning(onnxruntime.__version__).items():
        options.add_session_config_entry(f"session.intra_op.{name}", value)
    options.intra_op_num_threads = threads or 0
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=list(providers))
