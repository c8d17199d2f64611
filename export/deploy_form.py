"""The deployable form of a ViT: the same function, written the way that inference runtimes fuse it.

Algebra only, and exact up to rounding: the scale and shift of a layer normalisation go into the weights after
it, the attention scale into the query's weights and layer scale into the weights before it; query, key and
value become three matrices, which needs no five-dimensional transpose; GELU is written as
x·(1 + erf(x/√2))·½, the form that ONNX Runtime, OpenVINO and TensorRT recognise. The parity check compares
the result with the untouched model.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from il2vseg.models.network import Network
from il2vseg.models.segmenter import Segmenter


class ErfGelu(nn.Module):
    """GELU in the order of operations that graph optimisers look for."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return x * (torch.erf(x / math.sqrt(2.0)) + 1.0) * 0.5


class PlainAttention(nn.Module):
    """Multi-head self-attention with the scale and layer scale folded into its weights."""

    def __init__(self, attention: Any, output_scale: Tensor | None) -> None:
        """Take over a timm `Attention`; `output_scale` (D,) is the layer scale that follows it."""
        super().__init__()
        self.heads: int = attention.num_heads
        weights = list(attention.qkv.weight.detach().chunk(3))
        biases = [None] * 3 if attention.qkv.bias is None else list(attention.qkv.bias.detach().chunk(3))
        scale = float(attention.scale)
        weights[0] = weights[0] * scale
        biases[0] = None if biases[0] is None else biases[0] * scale
        self.query, self.key, self.value = (_linear(w, b) for w, b in zip(weights, biases, strict=True))
        self.output = scaled_linear(attention.proj, output_scale)

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        """(1, N, D) -> (1, N, D)."""
        q, k, v = (f(x).unflatten(2, (self.heads, -1)) for f in (self.query, self.key, self.value))
        attention = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1)).softmax(-1)
        out: Tensor = self.output((attention @ v.transpose(1, 2)).transpose(1, 2).flatten(2))
        return out


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight.data = weight.clone()
    if bias is not None:
        linear.bias.data = bias.clone()
    return linear


def scaled_linear(linear: nn.Linear, scale: Tensor | None) -> nn.Linear:
    """A linear layer followed by a scale (D,) of its outputs, as one linear layer."""
    weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
    if scale is None:
        return _linear(weight, bias)
    return _linear(weight * scale[:, None], None if bias is None else bias * scale)


def with_affine_input(layer: nn.Linear, scale: Tensor, shift: Tensor) -> nn.Linear:
    """A linear layer whose input is scaled and shifted (in,) first, as one linear layer."""
    weight = layer.weight.detach()
    bias = weight @ shift if layer.bias is None else layer.bias.detach() + weight @ shift
    return _linear(weight * scale, bias)


def _unscaled(norm: Any, parent: nn.Module, *names: str) -> Any:
    """Move scale and shift of a layer normalisation into the linear layers of `parent` that read it."""
    layers = [getattr(parent, name, None) for name in names]
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if not isinstance(norm, nn.LayerNorm) or norm.weight is None or len(linears) < len(layers):
        return norm
    scale = norm.weight.detach()
    shift = torch.zeros_like(scale) if norm.bias is None else norm.bias.detach()
    for name, linear in zip(names, linears, strict=True):
        setattr(parent, name, with_affine_input(linear, scale, shift))
    return nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)


def _is_plain(attention: Any) -> bool:
    """Whether `PlainAttention` can express a timm attention: no rotary embedding, gate or q/k norm."""
    return (
        type(attention).__name__ == "Attention"
        and hasattr(attention, "qkv")
        and isinstance(attention.q_norm, nn.Identity)
        and isinstance(attention.k_norm, nn.Identity)
        and isinstance(getattr(attention, "norm", nn.Identity()), nn.Identity)
        and getattr(attention, "gate", None) is None
    )


def deploy_form(network: Network) -> Network:
    """Copy a network with its ViT in deployable form; other blocks, and a network without a ViT, stay."""
    network = copy.deepcopy(network)
    if not isinstance(network, Segmenter):
        return network.eval().requires_grad_(False)
    vit: Any = network.backbone.vit
    for block in getattr(vit, "blocks", ()):
        if _is_plain(block.attn):
            block.attn = PlainAttention(block.attn, getattr(block.ls1, "gamma", None))
            block.ls1 = nn.Identity()
            block.norm1 = _unscaled(block.norm1, block.attn, "query", "key", "value")
        if isinstance(getattr(block.mlp, "act", None), nn.GELU):
            block.mlp.act = ErfGelu()
        if isinstance(getattr(block.mlp, "fc2", None), nn.Linear) and hasattr(block, "ls2"):
            block.mlp.fc2 = scaled_linear(block.mlp.fc2, getattr(block.ls2, "gamma", None))
            block.ls2 = nn.Identity()
            block.norm2 = _unscaled(block.norm2, block.mlp, "fc1")
    return network.eval().requires_grad_(False)
