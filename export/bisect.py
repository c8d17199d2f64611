"""Where an exported graph leaves the model: the first layer whose input differs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from il2vseg.base.images import Frame
from il2vseg.calib.layers import layer_norms, with_outputs
from il2vseg.calib.observe import session
from il2vseg.models.network import Network

TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.2}
"""Relative error of a layer's input that counts as divergence, by precision."""


@dataclass(frozen=True)
class Divergence:
    """The outcome of a bisection.

    Attributes:
        layer: the first layer whose input is wrong, "scores" when only the end is, None when nothing is.
        errors: relative error ‖export − model‖/‖model‖ at every layer, in the order of execution.
    """

    layer: str | None
    errors: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for parity.json; an infinite error becomes None, which JSON can hold."""
        errors = {name: e if np.isfinite(e) else None for name, e in self.errors.items()}
        return {"layer": self.layer, "relative_errors": errors}


def _eager_inputs(network: Network, frame: Frame) -> dict[str, NDArray[np.float32]]:
    """What the eager model feeds to each of its layer normalisations, and its scores."""
    seen: dict[str, NDArray[np.float32]] = {}
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, nn.LayerNorm):

            def hook(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                seen[name] = inputs[0].numpy()

            handles.append(module.register_forward_pre_hook(hook))
    try:
        _, scores = network.predict(torch.from_numpy(frame[None]))
    finally:
        for handle in handles:
            handle.remove()
    return seen | {"scores": scores.numpy()}


def first_divergence(network: Network, model: Path, frame: Frame, tolerance: float) -> Divergence:
    """Compare an exported file with its model layer by layer on one frame.

    The residual stream is looked at where layer normalisation reads it: it stays in float32 in every
    precision, and neither fusion nor rescaling changes its values.
    """
    proto = onnx.load(model)
    tensors = {node.name.split("/")[0]: node.input[0] for node in layer_norms(proto)} | {"scores": "scores"}
    expected = _eager_inputs(network, frame)
    names = [name for name in expected if name in tensors]
    outputs = [tensors[name] for name in names]
    found = session(with_outputs(proto, outputs), outputs)(frame[None])
    errors = {}
    for name, values in zip(names, found, strict=True):
        reference = expected[name].astype(np.float64)
        error = float(np.linalg.norm(values - reference)) / max(float(np.linalg.norm(reference)), 1e-12)
        errors[name] = error if np.isfinite(error) else float("inf")
    layer = next((name for name, error in errors.items() if error > tolerance), None)
    return Divergence(layer, errors)
