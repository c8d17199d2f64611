"""Periodic noise: waves, clouds, foliage, and the noise of the sensor."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from il2vseg.data.synthetic.types import Floats, Picture

TILE = 512


def fractal(shape: tuple[int, ...], slope: float, rng: np.random.Generator) -> Floats:
    """Return periodic noise whose amplitude falls with frequency^-slope; zero mean, unit deviation."""
    frequencies = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(f**2 for f in frequencies))
    radius.flat[0] = np.inf
    spectrum = np.fft.fftn(rng.standard_normal(shape)) / radius**slope
    noise = np.fft.ifftn(spectrum).real
    return np.asarray((noise - noise.mean()) / noise.std(), dtype=np.float32)


@dataclass(frozen=True)
class Textures:
    """Periodic tiles: waves at falling detail, clouds, foliage."""

    waves: tuple[Floats, Floats, Floats]
    clouds: Floats
    leaves: Floats


@lru_cache(maxsize=1)
def textures() -> Textures:
    rng = np.random.default_rng(20251)
    shape = (TILE, TILE)
    waves = fractal(shape, 1.0, rng)

    def padded(tile: Floats) -> Floats:
        return np.pad(tile, (0, 2), mode="wrap")

    def blurred(sigma: float) -> Floats:
        wide = cv2.GaussianBlur(np.tile(waves, (3, 3)), (0, 0), sigma)
        return padded(np.asarray(wide[TILE : 2 * TILE, TILE : 2 * TILE], dtype=np.float32))

    return Textures(
        waves=(padded(waves), blurred(3.0), blurred(8.0)),
        clouds=padded(fractal(shape, 1.55, rng)),
        leaves=padded(fractal(shape, 0.6, rng)),
    )


NOISE_SHIFTS = 61


@lru_cache(maxsize=4)
def noise(size: tuple[int, int]) -> Picture:
    """Return sensor noise around 16, taller than the frame so that every frame can take another piece."""
    rng = np.random.default_rng(4096)
    return np.clip(rng.normal(16, 2.2, (size[0] + NOISE_SHIFTS, size[1], 3)), 0, 32).astype(np.uint8)


def sample(tile: Floats, x: Floats, y: Floats) -> Floats:
    """Look a periodic tile up at positions (x, y), bilinearly.

    Positions are folded into the tile, whose first rows and columns are repeated at its end:
    OpenCV's own wrapping takes four times as long.
    """

    def fold(position: Floats) -> Floats:
        turns = position * np.float32(1 / TILE)
        return np.asarray((turns - np.floor(turns)) * np.float32(TILE), dtype=np.float32)

    return np.asarray(cv2.remap(tile, fold(x), fold(y), cv2.INTER_LINEAR), dtype=np.float32)
