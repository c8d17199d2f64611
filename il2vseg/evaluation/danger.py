"""The water near the boat, where a missed obstacle matters most and range can be measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from il2vseg.base.images import Labels, resize_labels
from il2vseg.data.dataset import RangeAt
from il2vseg.runtime.marine.scene import Classes, fit_horizon, water_body, water_edge
from il2vseg.runtime.marine.water_plane import Camera, Line


@dataclass(frozen=True)
class DangerZone:
    """The water within some metres of the camera.

    Attributes:
        metres: its radius. camera: its mounting; None if only samples that know their camera have ranges.
    """

    metres: float
    camera: Camera | None = None

    @classmethod
    def of(cls, metres: float, height: float | None, fov: float | None, pitch: float | None) -> "DangerZone":
        """The zone of a camera so mounted, in metres and degrees; of none where height and fov are None."""
        return cls(metres, None if height is None or fov is None else Camera(height, fov, pitch))

    def range_at(self, labels: Labels, names: Sequence[str], shape: tuple[int, ...]) -> RangeAt | None:
        """Return the range of each point of an image: below the horizon that its labels show, as on board.

        Args:
            labels: class ids (H, W), those of `names`; where they show no horizon, the pitch decides.
            shape: height and width of the frame; the aspect of the labels may be another.
        Returns:
            metres at columns and rows of the labels; None where neither horizon nor pitch is known.
        """
        if self.camera is None:
            return None
        height, width = labels.shape
        size = (round(width * shape[0] / shape[1]), width)
        plane = self.camera.plane(_horizon(resize_labels(labels, size), names), size)
        if plane is None:
            return None
        return lambda column, row: plane.locate(column, row * size[0] / height).range


def _horizon(labels: Labels, names: Sequence[str]) -> Line | None:
    classes = Classes.of(names)
    if classes is None:
        return None
    horizon = fit_horizon(labels, water_edge(water_body(labels, classes.water)), classes.sky)
    return None if horizon is None else horizon.line
