"""What makes a scene difficult: glitter, bow waves, fog, night with lights, spray. Masks stay as they are."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Frame, Labels
from il2vseg.data.synthetic.camera import FOCAL, Canvas, Pose
from il2vseg.data.synthetic.scene import Scene, Vessel
from il2vseg.data.synthetic.types import WATER, Floats, Picture, mix


@dataclass(frozen=True)
class Effects:
    """How much of each, 0 to 1; 0 is none.

    Attributes:
        fog: 1 hides what is 40 m away. night: 1 leaves an eighth of the light. waves: height of bow waves.
    """

    glitter: float = 0.0
    fog: float = 0.0
    night: float = 0.0
    spray: float = 0.0
    waves: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Effects":
        """Draw bow waves always, and each of the others in one scene of four."""

        def some() -> float:
            return float(rng.uniform(0.2, 1.0)) if rng.random() < 0.25 else 0.0

        return cls(some(), some(), some(), some(), float(rng.uniform(0.3, 1.0)))


def _lighten(picture: Picture, mask: NDArray[np.uint8], amount: float) -> None:
    """Blend white into a picture where a mask (rows, columns), 0 to 255, says."""
    weight = mask.astype(np.float32)[..., None] * (amount / 255)
    picture[:] = (picture + (250 - picture.astype(np.float32)) * weight).astype(np.uint8)


def glitter(
    effects: Effects, pose: Pose, canvas: Canvas, picture: Picture, labels: Labels, seed: int
) -> None:
    """Scatter short bright strokes over the water, small far away and new ten times per second."""
    if effects.glitter == 0:
        return
    rng = np.random.default_rng((seed, 2, int(pose.time * 10)))
    top = int(pose.horizon) + 1
    count = int(effects.glitter * 0.004 * (canvas.rows - top) * canvas.columns)
    depth = rng.random(count) ** 1.6
    y = top + depth * (canvas.rows - top - 1)
    x = rng.normal(canvas.columns / 2 + 60 * np.sin(seed), canvas.columns * 0.22, count)
    mask = np.zeros(picture.shape[:2], np.uint8)
    for row, column, length in zip(y, x, 1 + 10 * depth * rng.random(count), strict=True):
        half = int(length * 8)
        start, stop = (int(column * 16) - half, int(row * 16)), (int(column * 16) + half, int(row * 16))
        cv2.line(mask, start, stop, 255, 1 + int(length > 6), cv2.LINE_AA, 4)
    mask[labels != WATER] = 0
    _lighten(picture, mask, 0.95)


def bow_wave(
    effects: Effects,
    scene: Scene,
    pose: Pose,
    canvas: Canvas,
    vessel: Vessel,
    picture: Picture,
    labels: Labels,
) -> None:
    """Draw the white water at the bow and the wake behind whatever moves."""
    if effects.waves == 0 or abs(vessel.speed) < 0.5:
        return
    scale = canvas.focal / vessel.distance
    reach = 0.8 * vessel.distance / FOCAL + vessel.length
    lateral = vessel.start + vessel.speed * pose.time - pose.travel
    lateral = (lateral + reach) % (2 * reach) - reach
    column = (canvas.columns - 1) / 2 + scale * lateral - canvas.focal * pose.yaw
    row = pose.horizon + scale * scene.eye
    half, ahead = 0.5 * scale * vessel.length, np.sign(vessel.speed)
    thick = max(1.0, 0.06 * scale * effects.waves)
    points = np.array([(1.15, 0), (0.9, -0.5), (0.2, 0.9), (-2.6, 1.6), (-3.2, 1.0), (-1.0, 0.6), (0.8, 1.0)])
    placed = points * (ahead * half, thick) + (column, row)
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(placed * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    mask[labels != WATER] = 0
    _lighten(picture, mask, 0.35 + 0.45 * effects.waves)


def veil(
    effects: Effects,
    scene: Scene,
    pose: Pose,
    canvas: Canvas,
    picture: Picture,
    afloat: NDArray[np.bool_],
    waterline: Floats,
    seed: int,
) -> Picture:
    """Lay fog by distance and night over the picture; at night the shore has lights, mirrored in the water.

    Args:
        afloat: pixels of what hides the lights.
    """
    if effects.fog > 0:
        below = np.maximum(np.arange(canvas.rows, dtype=np.float32) - pose.horizon, 0.5)
        distance = np.minimum(scene.eye * canvas.focal / below, 4 * scene.nearest)
        haze = 1 - np.exp(-effects.fog * distance / 40)
        grey = np.asarray((206, 206, 204), np.float32) * scene.weather.light
        picture = mix(picture, grey, haze[:, None, None]).astype(np.uint8)
    if effects.night > 0:
        light = 0.42 - 0.3 * effects.night
        picture = (picture * (np.array((1.15, 0.95, 0.85), np.float32) * light)).astype(np.uint8)
        _lights(picture, afloat, waterline, pose, seed)
    return picture


def _lights(picture: Picture, afloat: NDArray[np.bool_], waterline: Floats, pose: Pose, seed: int) -> None:
    """Draw lamps along the shore and their streaks on the water."""
    rng = np.random.default_rng((seed, 3))
    glow = np.zeros(picture.shape, np.float32)
    rows, columns = picture.shape[:2]
    for bearing, height, warmth in rng.uniform(0, 1, (int(rng.integers(2, 9)), 3)):
        x = int((bearing * 1.4 - 0.2) * columns - 0.1 * columns * pose.yaw)
        if not 0 <= x < columns:
            continue
        edge = float(waterline[x])
        up = 3 + 0.05 * rows * height
        colour = (120 + 100 * warmth, 205.0, 255.0)
        cv2.circle(glow, (x, int(edge - up)), 1 + rows // 300, colour, -1, cv2.LINE_AA)
        streak = tuple(0.55 * c for c in colour)
        cv2.line(glow, (x, int(edge + up)), (x, int(edge + up + 0.2 * rows)), streak, 1 + rows // 200)
    glow[afloat] = 0
    glow = cv2.GaussianBlur(glow, (0, 0), 1.2) + 0.6 * cv2.GaussianBlur(glow, (0, 0), 6.0)
    picture[:] = np.clip(picture + glow, 0, 255).astype(np.uint8)


def spray(effects: Effects, image: Frame, seed: int, frame: int) -> Frame:
    """Put drops on the lens: bright, blurred, gone after a second."""
    if effects.spray == 0:
        return image
    rng = np.random.default_rng((seed, 4, frame // 20))
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    for _ in range(int(effects.spray * 25)):
        centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        cv2.circle(mask, centre, 1 + int(rng.exponential(0.006 * width)), 255, -1, cv2.LINE_AA)
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), 1 + 0.003 * width), dtype=np.uint8)
    out = image.copy()
    _lighten(out, mask, 0.4)
    return out
