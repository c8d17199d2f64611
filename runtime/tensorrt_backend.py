"""A TensorRT engine as a backend: pinned buffers, one stream, the whole frame as one CUDA graph."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from il2vseg.errors import UserError
from il2vseg.runtime.cuda import Cuda, Device
from il2vseg.runtime.manifest import EngineInfo, Manifest, ModelFile


def rebuild_command(folder: Path) -> str:
    """The command that builds an engine for the device it is run on."""
    return f"il2vseg-export --trt --model {folder}"


def check_engine(path: Path, info: EngineInfo, version: str, device: Device) -> None:
    """Refuse an engine of another TensorRT or GPU before TensorRT sees it: its own message says nothing.

    Raises:
        UserError: version or compute capability differ; the message has the command that builds a new one.
    """
    if (info.tensorrt, info.compute_capability) == (version, device.compute_capability):
        return
    built, here = (
        f"TensorRT {v} on sm_{c.replace('.', '')}"
        for v, c in ((info.tensorrt, info.compute_capability), (version, device.compute_capability))
    )
    raise UserError(
        f"{path}: this engine was built for {built}; here is {here}: "
        f"run `{rebuild_command(path.parent)}` on this device, model.onnx is beside it"
    )


class TensorrtBackend:
    """An engine of TensorRT on one GPU."""

    provider = "tensorrt"

    def __init__(self, path: Path, manifest: Manifest, entry: ModelFile, trt: Any, cuda: Cuda) -> None:
        """Load an engine, already verified by its hash.

        Args:
            trt: the module `tensorrt`. cuda: of the device to run on.
        Raises:
            UserError: the engine is for another TensorRT or GPU, or does not load.
        """
        if entry.engine is None:
            raise UserError(
                f"{path}: the manifest does not say what this engine was built for; build it again"
            )
        check_engine(path, entry.engine, trt.__version__, cuda.device())
        self.entry = entry
        self._cuda = cuda
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise UserError(
                f"{path}: TensorRT cannot load it; run `{rebuild_command(path.parent)}` on this device"
            )
        self._context = self._engine.create_execution_context()
        self._input = manifest.input.name
        shapes: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
            self._input: ((1, *manifest.size, 3), np.uint8),
            "labels": ((1, *manifest.outputs.labels), np.uint8),
            "scores": ((1, *manifest.outputs.scores), np.float32),
        }
        self._host: dict[str, NDArray[Any]] = {}
        self._device: dict[str, int] = {}
        for name, (shape, dtype) in shapes.items():
            self._host[name] = cuda.pinned(shape, dtype)
            self._device[name] = cuda.allocate(self._host[name].nbytes)
            self._context.set_tensor_address(name, self._device[name])
        if manifest.input.batch > 1 and not self._context.set_input_shape(
            self._input, shapes[self._input][0]
        ):
            raise UserError(f"{path}: not an engine of this model; build it again")
        self._enqueue()  # TensorRT allocates on the first call, which a capture forbids
        cuda.synchronise()
        with cuda.capture() as captured:
            self._enqueue()
        self._graph: Any = captured[0]

    def _enqueue(self) -> None:
        self._cuda.upload(self._device[self._input], self._host[self._input])
        if not self._context.execute_async_v3(self._cuda.stream):
            raise RuntimeError("TensorRT could not run the engine")
        for name in ("labels", "scores"):
            self._cuda.download(self._host[name], self._device[name])

    def __call__(self, frames: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Run the graph: uint8 BGR (1, H, W, 3) -> cluster ids (1, H, W), scores (1, C, h, w)."""
        np.copyto(self._host[self._input], frames)
        self._cuda.launch(self._graph)
        self._cuda.synchronise()
        return self._host["labels"].copy(), self._host["scores"].copy()

    def close(self) -> None:
        """Give back the memory of the GPU and what is pinned of the host's."""
        self._cuda.free_graph(self._graph)
        for name, array in self._host.items():
            self._cuda.free(self._device[name])
            self._cuda.free_pinned(array)
        self._host.clear()
        self._context = self._engine = self._runtime = None
        self._cuda.close()
