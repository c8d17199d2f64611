"""Training views of a frame: crops in other light, weather and quality. NumPy and OpenCV only."""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Frame, decode_frame, encode_jpeg
from il2vseg.learning.noise import smooth_noise

DUSK = 0.2
"""Share of the light that the dimmest views keep."""


@dataclass(frozen=True)
class Augmentation:
    """How strongly frames are varied; every draw is independent."""

    zoom: float = 1.6
    """Largest magnification; the smallest is the one at which the crop is the frame."""
    stretch: float = 1.15
    """Largest change of the aspect, either way."""
    tilt: float = 12.0
    """Degrees that the horizon leans, either way (three standard deviations)."""
    colour: float = 0.35
    """Change of brightness, contrast, saturation and gamma, either way."""
    shade: float = 0.1
    """Probability of uneven light: smooth fields of shadow and sun."""
    dim: float = 0.1
    """Probability of dusk: down to DUSK of the light."""
    degrade: float = 0.3
    """Probability of each of blur, noise, JPEG and rain."""


def draw_view(
    rng: np.random.Generator, size: tuple[int, int], crop: tuple[int, int], a: Augmentation
) -> NDArray[np.float64]:
    """Draw where a crop lies in a frame.

    Returns:
        (2, 3) affine map from the crop to the frame, in coordinates from −1 to 1 across each.
    """
    h, w = size
    smallest = max(crop[0] / h, crop[1] / w)
    zoom = math.exp(rng.uniform(math.log(smallest), math.log(max(a.zoom, smallest))))
    aspect = math.exp(rng.uniform(-1, 1) * math.log(a.stretch) / 2)
    half = np.array([crop[1] / zoom * aspect, crop[0] / zoom / aspect]) / 2
    room = np.maximum(np.array([w, h]) / 2 - half, 0.0)
    angle = math.radians(float(np.clip(rng.normal(0.0, a.tilt / 3), -a.tilt, a.tilt)))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    mirror = np.array([-1.0 if rng.random() < 0.5 else 1.0, 1.0])
    linear = turn @ np.diag(half * mirror)
    frame_half = np.array([w, h]) / 2
    return np.hstack([linear, rng.uniform(-room, room)[:, None]]) / frame_half[:, None]


def warp_frame(frame: Frame, view: NDArray[np.float64], crop: tuple[int, int]) -> Frame:
    """Cut a view out of a frame; what lies outside is mirrored in, as `torch`'s grid_sample does."""
    (fh, fw), (ch, cw) = frame.shape[:2], crop
    # Pixel centres of the crop -> [−1, 1] -> the frame's [−1, 1] -> its pixel centres.
    inner = np.array([[2 / cw, 0, 1 / cw - 1], [0, 2 / ch, 1 / ch - 1], [0, 0, 1]])
    outer = np.array([[fw / 2, 0, (fw - 1) / 2], [0, fh / 2, (fh - 1) / 2]])
    matrix = outer @ np.vstack([view, [0, 0, 1]]) @ inner
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(frame, matrix, (cw, ch), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(warped, dtype=np.uint8)


def vary_colours(rng: np.random.Generator, frame: Frame, a: Augmentation) -> Frame:
    """Light, then brightness, contrast, gamma, saturation and hue, then blur, noise, rain and JPEG."""
    frame = vary_light(rng, frame, a)

    def factor() -> float:
        return math.exp(rng.uniform(-a.colour, a.colour))

    ramp = np.linspace(0.0, 1.0, 256) ** factor() * factor()
    ramp = (ramp - 0.5) * factor() + 0.5
    x: NDArray[Any] = cv2.LUT(frame, (ramp.clip(0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
    hsv = cv2.cvtColor(x, cv2.COLOR_BGR2HSV).astype(np.int16)
    hsv[..., 0] = (hsv[..., 0] + round(rng.uniform(-9, 9))) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * factor(), 0, 255)
    x = np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR), dtype=np.uint8)
    if rng.random() < a.degrade:
        x = np.asarray(cv2.GaussianBlur(x, (0, 0), rng.uniform(0.5, 2.0)), dtype=np.uint8)
    if rng.random() < a.degrade:
        noise = rng.normal(0.0, rng.uniform(2.0, 15.0), x.shape)
        x = np.asarray((x + noise).clip(0, 255), dtype=np.uint8)
    if rng.random() < a.degrade / 3:
        x = streaks(rng, x, rng.uniform(0.0005, 0.003))
    if rng.random() < a.degrade:
        x = jpeg(x, int(rng.integers(20, 80)))
    return x


def vary_light(rng: np.random.Generator, frame: Frame, a: Augmentation) -> Frame:
    """Shadows, sun and dusk: the colours stay, their brightness does not."""
    h, w = frame.shape[:2]
    light = np.ones((h, w), np.float32)
    if rng.random() < a.shade:
        light = np.exp(smooth_noise(rng, (h, w), (4, 5), 0.4))
    if rng.random() < a.dim:
        light = light * np.float32(math.exp(rng.uniform(math.log(DUSK), 0.0)))
    return np.asarray((frame * light[..., None]).clip(0, 255), dtype=np.uint8)


def streaks(rng: np.random.Generator, frame: Frame, density: float, length: int = 15) -> Frame:
    """Rain-like: bright, slanted streaks; `density` of them per pixel."""
    drops = (rng.random(frame.shape[:2]) < density).astype(np.float32) * 255.0
    kernel = np.zeros((length, length), np.float32)
    lean = int(rng.integers(-length // 3, length // 3 + 1))
    cv2.line(kernel, (length // 2 - lean, 0), (length // 2 + lean, length - 1), 1.0)
    rain = cv2.filter2D(drops, -1, kernel)[..., None] * 0.7
    return np.asarray((frame + rain).clip(0, 255), dtype=np.uint8)


def jpeg(frame: Frame, quality: int) -> Frame:
    """Compress and decompress."""
    return decode_frame(encode_jpeg(frame, quality))
