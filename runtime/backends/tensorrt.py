"""A TensorRT engine as a backend: pinned buffers, one stream, the whole frame as one CUDA graph."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.runtime.backends.cuda import Cuda, Device
from il2vseg.runtime.engine import Outputs
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
        self._path = path
        self._cuda = cuda
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise UserError(
                f"{path}: TensorRT cannot load it; run `{rebuild_command(path.parent)}` on this device"
            )
        self._input, self._size = manifest.input.name, manifest.size
        self._outputs = tuple(manifest.outputs.arrays())
        self.batch = manifest.input.batch
        buffers: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
            self._input: ((*manifest.size, 3), np.uint8),
            **manifest.outputs.arrays(),
        }
        self._host: dict[str, NDArray[Any]] = {}
        self._device: dict[str, int] = {}
        for name, (shape, dtype) in buffers.items():
            self._host[name] = cuda.pinned((self.batch, *shape), dtype)
            self._device[name] = cuda.allocate(self._host[name].nbytes)
        self._graphs: dict[int, tuple[Any, Any]] = {1: self._capture(1)}

    def _capture(self, count: int) -> tuple[Any, Any]:
        """Return a context for so many frames, and one call of it as a CUDA graph.

        A graph holds on to the shapes of its context, so every number of frames has its own.
        """
        context = self._engine.create_execution_context()
        for name, address in self._device.items():
            context.set_tensor_address(name, address)
        if self.batch > 1 and not context.set_input_shape(self._input, (count, *self._size, 3)):
            raise UserError(f"{self._path}: not an engine of this model; build it again")
        self._enqueue(context, count)  # TensorRT allocates on the first call, which a capture forbids
        self._cuda.synchronise()
        with self._cuda.capture() as captured:
            self._enqueue(context, count)
        return context, captured[0]

    def _enqueue(self, context: Any, count: int) -> None:
        self._cuda.upload(self._device[self._input], self._host[self._input][:count])
        if not context.execute_async_v3(self._cuda.stream):
            raise RuntimeError("TensorRT could not run the engine")
        for name in self._outputs:
            self._cuda.download(self._host[name][:count], self._device[name])

    def __call__(self, frames: NDArray[np.uint8]) -> Outputs:
        """Run the graph on uint8 BGR (B, H, W, 3)."""
        count = len(frames)
        if count not in self._graphs:
            self._graphs[count] = self._capture(count)
        np.copyto(self._host[self._input][:count], frames)
        self._cuda.launch(self._graphs[count][1])
        self._cuda.synchronise()
        return tuple(self._host[name][:count].copy() for name in self._outputs)

    def close(self) -> None:
        """Release the memory of the GPU and the pinned memory of the host."""
        for _, graph in self._graphs.values():
            self._cuda.free_graph(graph)
        for name, array in self._host.items():
            self._cuda.free(self._device[name])
            self._cuda.free_pinned(array)
        self._host.clear()
        self._graphs.clear()
        self._engine = self._runtime = None
        self._cuda.close()
