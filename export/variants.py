"""The files that one export consists of: fp32 always, and what `--precision` adds to it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from il2vseg.base.files import write_bytes
from il2vseg.runtime.manifest import Precision, Target

if TYPE_CHECKING:
    import onnx

    from il2vseg.base.images import Frame
    from il2vseg.calib.quantise import Quantised

MODEL_NAME = "model.onnx"


@dataclass(frozen=True)
class Variant:
    """A file of an export.

    Attributes:
        path: its name in the folder. target: which family of providers it is for.
        quantization: how INT8 was calibrated, None for other precisions.
    """

    path: str
    precision: Precision
    target: Target = "any"
    quantization: dict[str, Any] | None = None


FP32 = Variant(MODEL_NAME, "fp32")


def write_half(folder: Path) -> list[Variant]:
    """Write FOLDER/model.fp16.onnx beside model.onnx; see `half.to_half` for what stays in float.

    Raises:
        UserError: the model has neither a transformer nor a convolutional network.
    """
    import onnx

    from il2vseg.export.half import to_half

    variant = Variant("model.fp16.onnx", "fp16")
    _write(to_half(onnx.load(folder / MODEL_NAME)), folder / variant.path)
    return [variant]


def write_int8(
    folder: Path, frames: "list[tuple[str, Frame]]", progress: Callable[[str], None]
) -> list[Variant]:
    """Write FOLDER/model.int8.onnx for TensorRT and model.int8-cpu.onnx for CPUs beside model.onnx.

    One graph cannot serve both: TensorRT takes signed symmetric activations only, on which ONNX Runtime's
    CPU kernels are slower and less exact than on unsigned ones.

    Args:
        frames: representative (name, BGR uint8 (H, W, 3)) of the model's size.
    Raises:
        UserError: the model has no linear layer worth quantising.
    """
    import onnx

    model = onnx.load(folder / MODEL_NAME)
    families: list[tuple[str, Target]] = [("model.int8.onnx", "tensorrt"), ("model.int8-cpu.onnx", "cpu")]
    variants = []
    for path, target in families:
        progress(f"int8 for {target}")
        quantised = to_int8(model, frames, target, progress)
        _write(quantised.model, folder / path)
        variants.append(Variant(path, "int8", target, quantised.describe()))
    return variants


def to_int8(
    model: "onnx.ModelProto",
    frames: "list[tuple[str, Frame]]",
    target: Target,
    progress: Callable[[str], None] = lambda line: None,
) -> "Quantised":
    """Quantise a float graph for a family of runtimes, "tensorrt" or "cpu"; arguments as `write_int8`."""
    from il2vseg.calib.convolutions import quantise_convolutions
    from il2vseg.calib.layers import layer_norms
    from il2vseg.calib.qdq import CPU, TENSORRT
    from il2vseg.calib.quantise import quantise
    from il2vseg.export.half import attention_to_half

    convention = TENSORRT if target == "tensorrt" else CPU
    quantiser = quantise if layer_norms(model) else quantise_convolutions
    quantised = quantiser(model, frames, convention, progress=progress)
    if target == "tensorrt":
        return replace(quantised, model=attention_to_half(quantised.model))
    return quantised


def _write(model: "onnx.ModelProto", path: Path) -> None:
    import onnx

    onnx.checker.check_model(model, full_check=True)
    write_bytes(path, model.SerializeToString())
