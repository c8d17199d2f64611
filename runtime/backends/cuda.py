"""The calls of the CUDA runtime that a TensorRT engine needs, through NVIDIA's cuda-python."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class CudaError(Exception):
    """A call of the CUDA runtime failed, or there is no device; the message says which call."""


@dataclass(frozen=True)
class Device:
    """The GPU in use: its name, compute capability such as "8.7", and versions of CUDA and driver."""

    name: str
    compute_capability: str
    cuda: str
    driver: str


def load_bindings() -> ModuleType:
    """Import the bindings.

    Raises:
        CudaError: cuda-python is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError:
        raise CudaError("cuda-python is not installed (pip install 'il2vseg[trt]')") from None
    return runtime  # type: ignore[no-any-return]


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


class Cuda:
    """The CUDA runtime with errors as exceptions and one stream."""

    def __init__(self, bindings: Any = None) -> None:
        """Use the current device.

        Raises:
            CudaError: there are no bindings or no usable device.
        """
        self._rt = bindings or load_bindings()
        try:
            count = self._call("cudaGetDeviceCount")
        except CudaError as error:
            raise CudaError(f"no NVIDIA GPU that CUDA can use ({error})") from None
        if not count:
            raise CudaError("no NVIDIA GPU here")
        self.stream = self._call("cudaStreamCreate")

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._rt, name)(*arguments)
        if int(status) != 0:
            raise CudaError(f"{name}: {getattr(status, 'name', status)}")
        return values[0] if values else None

    def device(self) -> Device:
        """Describe the device."""
        properties = self._call("cudaGetDeviceProperties", self._call("cudaGetDevice"))
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        return Device(
            name.strip("\0"),
            f"{properties.major}.{properties.minor}",
            _version(self._call("cudaRuntimeGetVersion")),
            _version(self._call("cudaDriverGetVersion")),
        )

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Page-locked host memory as an array, which the GPU copies without a detour; see `free_pinned`."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self._call("cudaHostAlloc", size, 0))
        buffer = (ctypes.c_uint8 * size).from_address(address)
        return np.ndarray(shape, dtype, memoryview(buffer))

    def free_pinned(self, array: NDArray[Any]) -> None:
        """Free memory of `pinned`."""
        self._call("cudaFreeHost", array.ctypes.data)

    def allocate(self, size: int) -> int:
        """Device memory of `size` bytes; its address."""
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Free memory of `allocate`."""
        self._call("cudaFree", address)

    def upload(self, device: int, host: NDArray[Any]) -> None:
        """Copy from pinned memory to the device, on the stream."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", device, host.ctypes.data, host.nbytes, kind, self.stream)

    def download(self, host: NDArray[Any], device: int) -> None:
        """Copy from the device to pinned memory, on the stream."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", host.ctypes.data, device, host.nbytes, kind, self.stream)

    def synchronise(self) -> None:
        """Wait for the stream."""
        self._call("cudaStreamSynchronize", self.stream)

    @contextmanager
    def capture(self) -> Iterator[list[Any]]:
        """Record what is put on the stream instead of running it; then the list holds the graph."""
        captured: list[Any] = []
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self.stream, mode)
        try:
            yield captured
        finally:
            graph = self._call("cudaStreamEndCapture", self.stream)
        captured.append(self._call("cudaGraphInstantiate", graph, 0))
        self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any) -> None:
        """Run a captured graph on the stream: one call instead of one a kernel."""
        self._call("cudaGraphLaunch", graph, self.stream)

    def free_graph(self, graph: Any) -> None:
        """Release a captured graph."""
        self._call("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        """Release the stream."""
        self._call("cudaStreamDestroy", self.stream)
