"""OpenVINO as a backend: it reads the ONNX files as they are, and is the fastest for transformers on CPUs."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.runtime.engine import Outputs
from il2vseg.runtime.manifest import Manifest


class OpenvinoBackend:
    """A model compiled by OpenVINO for the CPU."""

    provider = "openvino"
    batch = 1

    def __init__(self, path: Path, manifest: Manifest, threads: int | None = None) -> None:
        """Compile the graph.

        Args:
            path: ONNX file, already verified.
            threads: of one call; None for one per core.
        Raises:
            UserError: OpenVINO cannot load the file.
        """
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            # The default is bfloat16 where the CPU has it, which no parity report has looked at.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            core = _core()
            model = core.read_model(str(path))
            if manifest.input.batch > 1:
                model.reshape([1, *manifest.size, 3])
            self._model: Any = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: OpenVINO cannot load it ({reason}); export the model again") from None
        self._input = manifest.input.name
        self._outputs = tuple(manifest.outputs.arrays())

    def __call__(self, frames: NDArray[np.uint8]) -> Outputs:
        """Run the graph on uint8 BGR (1, H, W, 3)."""
        outputs = self._model({self._input: frames})
        return tuple(np.array(outputs[name]) for name in self._outputs)

    def close(self) -> None:
        """Release the model's memory."""
        self._model = None


@cache
def _core() -> Any:
    """OpenVINO's core, one in a process: with one per engine, six of nine processes that opened 25 engines in
    turn crashed in `read_model`; with this, none of seven.
    """
    import openvino

    return openvino.Core()
