"""OpenVINO as a backend: it reads the ONNX files as they are, and is the fastest at INT8 on CPUs."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
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
        import openvino

        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            # The default is bfloat16 where the CPU has it, which no parity report has looked at.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            model = core.read_model(str(path))
            if manifest.input.batch > 1:
                model.reshape([1, *manifest.size, 3])
            self._model: Any = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: OpenVINO cannot load it ({reason}); export the model again") from None
        self._input = manifest.input.name

    def __call__(self, frames: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Run the graph: uint8 BGR (1, H, W, 3) -> cluster ids (1, H, W), scores (1, C, h, w)."""
        outputs = self._model({self._input: frames})
        return np.array(outputs["labels"]), np.array(outputs["scores"])

    def close(self) -> None:
        """Release the model's memory."""
        self._model = None
