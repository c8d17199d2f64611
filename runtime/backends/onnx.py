"""ONNX Runtime as a backend, with any of its execution providers."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.base.sessions import CPU, open_session
from il2vseg.runtime.engine import Outputs
from il2vseg.runtime.manifest import Manifest


class OnnxBackend:
    """A session of ONNX Runtime on one file of a model."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        provider: str,
        execution_provider: str,
        threads: int | None = None,
    ) -> None:
        """Load the graph.

        Args:
            path: ONNX file, already verified.
            provider: name as on the command line. execution_provider: ONNX Runtime's name for it.
            threads: of one call; None for one per core.
        Raises:
            UserError: ONNX Runtime cannot load the file, or the graph is not what the manifest says.
        """
        self.provider = provider
        providers: list[Any] = list(dict.fromkeys((execution_provider, CPU)))
        if execution_provider == "CUDAExecutionProvider":
            # On by default, TF32 rounds the inputs of float products to 10 bits; no parity report saw that.
            providers[0] = (execution_provider, {"use_tf32": "0"})
        try:
            self._session: Any = open_session(path, threads, providers)
        except Exception as error:  # the runtime's exceptions share no base class of their own
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path}: ONNX Runtime cannot load it ({reason}); export the model again"
            ) from None
        self._input = manifest.input.name
        self._outputs = list(manifest.outputs.arrays())
        self.batch = manifest.input.batch
        _check_graph(self._session, manifest, path)

    @property
    def active_provider(self) -> str:
        """The execution provider that ONNX Runtime really uses first."""
        return str(self._session.get_providers()[0])

    def __call__(self, frames: NDArray[np.uint8]) -> Outputs:
        """Run the graph on uint8 BGR (B, H, W, 3)."""
        return tuple(self._session.run(self._outputs, {self._input: frames}))

    def close(self) -> None:
        """Release the session's memory."""
        self._session = None


def _check_graph(session: Any, manifest: Manifest, path: Path) -> None:
    """Raise UserError unless the graph's inputs and outputs are those of the manifest."""
    frames: int | str = 1 if manifest.input.batch == 1 else "batch"
    expected = {manifest.input.name: ("tensor(uint8)", [frames, *manifest.size, 3])}
    for output, (sizes, dtype) in manifest.outputs.arrays().items():
        expected[output] = ("tensor(uint8)" if dtype is np.uint8 else "tensor(float)", [frames, *sizes])
    found = {v.name: (v.type, list(v.shape)) for v in (*session.get_inputs(), *session.get_outputs())}
    for name, (kind, shape) in expected.items():
        if found.get(name) != (kind, shape):
            has = "nothing of that name" if name not in found else "{} {}".format(*found[name])
            raise UserError(
                f"{path}: the manifest promises {name} as {kind} {shape}, the graph has {has}; "
                "export the model again"
            )
