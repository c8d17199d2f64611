"""Recordings as cameras, phones and archives make them: written by PyAV, and damaged on purpose."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from il2vseg.base.images import Frame

SIZE = (90, 160)
GREY_STEP = 8
"""Grey levels between the patches of two frames in a row."""


class Events:
    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, message: str, **data: Any) -> None:
        self.all.append((kind, data))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.all]


def numbered(index: int, size: tuple[int, int] = SIZE) -> Frame:
    """A frame (H, W, 3) with edges, whose brightness in its middle tells its number (below 25)."""
    height, width = size
    frame = np.zeros((height, width, 3), np.uint8)
    frame[: height // 4] = (200, 160, 120)
    frame[-height // 4 :, :: max(2, width // 8)] = (40, 90, 140)
    frame[height // 4 : -height // 4] = 30 + GREY_STEP * index
    return frame


def number_of(frame: Frame) -> int:
    """The number of a frame that `numbered` made, through a codec."""
    height, width = frame.shape[:2]
    level = frame[height // 2 - 4 : height // 2 + 4, width // 2 - 8 : width // 2 + 8].mean()
    return round((float(level) - 30) / GREY_STEP)


@contextmanager
def own_priority() -> Iterator[None]:
    """Leave the thread as urgent as it was: SVT-AV1's encoder, run by root, makes it a real-time one."""
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameter)


def write_clip(
    path: Path,
    count: int = 12,
    *,
    codec: str = "libx264",
    fps: float = 10,
    times: Sequence[float] | None = None,
    size: tuple[int, int] = SIZE,
    pix_fmt: str = "yuv420p",
    gop: int = 6,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    format: str | None = None,
    first: int = 0,
) -> Path:
    """Write `count` numbered frames; `times` in seconds are those of the frames, else they are even."""
    import av

    quick = {
        "libx264": {"preset": "ultrafast"},
        "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    }
    quick |= {"libsvtav1": {"preset": "12"}, "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}}
    with own_priority(), av.open(str(path), "w", format=format, options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        rate = Fraction(fps).limit_denominator(1001)
        stream: Any = container.add_stream(codec, rate=rate, options=quick.get(codec, {}) | (options or {}))
        stream.height, stream.width = size
        stream.pix_fmt, stream.bit_rate = pix_fmt, 4_000_000
        stream.codec_context.gop_size = gop
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 90_000)
        for index in range(count):
            picture = av.VideoFrame.from_ndarray(numbered(first + index, size), format="bgr24")
            if times is not None:
                picture.pts, picture.time_base = round(90_000 * times[index]), Fraction(1, 90_000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def rotated(path: Path, degrees: int) -> Path:
    """Turn an MP4 by its display matrix, as phones do: `degrees` clockwise, a multiple of 90."""
    one, minus = (65536).to_bytes(4, "big"), (-65536).to_bytes(4, "big", signed=True)
    zero, last = bytes(4), (1 << 30).to_bytes(4, "big")
    a, b, c, d = {
        90: (zero, one, minus, zero),
        180: (minus, zero, zero, minus),
        270: (zero, minus, one, zero),
    }[degrees]
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # of a version 0 box
    data[start : start + 36] = a + b + zero + c + d + zero + zero + zero + last
    path.write_bytes(data)
    return path


def cut(path: Path, share: float, name: str | None = None) -> Path:
    """Write the beginning of a file, as a broken download leaves it."""
    data = path.read_bytes()
    out = path.with_name(name or f"cut-{path.name}")
    out.write_bytes(data[: int(share * len(data))])
    return out


def damage(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Damage the bytes of a file in one of four ways; return which and the bytes."""
    kind = ("cut", "flips", "hole", "header")[rng.integers(4)]
    changed = bytearray(data)
    if kind == "cut":
        return kind, bytes(changed[: int(rng.integers(0, len(data)))])
    if kind == "flips":
        for position in rng.integers(0, len(data), rng.integers(1, 40)):
            changed[position] ^= int(rng.integers(1, 256))
    elif kind == "hole":
        start = int(rng.integers(0, len(data)))
        length = int(rng.integers(1, max(2, len(data) // 3)))
        changed[start : start + length] = bytes(len(changed[start : start + length]))
    else:
        for position in rng.integers(0, min(64, len(data)), 4):
            changed[position] = int(rng.integers(0, 256))
    return kind, bytes(changed)
