"""The picture for people: classes as colours over the frame, a legend, and what the marine layer found."""

from collections.abc import Mapping
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Frame, Labels
from il2vseg.base.palette import color_table
from il2vseg.runtime.manifest import ClassInfo
from il2vseg.runtime.marine.scene import Obstacle, Scene

DEFAULT_OPACITY = 0.45
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_EDGE, _HORIZON = (255, 255, 255), (200, 200, 200)
_OBSTACLE, _DANGER, _UNSURE = (63, 210, 255), (94, 107, 255), (200, 200, 200)

Classes = tuple[ClassInfo, ...]


@lru_cache(maxsize=16)
def _table(classes: Classes) -> NDArray[np.uint8]:
    """The BGR colour of every id (256, 3); ids without a class are black."""
    return color_table([c.color for c in classes])


def blend(frame: Frame, labels: Labels, classes: Classes, opacity: float) -> Frame:
    """Return the frame (H, W, 3) tinted by the classes of `labels` (H, W); `opacity` is between 0 and 1."""
    colors = cv2.applyColorMap(labels, _table(classes).reshape(256, 1, 3))
    return np.asarray(cv2.addWeighted(frame, 1 - opacity, colors, opacity, 0.0), dtype=np.uint8)


def _scale(image: Frame) -> float:
    """Size of the letters that suits an image."""
    return max(0.35, min(float(image.shape[0]) / 900, 1.2))


def draw_scene(image: Frame, scene: Scene) -> None:
    """Draw the water's edge, the horizon and obstacles with their ranges into an image (H, W, 3)."""
    width = max(1, image.shape[1] // 480)
    columns = np.flatnonzero(~np.isnan(scene.water_edge))
    points = np.stack([columns, scene.water_edge[columns]], 1).round().astype(np.int32)
    for run in np.split(points, np.flatnonzero(np.diff(columns) > 1) + 1):
        cv2.polylines(image, [run], False, _EDGE, width, cv2.LINE_AA)
    if scene.horizon is not None:
        line = scene.horizon.line
        ends = (0, round(line.left)), (image.shape[1] - 1, round(line.right))
        cv2.line(image, *ends, _HORIZON, width, cv2.LINE_AA)
    confirmed = scene.confirmed
    for obstacle in scene.obstacles:
        left, top, w, h = obstacle.box
        if obstacle not in confirmed:
            cv2.rectangle(image, (left, top), (left + w, top + h), _UNSURE, 1)
            continue
        color = _DANGER if obstacle.danger else _OBSTACLE
        cv2.rectangle(image, (left, top), (left + w, top + h), color, width)
        if text := _caption(obstacle):
            at = (left, max(10, top - 4))
            cv2.putText(image, text, at, _FONT, _scale(image), color, 1, cv2.LINE_AA)


def _caption(obstacle: Obstacle) -> str:
    """Number, range and the time until it is nearest, as far as they are known."""
    parts = [
        f"{obstacle.track}:" if obstacle.track is not None else "",
        f"{obstacle.range_m:.0f} m" if obstacle.range_m is not None else "",
        f"in {obstacle.nearest_s:.0f} s" if obstacle.nearest_s is not None else "",
    ]
    return " ".join(part for part in parts if part)


def draw_legend(image: Frame, classes: Classes, fractions: Mapping[str, float], fps: float = 0.0) -> None:
    """Draw the legend into the upper left corner of an image (H, W, 3), in a size that suits it.

    Args:
        fractions: share of the frame by class name, in [0, 1]. fps: frames per second; 0 leaves it out.
    """
    texts = [f"{c.name} {100 * fractions[c.name]:.0f} %" for c in classes]
    texts += [f"{fps:.1f} fps"] if fps else []
    scale = _scale(image)
    step = int(26 * scale) + 4
    swatch, margin = step - 6, 4
    widest = max(cv2.getTextSize(text, _FONT, scale, 1)[0][0] for text in texts)
    width = min(widest + swatch + 18, image.shape[1])
    height = min(step * len(texts) + 2 * margin, image.shape[0])
    panel = image[:height, :width]
    cv2.convertScaleAbs(panel, dst=panel, alpha=0.4)
    for i, text in enumerate(texts):
        bottom = margin + (i + 1) * step - 3
        if i < len(classes):
            color = tuple(int(v) for v in _table(classes)[i])
            cv2.rectangle(image, (5, bottom - swatch), (5 + swatch, bottom), color, cv2.FILLED)
        at = (swatch + 11, bottom - int(0.2 * swatch))
        cv2.putText(image, text, at, _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)
