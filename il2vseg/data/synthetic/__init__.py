"""A deterministic marine scene: seed and frame number in, frame and exact mask out.

It is the built-in footage of `make demo` and the fixture of the tests, never a benchmark. Consecutive
frames form a clip: the camera rolls, pitches and moves along the shore, the water flows, boats pass and
buoys bob. There is no state, so any frame of any scene can be asked for at any time:

    frame, labels = render(seed=3, frame=120)

A scene is drawn upright on a canvas somewhat larger than the frame (sky, shore, the mirror image of both
in the waves, then boats and buoys with their own mirror images) and finally rotated by the roll.
"""

from il2vseg.data.synthetic.camera import FPS, horizon
from il2vseg.data.synthetic.drawing import render, render_obstacles, write_clip
from il2vseg.data.synthetic.listing import parts
from il2vseg.data.synthetic.types import CLASS_NAMES, OBSTACLE, PALETTE, SKY, WATER

__all__ = [
    "CLASS_NAMES",
    "FPS",
    "OBSTACLE",
    "PALETTE",
    "SKY",
    "WATER",
    "horizon",
    "parts",
    "render",
    "render_obstacles",
    "write_clip",
]
