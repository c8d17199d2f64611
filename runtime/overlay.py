"""The picture for people: classes as colours over the frame, a legend, the frame rate."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Frame, Labels
from il2vseg.runtime.manifest import ClassInfo
from il2vseg.runtime.marine.scene import Scene

DEFAULT_OPACITY = 0.45
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_EDGE, _HORIZON = (255, 255, 255), (200, 200, 200)
_OBSTACLE, _DANGER = (63, 210, 255), (94, 107, 255)


def palette(classes: Sequence[ClassInfo]) -> NDArray[np.uint8]:
    """Return the BGR colour of every id, (256, 3); ids without a class are black."""
    colors = np.zeros((256, 3), np.uint8)
    for i, info in enumerate(classes):
        colors[i] = info.color[::-1]
    return colors


class Overlay:
    """Paints labels, legend and frame rate over frames.

    painted = overlay(frame, labels, fractions, fps)
    """

    def __init__(self, classes: Sequence[ClassInfo], opacity: float = DEFAULT_OPACITY) -> None:
        """Prepare for these classes; `opacity` of the colours is from 0 to 1."""
        self._names = [c.name for c in classes]
        self._palette = palette(classes)
        self._opacity = opacity

    def blend(self, frame: Frame, labels: Labels) -> Frame:
        """Return the frame (H, W, 3) tinted by the classes of `labels` (H, W)."""
        colors = cv2.applyColorMap(labels, self._palette.reshape(256, 1, 3))
        return np.asarray(
            cv2.addWeighted(frame, 1 - self._opacity, colors, self._opacity, 0.0), dtype=np.uint8
        )

    def __call__(
        self,
        frame: Frame,
        labels: Labels,
        fractions: Sequence[float] = (),
        fps: float | None = None,
        scene: Scene | None = None,
    ) -> Frame:
        """Return the tinted frame with a legend and what the marine layer found.

        Args:
            frame: BGR (H, W, 3). labels: class ids (H, W).
            fractions: share of the frame for every class, in [0, 1]; () leaves them out.
        """
        painted = self.blend(frame, labels)
        if scene is not None:
            self.draw_scene(painted, scene)
        lines = [
            (f"{name} {100 * fractions[i]:.0f} %" if len(fractions) else name, self._palette[i])
            for i, name in enumerate(self._names)
        ]
        self._legend(painted, lines, None if fps is None else f"{fps:.1f} fps")
        return painted

    def draw_scene(self, image: Frame, scene: Scene) -> None:
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
        scale = max(0.35, min(image.shape[0] / 900, 1.2))
        for obstacle in scene.obstacles:
            left, top, w, h = obstacle.box
            color = _DANGER if obstacle.danger else _OBSTACLE
            cv2.rectangle(image, (left, top), (left + w, top + h), color, width)
            if obstacle.range_m is not None:
                at = (left, max(10, top - 4))
                cv2.putText(image, f"{obstacle.range_m:.0f} m", at, _FONT, scale, color, 1, cv2.LINE_AA)

    def _legend(self, image: Frame, lines: Sequence[tuple[str, NDArray[np.uint8]]], rate: str | None) -> None:
        """Draw the legend into the upper left corner, in a size that suits the image."""
        scale = max(0.35, min(image.shape[0] / 900, 1.2))
        texts = [text for text, _ in lines] + ([rate] if rate else [])
        sizes = [cv2.getTextSize(text, _FONT, scale, 1)[0] for text in texts]
        step = int(26 * scale) + 4
        swatch = step - 6
        width = min(max(w for w, _ in sizes) + swatch + 18, image.shape[1])
        height = min(step * len(texts) + 6, image.shape[0])
        panel = image[:height, :width]
        cv2.convertScaleAbs(panel, dst=panel, alpha=0.4)
        for i, text in enumerate(texts):
            bottom = (i + 1) * step - 2
            if i < len(lines):
                color = tuple(int(v) for v in lines[i][1])
                cv2.rectangle(image, (5, bottom - swatch), (5 + swatch, bottom), color, cv2.FILLED)
            at = (swatch + 11, bottom - int(0.2 * swatch))
            cv2.putText(image, text, at, _FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)
