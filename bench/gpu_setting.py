"""What the parts of bench/gpu.py share: their setting, commands, frames and clocks."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
Size = tuple[int, int]

SIZES: tuple[Size, ...] = ((252, 448), (336, 448), (378, 518), (714, 1274))
"""In patches of 14; the last two are 384x512 and 720x1280 in whole patches."""
BATCHES = (1, 8)
FILES = {"model.onnx": "fp32", "model.fp16.onnx": "fp16", "model.int8.onnx": "int8"}
"""What is measured, and its precision."""

INT8_SIZE: Size = (252, 448)
TOLERANCE = 0.99
"""Labels on which models trained on the GPU and on the CPU have to agree."""


@dataclass(frozen=True)
class Setting:
    """What all parts share.

    Attributes:
        out: where they leave files for each other. backbone: of every model but the student.
        weights: of the backbone, None for random ones or those in the cache.
    """

    out: Path
    dry: bool
    weights: Path | None

    @property
    def backbone(self) -> str:
        return "tiny" if self.dry else "dinov2_vits14"

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    @property
    def provider(self) -> str:
        return "CPUExecutionProvider" if self.dry else "CUDAExecutionProvider"

    @property
    def sizes(self) -> tuple[Size, ...]:
        return ((64, 96),) if self.dry else SIZES

    @property
    def checkpoint(self) -> Path:
        return self.out / f"train-{self.device}"

    def model(self, size: Size, batch: int) -> Path:
        """Folder of the exported graphs."""
        return self.out / "models" / f"{size[0]}x{size[1]}-{batch}"


EXPORT = ("-c", "import sys; from il2vseg.export.cli import main; sys.exit(main())")
"""`il2vseg-export`, also where the package is not installed."""


def command(*words: object, environment: dict[str, str] | None = None) -> float:
    """Run a Python command to its end; its seconds.

    Raises:
        RuntimeError: it failed; its last line is in the message.
    """
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        name = " ".join(map(str, words[:3]))[:80]
        raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - begun


def frames(size: Size, count: int) -> list[np.ndarray]:
    """Rendered scenes (H, W, 3) uint8 BGR."""
    from il2vseg.base.images import resize_frame
    from il2vseg.data.synthetic import render

    return [np.ascontiguousarray(resize_frame(render(7, 9 * i)[0], size)) for i in range(count)]


def synchronise(s: Setting) -> None:
    """Wait for the GPU."""
    if not s.dry:
        import torch

        torch.cuda.synchronize()


def quantiles(run: Callable[[], object], s: Setting) -> tuple[float, float]:
    """Milliseconds of a call, p50 and p99, after a warm-up; calls for about a second."""
    for _ in range(1 if s.dry else 10):
        run()
    synchronise(s)
    times: list[float] = []
    while sum(times) < (0.0 if s.dry else 1e3) or len(times) < (2 if s.dry else 30):
        begun = time.perf_counter()
        run()
        synchronise(s)
        times.append(1e3 * (time.perf_counter() - begun))
    return float(np.quantile(times, 0.5)), float(np.quantile(times, 0.99))


def timed(row: Row, times: tuple[float, float], batch: int) -> Row:
    """A row with latencies of a call and the throughput."""
    p50, p99 = times
    return row | {"p50 ms": f"{p50:.2f}", "p99 ms": f"{p99:.2f}", "frames/s": f"{1e3 * batch / p50:.0f}"}
