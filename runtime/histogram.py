"""Latency histograms of fixed size, for runs of any length."""

import math
import threading
from collections.abc import Iterable

LOWEST_MS = 0.01
HIGHEST_MS = 100_000.0
RATIO = 1.05
_BUCKETS = math.ceil(math.log(HIGHEST_MS / LOWEST_MS) / math.log(RATIO)) + 1


class Histogram:
    """Counts of durations in buckets that grow by RATIO: quantiles are right within 5 %."""

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS
        self.count = 0
        self.total_ms = 0.0

    def add(self, ms: float) -> None:
        """Count a duration in milliseconds."""
        position = math.log(max(ms, LOWEST_MS) / LOWEST_MS) / math.log(RATIO)
        self.counts[min(math.ceil(position - 1e-9), _BUCKETS - 1)] += 1
        self.count += 1
        self.total_ms += ms

    def quantile(self, q: float) -> float:
        """Return the duration in milliseconds that a share `q` (0 to 1) does not exceed; NaN when empty."""
        if not self.count:
            return math.nan
        rank, seen = max(1, math.ceil(q * self.count)), 0
        for i, n in enumerate(self.counts):
            seen += n
            if seen >= rank:
                return float(LOWEST_MS * RATIO**i)
        raise AssertionError("the counts of the buckets do not add up")

    def at_most(self, ms: float) -> int:
        """Return how many durations fell into buckets up to `ms`."""
        limit = math.floor(math.log(max(ms, LOWEST_MS) / LOWEST_MS) / math.log(RATIO) + 1e-9)
        return sum(self.counts[: limit + 1])


class Latencies:
    """A histogram for every stage; stages appear in the order in which they were first seen."""

    def __init__(self) -> None:
        self._stages: dict[str, Histogram] = {}
        self._lock = threading.Lock()

    def add(self, stages: dict[str, float]) -> None:
        """Count milliseconds by stage. Any thread may call it."""
        with self._lock:
            for stage, ms in stages.items():
                self._stages.setdefault(stage, Histogram()).add(ms)

    def stages(self) -> dict[str, Histogram]:
        """Return the histograms by stage."""
        with self._lock:
            return dict(self._stages)

    def table(self, quantiles: Iterable[float] = (0.5, 0.95, 0.99)) -> str:
        """Return a text table: a row for every stage, milliseconds at the quantiles and the mean."""
        quantiles = tuple(quantiles)
        head = "".join(f"{f'p{100 * q:g}':>10}" for q in quantiles)
        lines = [f"{'stage (ms)':<16}{'frames':>8}{head}{'mean':>10}"]
        for stage, h in self.stages().items():
            cells = "".join(f"{h.quantile(q):>10.2f}" for q in quantiles)
            lines.append(f"{stage:<16}{h.count:>8}{cells}{h.total_ms / h.count:>10.2f}")
        return "\n".join(lines)
