"""Static INT8 of an exported graph; layers that are too sensitive are found by measurement."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame
from il2vseg.calib.layers import attentions, initializers, linears, value
from il2vseg.calib.observe import Observation, observe, session
from il2vseg.calib.qdq import Convention, insert_qdq
from il2vseg.calib.rounding import RoundedWeight, round_weight
from il2vseg.calib.smooth import STRENGTH, smooth

GOAL = 0.985
"""Label agreement with the float graph on the calibration frames at which no more layers become float."""

CHECK_FRAMES = 8
FLOAT_SHARE = 0.25
"""At most this share of the layers stays in float; if that is not enough, the parity gate decides."""


@dataclass(frozen=True)
class Quantised:
    """An INT8 graph and how it came about.

    Attributes:
        float_nodes: layers, and attention's scores, kept in float where INT8 was to be; most sensitive first.
        agreement: of its labels with the float graph's on calibration frames, [0, 1].
    """

    model: onnx.ModelProto
    frames: int
    smoothing: float
    agreement: float
    float_nodes: list[str] = field(default_factory=list)

    def describe(self) -> dict[str, object]:
        """Plain values for the manifest."""
        return {name: v for name, v in vars(self).items() if name != "model"}


def rounded_weights(model: onnx.ModelProto, observed: dict[str, Observation]) -> dict[str, RoundedWeight]:
    """Round the weight of every linear layer for its observed inputs; returns them by the weight's name."""
    constants = initializers(model)
    return {
        x.weight: round_weight(value(constants[x.weight]), observed[x.activation].gram)
        for x in linears(model)
    }


def sensitivity(
    model: onnx.ModelProto,
    observed: dict[str, Observation],
    weights: dict[str, RoundedWeight],
    convention: Convention,
) -> dict[str, float]:
    """Noise that INT8 adds to each linear layer's output, relative to the output's power.

    Measured on real rows of its input, so it sees what a layer's own activations do to it.
    """
    constants = initializers(model)
    noise = {}
    for linear in linears(model):
        seen = observed[linear.activation]
        x, w = seen.rows, value(constants[linear.weight])
        integers, scale = weights[linear.weight]
        exact = x @ w
        rounded = convention.round_trip(x, seen.low, seen.high) @ (integers * scale)
        noise[linear.node] = float(np.square(rounded - exact).sum() / max(np.square(exact).sum(), 1e-12))
    return noise


def quantise(
    model: onnx.ModelProto,
    frames: Sequence[tuple[str, Frame]],
    convention: Convention,
    *,
    smoothing: float = STRENGTH,
    goal: float = GOAL,
    progress: Callable[[str], None] = lambda line: None,
) -> Quantised:
    """Quantise the linear layers of a graph, and what else the convention asks for.

    All of them first; then, until the labels agree as `goal` asks, attention's scores and the most sensitive
    0, 1, 2, 4, … layers stay in float.

    Args:
        frames: representative (name, BGR uint8 (H, W, 3)) of the graph's size.
        smoothing: strength of `smooth`; 0 leaves it out.
    Raises:
        UserError: the graph has no linear layer large enough for INT8 to matter.
    """
    layers = linears(model)
    if not layers:
        raise UserError(
            "the model has no large linear layer, so INT8 would change nothing; export it as fp32"
        )
    activations = [layer.activation for layer in layers]
    progress(f"observing {len(set(activations))} activations on {len(frames)} frames")
    if smoothing > 0:
        model = smooth(model, observe(model, activations, frames), smoothing)
        activations = [layer.activation for layer in linears(model)]
    products = attentions(model) if convention.scores else []
    activations += [tensor for product in products for tensor in (product.query, product.key)]
    observed = observe(model, activations, frames)
    progress("rounding weights")
    weights = rounded_weights(model, observed)
    noise = sensitivity(model, observed, weights, convention)
    ranked = sorted(noise, key=lambda node: -noise[node])
    scores = [product.scores.name for product in products]
    checked = [frame[None] for _, frame in frames[:CHECK_FRAMES]]
    run = session(model, ["labels"])
    expected = [run(frame)[0] for frame in checked]
    for in_float in _float_nodes(scores, ranked):
        candidate = insert_qdq(model, observed, weights, convention, in_float)
        run = session(candidate, ["labels"])
        agreement = float(np.mean([(run(f)[0] == e).mean() for f, e in zip(checked, expected, strict=True)]))
        progress(
            f"{len(in_float)} of {len(scores) + len(ranked)} layers in float: labels agree on {agreement:.2%}"
        )
        if agreement >= goal:
            break
    return Quantised(candidate, len(frames), smoothing, agreement, in_float)


def _float_nodes(scores: list[str], ranked: list[str]) -> Iterator[list[str]]:
    """What may stay in float, from nothing to FLOAT_SHARE of the layers."""
    yield []
    if scores:
        yield scores
    kept = 1
    while kept <= FLOAT_SHARE * len(ranked):
        yield scores + ranked[:kept]
        kept *= 2
