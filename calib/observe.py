"""What values pass through a graph on real frames, and the range that INT8 covers."""

from collections.abc import Callable, Iterable

import numpy as np
import onnx
from numpy.typing import NDArray

from il2vseg.base.images import Frame
from il2vseg.base.sessions import open_session
from il2vseg.calib.layers import with_outputs

ROWS = 8
"""Whole rows (tokens) kept of each tensor and frame."""

GRAM_ROWS = 160
"""Rows of each tensor and frame that count in its Gram matrix."""


class Observation:
    """Values of one tensor over many frames.

    Attributes:
        low, high: extreme values, zero included: the range that INT8 covers.
        channel_max: largest magnitude by channel of the last axis.
        gram: Σ xᵀx over random rows x, (channels, channels).
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.channel_max: NDArray[np.float32] = np.zeros(1, np.float32)
        self.gram: NDArray[np.float32] = np.zeros(1, np.float32)
        self._rows: list[NDArray[np.float32]] = []

    def add(self, values: NDArray[np.float32], rng: np.random.Generator) -> None:
        """Take in the tensor's values (..., channels) on one frame."""
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.channel_max = np.maximum(self.channel_max, np.abs(values).max(tuple(range(values.ndim - 1))))
        rows = values.reshape(-1, values.shape[-1])
        self._rows.append(rows[rng.integers(len(rows), size=min(ROWS, len(rows)))])
        some = rows[rng.integers(len(rows), size=min(GRAM_ROWS, len(rows)))]
        self.gram = self.gram + some.T @ some

    @property
    def rows(self) -> NDArray[np.float32]:
        """Random rows (n, channels) of all frames."""
        return np.concatenate(self._rows)


Run = Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]]


def session(model: onnx.ModelProto, outputs: list[str] | None = None) -> Run:
    """Load a graph in ONNX Runtime on the CPU: frame (1, H, W, 3) -> `outputs`, default all."""
    loaded = open_session(model.SerializeToString())
    name = loaded.get_inputs()[0].name

    def run(frame: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        values: list[NDArray[np.float32]] = loaded.run(outputs, {name: frame})
        return values

    return run


def observe(
    model: onnx.ModelProto, tensors: Iterable[str], frames: Iterable[tuple[str, Frame]]
) -> dict[str, Observation]:
    """Watch tensors of a graph on frames of its size; samples are drawn with a fixed seed."""
    names = list(dict.fromkeys(tensors))
    run = session(with_outputs(model, names), names)
    seen = {name: Observation() for name in names}
    rng = np.random.default_rng(0)
    for _, frame in frames:
        for name, values in zip(names, run(frame[None]), strict=True):
            seen[name].add(values, rng)
    return seen
