"""A boat that drives towards a spar buoy on open water: pictures, exact masks, and how far the buoy is.

Prints the table of docs/onboard.md: python -m tests.runtime.approach
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from il2vseg.base.images import Frame, Labels
from il2vseg.data.synthetic.camera import FOCAL, canvas_of, pose_of
from il2vseg.data.synthetic.drawing import draw
from il2vseg.data.synthetic.scene import Scene, Vessel, scene_of

FIELD_OF_VIEW = 2 * math.degrees(math.atan(0.5 / FOCAL))
"""Degrees, horizontal."""

_SEED = 5
_FPS = 20  # of the renderer's clock
_LENGTH = 1.5
_DRAUGHT = 0.02  # of its length: so far below the water's surface it is drawn


@dataclass(frozen=True)
class View:
    """What the camera sees at a moment.

    Attributes:
        frame, labels: as `render` returns them.
        range_m: from below the camera to the buoy. bearing_deg: to starboard of the camera's axis.
    """

    frame: Frame
    labels: Labels
    range_m: float
    bearing_deg: float


@dataclass(frozen=True)
class Approach:
    """The course of a boat.

    Attributes:
        start_m: distance at the beginning. speed_mps: of the boat. aside_m: how far to starboard the buoy is.
        height_m: of the camera. chop: roughness, 0 to 1: the camera sways, the buoy bobs.
    """

    start_m: float = 45.0
    speed_mps: float = 4.0
    aside_m: float = 1.5
    height_m: float = 2.0
    chop: float = 0.3
    size: tuple[int, int] = (360, 640)

    @property
    def lift_m(self) -> float:
        """How far, at most, the buoy's lower edge is drawn above or below the water's surface."""
        return _DRAUGHT * _LENGTH + 0.12 * self.chop

    def at(self, seconds: float) -> View:
        """Look ahead after so many seconds, at least half a metre before the buoy."""
        ahead = max(0.5, self.start_m - self.speed_mps * seconds)
        scene = self._scene(ahead)
        number = round(_FPS * seconds)
        frame, labels = draw(scene, None, _SEED, number, self.size)
        # The renderer turns the camera by moving the picture sideways.
        sideways = self.aside_m / ahead - pose_of(scene, number, canvas_of(self.size)).yaw
        return View(frame, labels, ahead * math.hypot(1.0, sideways), math.degrees(math.atan(sideways)))

    def _scene(self, ahead: float) -> Scene:
        buoy = Vessel("post", ahead, self.aside_m, 0.0, _LENGTH, (40, 44, 196), (220, 220, 225), 0.0)
        nothing = np.full(4096, -1.0, np.float32)
        open_water = replace(scene_of(_SEED), shore=nothing, hills=nothing, houses=(), speed=0.0)
        return replace(open_water, eye=self.height_m, level=0.5, chop=self.chop, vessels=(buoy,))


def main() -> None:
    """Print true ranges and bearings beside those of the marine layer, by the masks and by marine-lite."""
    import il2vseg
    from il2vseg.runtime.marine.scene import Classes, MarineAnalyser
    from il2vseg.runtime.marine.water_plane import Camera

    course, model = Approach(), il2vseg.load("marine-lite")
    camera = Camera(course.height_m, FIELD_OF_VIEW)
    print("| true range, bearing | by the exact masks | by `marine-lite` |")
    print("|---|---|---|")
    for seconds in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9):
        view = course.at(seconds)
        result = model(view.frame)
        cells = [f"{view.range_m:.1f} m, {view.bearing_deg:.1f}°"]
        for names, labels in ((["obstacle", "water", "sky"], view.labels), (result.names, result.labels)):
            classes = Classes.of(names)
            assert classes is not None
            found = MarineAnalyser(classes, camera)(labels).obstacles
            near = [o for o in found if abs((o.bearing_deg or 0) - view.bearing_deg) < 2]
            cells.append(f"{near[0].range_m:.1f} m, {near[0].bearing_deg:.1f}°" if near else "not seen")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
