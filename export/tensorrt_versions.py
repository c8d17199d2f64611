"""What differs between TensorRT 8.6, 10 and 11 (and TensorRT-RTX) when an engine is built.

Precision is in the ONNX file (half-typed tensors, explicit Q/DQ). TensorRT 11 always takes types from the
file, 10 does so when the network is strongly typed, and 8.6 treats them as a hint: there the flags allow
the lower precision, and every layer that is float in the file and reads no INT8 is pinned to float.
"""

from collections.abc import Callable
from typing import Any

from il2vseg.runtime.manifest import Precision

Progress = Callable[[str], None]


def create_network(trt: Any, builder: Any) -> tuple[Any, bool]:
    """Create an empty network; also says whether it is strongly typed."""
    flags = trt.NetworkDefinitionCreationFlag
    bits = 0
    typed = not hasattr(flags, "EXPLICIT_BATCH") or hasattr(flags, "STRONGLY_TYPED")
    if hasattr(flags, "STRONGLY_TYPED"):
        bits |= 1 << int(flags.STRONGLY_TYPED)
    elif hasattr(flags, "EXPLICIT_BATCH"):
        bits |= 1 << int(flags.EXPLICIT_BATCH)
    return builder.create_network(bits), typed


def allow_precision(trt: Any, config: Any, network: Any, precision: Precision) -> None:
    """Let TensorRT 8.6, which is weakly typed, use the precision where the file does, and only there."""
    flags = trt.BuilderFlag
    if precision == "fp32":
        return
    config.set_flag(flags.FP16)
    if precision == "int8":
        config.set_flag(flags.INT8)
    config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
    kinds = trt.LayerType
    fixed = {kinds.CONSTANT, kinds.SHAPE, kinds.QUANTIZE, kinds.DEQUANTIZE}
    dequantised = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        inputs = (layer.get_input(i) for i in range(layer.num_inputs))
        # Pinned to float, what reads a pair would not multiply integers.
        reads_pair = any(tensor is not None and tensor.name in dequantised for tensor in inputs)
        output = layer.get_output(0)
        if layer.type == kinds.DEQUANTIZE:
            dequantised.add(output.name)
        elif layer.type not in fixed and output.dtype == trt.float32 and not reads_pair:
            layer.precision = trt.float32


def show_progress(trt: Any, config: Any, progress: Progress) -> None:
    """Report the builder's phases where this TensorRT has a progress monitor (10 and later)."""
    if not hasattr(trt, "IProgressMonitor"):
        return

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Passes the builder's phases on."""

        def __init__(self) -> None:
            super().__init__()
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(f"TensorRT: {phase_name} {step + 1}/{self._steps.get(phase_name, 0)}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    config.progress_monitor = Monitor()
