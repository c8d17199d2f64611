"""What values pass through a graph on real frames, and the range that INT8 should cover."""

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from il2vseg.base.images import Frame
from il2vseg.base.sessions import open_session
from il2vseg.calib.layers import with_outputs

Method = Literal["minmax", "percentile", "entropy"]

SAMPLE = 20_000
"""Values kept of each tensor and frame."""

ROWS = 8
"""Whole rows (tokens) kept of each tensor and frame."""

GRAM_ROWS = 160
"""Rows of each tensor and frame that count in its Gram matrix."""

PERCENTILE = 99.99
BINS, LEVELS = 2048, 128


class Observation:
    """Values of one tensor over many frames.

    Attributes:
        low, high: extreme values. channel_max: largest magnitude by channel of the last axis.
        gram: Σ xᵀx over random rows x, (channels, channels).
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.channel_max: NDArray[np.float32] = np.zeros(1, np.float32)
        self.gram: NDArray[np.float32] = np.zeros(1, np.float32)
        self._samples: list[NDArray[np.float32]] = []
        self._rows: list[NDArray[np.float32]] = []

    def add(self, values: NDArray[np.float32], rng: np.random.Generator) -> None:
        """Take in the tensor's values (..., channels) on one frame."""
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.channel_max = np.maximum(self.channel_max, np.abs(values).max(tuple(range(values.ndim - 1))))
        flat = values.ravel()
        self._samples.append(flat[rng.integers(flat.size, size=min(SAMPLE, flat.size))])
        rows = values.reshape(-1, values.shape[-1])
        self._rows.append(rows[rng.integers(len(rows), size=min(ROWS, len(rows)))])
        some = rows[rng.integers(len(rows), size=min(GRAM_ROWS, len(rows)))]
        self.gram = self.gram + some.T @ some

    @property
    def sample(self) -> NDArray[np.float32]:
        """Random values of all frames, with the extremes."""
        return np.concatenate([*self._samples, np.array([self.low, self.high], np.float32)])

    @property
    def rows(self) -> NDArray[np.float32]:
        """Random rows (n, channels) of all frames."""
        return np.concatenate(self._rows)

    def range(self, method: Method) -> tuple[float, float]:
        """The range (low, high) to cover; it contains zero."""
        if method == "minmax":
            return self.low, self.high
        sample = self.sample
        if method == "percentile":
            low, high = np.percentile(sample, [100 - PERCENTILE, PERCENTILE])
            return min(0.0, float(low)), max(0.0, float(high))
        bound = entropy_threshold(np.abs(sample))
        return max(self.low, -bound), min(self.high, bound)


def entropy_threshold(magnitudes: NDArray[np.float32]) -> float:
    """The clipping threshold whose quantised distribution loses least information (Migacz 2017).

    Minimises KL(P ‖ Q) over thresholds, P the histogram of |x| clipped there, Q the same in 128 levels.
    """
    top = float(magnitudes.max())
    if top == 0.0:
        return 0.0
    histogram, edges = np.histogram(magnitudes, BINS, (0.0, top))
    best, threshold = np.inf, top
    for end in range(LEVELS, BINS + 1, LEVELS // 8):
        p = histogram[:end].astype(np.float64)
        bounds = np.linspace(0, end, LEVELS + 1).astype(int)
        filled = p > 0
        sums = np.add.reduceat(p, bounds[:-1])
        counts = np.maximum(np.add.reduceat(filled, bounds[:-1], dtype=np.int64), 1)
        q = np.where(filled, np.repeat(sums / counts, np.diff(bounds)), 0.0)
        p[-1] += histogram[end:].sum()  # what lies beyond is clipped onto the last bin
        p, q = p / p.sum(), q / max(q.sum(), 1e-12)
        divergence = float(np.sum(p[p > 0] * np.log(p[p > 0] / np.maximum(q[p > 0], 1e-12))))
        if divergence < best:
            best, threshold = divergence, float(edges[end])
    return threshold


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
