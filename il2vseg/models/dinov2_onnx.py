"""The DINOv2 ViT-S/14 inside an ONNX file, in timm's names.

The file has Hugging Face's names, and its exporter folded transposes and constants: every block's six
matrices are anonymous, in the order key, value, query, output, fc1, fc2, each transposed with respect to
torch's Linear; the class token with its position and the positions of the 37x37 patches are two more
constants.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

DIM, HIDDEN, BLOCKS = 384, 1536, 12


def convert_dinov2_onnx(model: bytes) -> "dict[str, Tensor]":
    """Convert an ONNX file to timm's names.

    Raises:
        UserError: the file does not hold the expected tensors.
    """
    import onnx
    import torch
    from onnx import numpy_helper

    graph = onnx.load_from_string(model).graph
    tensors = _Tensors({t.name: numpy_helper.to_array(t) for t in graph.initializer})
    matrices = tensors.matrices()
    state = _outside_blocks(tensors)
    for i in range(BLOCKS):
        block = _block(tensors, f"backbone.encoder.layer.{i}.", matrices[6 * i : 6 * i + 6])
        state |= {f"blocks.{i}.{name}": array for name, array in block.items()}
    return {k: torch.from_numpy(np.array(v, dtype=np.float32, order="C")) for k, v in state.items()}


class _Tensors:
    """The constants of the file by name."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self._arrays = arrays

    def find(self, *shape: int, prefix: str = "", suffix: str = "") -> NDArray[Any]:
        """The one tensor of a shape whose name begins and ends so; UserError unless there is just one."""
        found = [
            v
            for k, v in self._arrays.items()
            if k.startswith(prefix) and k.endswith(suffix) and v.shape == shape
        ]
        if len(found) != 1:
            raise UserError(
                f"expected one tensor {prefix}*{suffix} of shape {shape} in the ONNX file, found {len(found)}"
            )
        return found[0]

    def matrices(self) -> list[NDArray[Any]]:
        """The blocks' matrices in order, (out, in); UserError if some are missing."""
        shapes = {(DIM, DIM), (DIM, HIDDEN), (HIDDEN, DIM)}
        names = [k for k, v in self._arrays.items() if k.startswith("onnx::MatMul_") and v.shape in shapes]
        # The decoder's matrices, if any have such a shape, come after the encoder's.
        names = sorted(names, key=lambda k: int(k.rpartition("_")[2]))[: 6 * BLOCKS]
        if len(names) < 6 * BLOCKS:
            raise UserError(
                f"expected {6 * BLOCKS} matrices of linear layers in the ONNX file, found {len(names)}"
            )
        return [self._arrays[k].T for k in names]


def _outside_blocks(tensors: _Tensors) -> dict[str, NDArray[Any]]:
    """What stands before and behind the blocks."""
    embeddings = "backbone.embeddings."
    class_position = tensors.find(1, 1, DIM, prefix="onnx::Concat_")
    patch_positions = tensors.find(1, 1369, DIM, prefix="onnx::Reshape_")
    return {
        "cls_token": tensors.find(1, 1, DIM, prefix=embeddings, suffix="cls_token"),
        "pos_embed": np.concatenate([class_position, patch_positions], 1),
        "patch_embed.proj.weight": tensors.find(
            DIM, 3, 14, 14, prefix=embeddings, suffix="projection.weight"
        ),
        "patch_embed.proj.bias": tensors.find(DIM, prefix=embeddings, suffix="projection.bias"),
        "norm.weight": tensors.find(DIM, suffix="backbone.layernorm.weight"),
        "norm.bias": tensors.find(DIM, suffix="backbone.layernorm.bias"),
    }


def _block(tensors: _Tensors, layer: str, matrices: list[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """One block, in timm's names, from its tensors' prefix and its six matrices."""
    key, value, query, output, fc1, fc2 = matrices

    def find(suffix: str, size: int = DIM) -> NDArray[Any]:
        return tensors.find(size, prefix=layer, suffix=suffix)

    biases = [find(f"attention.{n}.bias") for n in ("query", "key", "value")]
    state = {
        "attn.qkv.weight": np.concatenate([query, key, value]),
        "attn.qkv.bias": np.concatenate(biases),
        "attn.proj.weight": output,
        "attn.proj.bias": find("attention.output.dense.bias"),
        "mlp.fc1.weight": fc1,
        "mlp.fc1.bias": find("mlp.fc1.bias", HIDDEN),
        "mlp.fc2.weight": fc2,
        "mlp.fc2.bias": find("mlp.fc2.bias"),
    }
    for n in (1, 2):
        state[f"norm{n}.weight"] = find(f"norm{n}.weight")
        state[f"norm{n}.bias"] = find(f"norm{n}.bias")
        state[f"ls{n}.gamma"] = find(f"layer_scale{n}.lambda1")
    return state
