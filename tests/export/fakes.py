"""Stand-ins for TensorRT and CUDA that refuse what the real ones refuse: order, and names that are gone."""

import ctypes
from enum import IntEnum
from types import SimpleNamespace
from typing import Any


class Memory(bytes):
    """IHostMemory."""


class FakeCuda:
    """cuda.bindings.runtime: functions return (status, values...); capture forbids what it forbids."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, devices: int = 1, capability: tuple[int, int] = (8, 7)) -> None:
        self.devices, self.capability = devices, capability
        self.memory: dict[int, Any] = {}
        self.recording: list[Any] | None = None
        self.graphs = 0
        self.launches = 0
        self.streams = 0

    def submit(self, work: Any) -> None:
        """Put work on the stream: done at once, or recorded while capturing."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return (0, self.devices) if self.devices else (100, 0)

    def cudaGetDevice(self) -> tuple[int, int]:
        return 0, 0

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:
        major, minor = self.capability
        return 0, SimpleNamespace(name=b"Fake GPU", major=major, minor=minor)

    def cudaRuntimeGetVersion(self) -> tuple[int, int]:
        return 0, 13020

    def cudaDriverGetVersion(self) -> tuple[int, int]:
        return 0, 13010

    def cudaStreamCreate(self) -> tuple[int, str]:
        self.streams += 1
        return 0, "stream"

    def cudaStreamDestroy(self, stream: str) -> tuple[int]:
        self.streams -= 1
        return (0,)

    def _allocate(self, size: int) -> tuple[int, int]:
        assert self.recording is None, "allocation while capturing"
        buffer = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(buffer)] = buffer
        return 0, ctypes.addressof(buffer)

    def _free(self, address: int) -> tuple[int]:
        del self.memory[address]
        return (0,)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        return self._allocate(size)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        return self._allocate(size)

    cudaFree = cudaFreeHost = _free

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: str) -> tuple[int]:
        self.submit(lambda: ctypes.memmove(to, source, size))
        return (0,)

    def cudaStreamSynchronize(self, stream: str) -> tuple[int]:
        assert self.recording is None, "synchronisation while capturing"
        return (0,)

    def cudaStreamBeginCapture(self, stream: str, mode: int) -> tuple[int]:
        self.recording = []
        return (0,)

    def cudaStreamEndCapture(self, stream: str) -> tuple[int, list[Any]]:
        recorded, self.recording = self.recording, None
        assert recorded
        return 0, recorded

    def cudaGraphInstantiate(self, graph: list[Any], flags: int) -> tuple[int, list[Any]]:
        self.graphs += 1
        return 0, list(graph)

    def cudaGraphDestroy(self, graph: list[Any]) -> tuple[int]:
        return (0,)

    def cudaGraphExecDestroy(self, graph: list[Any]) -> tuple[int]:
        self.graphs -= 1
        return (0,)

    def cudaGraphLaunch(self, graph: list[Any], stream: str) -> tuple[int]:
        self.launches += 1
        for work in graph:
            work()
        return (0,)


def _layer(trt: Any, types: Any) -> Any:
    class Layer:
        def __init__(self, kind: str, reads: list[str], makes: str, dtype: str = "float") -> None:
            self.type = types[kind]
            self._inputs = [SimpleNamespace(name=name) for name in reads]
            self._output = SimpleNamespace(name=makes, dtype=dtype)
            self.pinned: str | None = None

        @property
        def num_inputs(self) -> int:
            return len(self._inputs)

        def get_input(self, index: int) -> Any:
            return self._inputs[index]

        def get_output(self, index: int) -> Any:
            return self._output

        @property
        def precision(self) -> str | None:
            return self.pinned

        @precision.setter
        def precision(self, value: str) -> None:
            assert trt.major < 11, "layer.precision was removed in TensorRT 11"
            self.pinned = value

    return Layer


def _network(trt: Any, Layer: Any) -> tuple[Any, Any]:
    import onnx

    class Network:
        def __init__(self) -> None:
            self.layers: list[Any] = []
            self.input: Any = None

        @property
        def num_layers(self) -> int:
            return len(self.layers)

        def get_layer(self, index: int) -> Any:
            return self.layers[index]

        def get_input(self, index: int) -> Any:
            return self.input

    class Parser:
        num_errors = 1

        def __init__(self, network: Any, logger: object) -> None:
            self._network = network

        def parse(self, data: bytes) -> bool:
            trt.log.append("parse")
            given = onnx.load_from_string(data).graph.input[0]
            shape = tuple(d.dim_value or -1 for d in given.type.tensor_type.shape.dim)
            self._network.input = SimpleNamespace(name=given.name, shape=shape)
            self._network.layers += [
                Layer("MATRIX_MULTIPLY", ["frame"], "products", "half"),
                Layer("SOFTMAX", ["products"], "shares"),
                Layer("QUANTIZE", ["shares"], "integers", "int8"),
                Layer("DEQUANTIZE", ["integers"], "rounded"),
                Layer("MATRIX_MULTIPLY", ["rounded", "weights"], "scores"),
            ]
            return trt.broken != "parse"

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(desc=lambda: "no importer for NoSuchOperator")

    return Network, Parser


