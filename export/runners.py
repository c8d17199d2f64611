"""Runners for `parity.compare`: exported files; the trained model is `il2vseg.models.eager.EagerBackend`."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.base.sessions import open_session
from il2vseg.export.parity import Output, Runner


def onnx_runner(model: Path, threads: int | None = None) -> Runner:
    """Run an ONNX file in ONNX Runtime on the CPU; `threads` is one per core when None."""
    session = open_session(model, threads)
    name = session.get_inputs()[0].name

    def run(frame: NDArray[np.uint8]) -> Output:
        return tuple(session.run(None, {name: frame}))

    return run


def openvino_runner(model: Path, threads: int) -> Runner:
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

    def run(frame: NDArray[np.uint8]) -> Output:
        outputs = compiled({"frame": frame})
        return tuple(np.array(outputs[i]) for i in range(len(compiled.outputs)))

    return run
