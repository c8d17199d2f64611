"""Sessions of ONNX Runtime: opened in one way everywhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

CPU = "CPUExecutionProvider"


def open_session(model: Path | bytes, threads: int | None = None, providers: Sequence[Any] = (CPU,)) -> Any:
    """Load a graph in ONNX Runtime.

    Args:
        model: an ONNX file, or its content. threads: of one call; None for one per core.
        providers: ONNX Runtime's names, each alone or with its options, in the order of preference.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Spinning threads burn the cores that others need (decoding, sinks, a model that is compared), and gain
    # nothing measurable.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads or 0
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=list(providers))
