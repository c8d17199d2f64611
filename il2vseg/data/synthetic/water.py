"""The water: waves that mirror what stands above them, and the lane of the sun."""

import cv2
import numpy as np

from il2vseg.data.synthetic.camera import Canvas, Pose
from il2vseg.data.synthetic.scene import Scene
from il2vseg.data.synthetic.textures import sample, textures
from il2vseg.data.synthetic.types import Floats, Picture


def _wave_slopes(scene: Scene, pose: Pose, canvas: Canvas, distance: Floats, across: Floats) -> Floats:
    """Return the slope of the water (rows, columns), about unit deviation nearby and calm far away.

    Args:
        distance: metres to the water of each row, falling.
        across: tangent of the bearing of each column.
    """
    slope = np.empty((len(distance), len(across)), np.float32)
    # Coarser tiles far away: a fine one would flicker there.
    far, middle = (int(i) for i in np.searchsorted(-distance, (-30.0, -11.0)))
    for tile, start, stop in zip(
        textures().waves, (middle, far, 0), (len(distance), middle, far), strict=True
    ):
        if start == stop:
            continue
        span = distance[start:stop]
        x = np.outer(span, across) + pose.travel
        y = np.repeat(span[:, None], len(across), 1)
        wind = scene.offset + 9.0 * pose.time
        long_waves = sample(tile, x * 11.0 + wind, y * 26.0 + 13.0 * pose.time)
        short_waves = sample(tile, x * 27.0 - 1.8 * wind, y * 61.0 - 19.0 * pose.time)
        calm = 1.0 / (1.0 + (span / 45.0) ** 2)
        slope[start:stop] = (long_waves + 0.6 * short_waves) * calm[:, None]
    return slope


def draw_water(
    scene: Scene, pose: Pose, canvas: Canvas, above: Picture, waterline: Floats, first: int
) -> Picture:
    """Return the water from row `first` of the canvas down: waves that mirror what stands above them."""
    w = scene.weather
    rows = np.arange(first, canvas.rows, dtype=np.float32)
    columns = np.arange(canvas.columns, dtype=np.float32)
    x = columns - (canvas.columns - 1) / 2
    below = np.maximum(rows - pose.horizon, 0.7)
    slope = _wave_slopes(scene, pose, canvas, scene.eye * canvas.focal / below, x / canvas.focal + pose.yaw)
    # Mirror about the local waterline; the waves stretch and tear the image, most of all nearby.
    rough = scene.chop * slope
    source_y = waterline - (rows[:, None] - waterline) * (0.92 + 0.5 * rough) - 2.0 * rough
    source_x = columns + (2.0 + 0.02 * below[:, None]) * rough
    np.clip(source_y, 0, len(above) - 1, out=source_y)
    mirror = cv2.remap(above, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    # The flatter one looks at water, the more it mirrors; where it does not, its own depth shows.
    grazing = scene.clarity * np.exp(-below / (0.55 * canvas.height)) + 0.12
    fresnel = np.clip(grazing[:, None] + (0.10 + 0.14 * scene.chop) * slope, 0.04, 0.95)
    deep = np.empty_like(mirror)
    deep[:] = np.round(np.asarray(w.deep) * w.light)
    water = cv2.blendLinear(mirror, deep, fresnel, 1 - fresnel)
    if w.sun > 0:
        # A lane towards the sun, wider nearby; it is soft, so a quarter of the resolution is enough.
        bearing = x[::4] - canvas.focal * (scene.sun[0] - pose.yaw)
        lane = np.exp(-((bearing / (0.11 * canvas.width + 0.35 * below[::4, None])) ** 2))
        lane = cv2.resize(lane, (canvas.columns, len(rows)))
        glint = np.clip(slope - 0.9 + 0.45 * lane, 0, 1) * lane
        tints = [cv2.convertScaleAbs(glint, alpha=230 * w.sun * tint) for tint in (0.8, 0.94, 1.0)]
        water = cv2.add(water, cv2.merge(tints))
    return np.asarray(water, dtype=np.uint8)