def _config(major: int) -> Any:
    class Config:
        def __init__(self) -> None:
            self.flags = {"TF32"}
            self.profiles: list[Any] = []
            self.cache: Any = None
            self.monitor: Any = None
            self.workspace = 0

        def set_memory_pool_limit(self, pool: str, size: int) -> None:
            self.workspace = size

        def set_flag(self, flag: str) -> None:
            self.flags.add(flag)

        def clear_flag(self, flag: str) -> None:
            self.flags.discard(flag)

        def add_optimization_profile(self, profile: Any) -> int:
            self.profiles.append(profile)
            return len(self.profiles) - 1

        def create_timing_cache(self, data: bytes) -> Any:
            return SimpleNamespace(data=data, serialize=lambda: Memory(data + b"timed"))

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            self.cache = cache
            return True

        def get_timing_cache(self) -> Any:
            return self.cache

        if major >= 10:

            @property
            def progress_monitor(self) -> Any:
                return self.monitor

            @progress_monitor.setter
            def progress_monitor(self, value: Any) -> None:
                self.monitor = value

    return Config


def _builder(trt: Any) -> Any:
    class Builder:
        def __init__(self, logger: object) -> None:
            self.last: Any = None
            trt.builder = self

        def create_network(self, bits: int) -> Any:
            assert bits & ~sum(1 << b for b in trt.network_flags.values()) == 0, "unknown network flag"
            if trt.major == 8:
                assert bits & 1, "TensorRT 8 parses ONNX with an explicit batch only"
            return trt.Network()

        def create_builder_config(self) -> Any:
            return trt.Config()

        def create_optimization_profile(self) -> Any:
            shapes: dict[str, Any] = {}
            return SimpleNamespace(
                shapes=shapes, set_shape=lambda name, *bounds: shapes.__setitem__(name, bounds)
            )

        def build_serialized_network(self, network: Any, config: Any) -> Memory | None:
            assert network.num_layers, "nothing was parsed"
            assert config.workspace > 0
            if -1 in network.input.shape:
                assert config.profiles, "a free axis needs an optimisation profile"
                assert network.input.name in config.profiles[0].shapes
            self.last = (network, config)
            trt.log.append("build")
            if config.monitor is not None:
                config.monitor.phase_start("Tactics", None, 2)
                assert config.monitor.step_complete("Tactics", 0)
                config.monitor.phase_finish("Tactics")
            return None if trt.broken == "build" else Memory(b"engine")

    return Builder


def _runtime(trt: Any) -> Any:
    import numpy as np

    class Context:
        def __init__(self) -> None:
            self.addresses: dict[str, int] = {}
            self.shape = (1,) if trt.builder is None else trt.builder.last[0].input.shape
            self.warm = False

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            self.shape = shape
            return True

        def set_tensor_address(self, name: str, address: int) -> bool:
            assert address in trt.cuda.memory
            self.addresses[name] = address
            return True

        def execute_async_v3(self, stream: Any) -> bool:
            assert set(self.addresses) == {"frame", "labels", "scores"}, "an address is missing"
            assert -1 not in self.shape, "the shape of an input with a free axis is not set"
            assert self.warm or trt.cuda.recording is None, "first execution allocates: not while capturing"
            self.warm = True

            def work() -> None:
                given = np.frombuffer(trt.cuda.memory[self.addresses["frame"]], np.uint8)
                for name, value in zip(("labels", "scores"), trt.answer(given), strict=True):
                    data = np.ascontiguousarray(value).tobytes()
                    ctypes.memmove(self.addresses[name], data, len(data))

            trt.cuda.submit(work)
            return True

    class Runtime:
        def __init__(self, logger: object) -> None:
            pass

        def deserialize_cuda_engine(self, data: bytes) -> Any:
            return SimpleNamespace(create_execution_context=Context) if data == b"engine" else None

    return Runtime


def fake_tensorrt(version: str, cuda: FakeCuda, answer: Any = None, *, broken: str = "") -> Any:
    """A module like `tensorrt` of a version.

    Args:
        answer: what an engine computes: frame array -> (labels, scores).
        broken: "parse" or "build" makes that step fail.
    """
    major = int(version.split(".")[0])
    network_flags = {8: {"EXPLICIT_BATCH": 0}, 10: {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}}.get(
        major, {"STRONGLY_TYPED": 1}
    )
    types = IntEnum(
        "LayerType", ["CONSTANT", "SHAPE", "QUANTIZE", "DEQUANTIZE", "SOFTMAX", "MATRIX_MULTIPLY"]
    )
    flags = ("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS", "TF32") if major < 11 else ("TF32",)
    trt = SimpleNamespace(
        __version__=version,
        Logger=type("Logger", (), {"ERROR": 1, "WARNING": 2, "__init__": lambda self, level: None}),
        NetworkDefinitionCreationFlag=SimpleNamespace(**network_flags),
        BuilderFlag=SimpleNamespace(**{name: name for name in flags}),
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        LayerType=types,
        float32="float",
        builder=None,
        log=[],
        major=major,
        network_flags=network_flags,
        cuda=cuda,
        answer=answer,
        broken=broken,
    )
    trt.Network, trt.OnnxParser = _network(trt, _layer(trt, types))
    trt.Config, trt.Builder, trt.Runtime = _config(major), _builder(trt), _runtime(trt)
    if major >= 10:
        trt.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})
    return trt
