"""Shapes of what floats, as polygons."""

import numpy as np

from il2vseg.data.synthetic.scene import Vessel
from il2vseg.data.synthetic.shapes import box
from il2vseg.data.synthetic.types import Bgr, Points

_DARK: Bgr = (62, 54, 48)
_PANE: Bgr = (120, 100, 84)
_CLOTH: Bgr = (236, 240, 242)
_JIB: Bgr = (219, 223, 225)
_SKIN: Bgr = (120, 150, 196)


def _ellipse(x: float, y: float, half_width: float, half_height: float) -> Points:
    turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    return [(x + half_width * float(np.cos(a)), y + half_height * float(np.sin(a))) for a in turn]


def _vessel(vessel: Vessel) -> list[tuple[Points, Bgr]]:
    """Boats and buoys."""
    hull, trim = vessel.hull, vessel.trim
    match vessel.kind:
        case "sail":
            return [
                ([(-0.012, 0.1), (0.018, 0.1), (0.014, 1.32), (-0.008, 1.32)], _DARK),
                ([(-0.03, 0.2), (-0.46, 0.22), (-0.02, 1.25)], _CLOTH),
                ([(0.03, 0.16), (0.47, 0.15), (0.02, 1.12)], _JIB),
                ([(-0.5, 0.13), (0.52, 0.16), (0.4, -0.02), (-0.44, -0.02)], hull),
                ([(-0.48, 0.05), (0.46, 0.06), (0.44, 0.03), (-0.47, 0.02)], trim),
            ]
        case "motor":
            return [
                ([(-0.3, 0.14), (-0.26, 0.36), (0.02, 0.36), (0.16, 0.16)], _CLOTH),
                ([(-0.22, 0.22), (-0.2, 0.33), (0.01, 0.33), (0.09, 0.22)], _PANE),
                ([(-0.2, 0.36), (-0.18, 0.56), (-0.165, 0.56), (-0.17, 0.36)], _DARK),
                ([(-0.5, 0.16), (0.52, 0.21), (0.36, -0.02), (-0.47, -0.02)], hull),
                ([(-0.49, 0.09), (0.45, 0.12), (0.43, 0.09), (-0.48, 0.06)], trim),
            ]
        case "barge":
            return [
                ([(-0.44, 0.08), (-0.44, 0.24), (-0.26, 0.24), (-0.26, 0.08)], _CLOTH),
                ([(-0.42, 0.17), (-0.42, 0.21), (-0.28, 0.21), (-0.28, 0.17)], _PANE),
                ([(-0.2, 0.08), (-0.16, 0.15), (0.1, 0.17), (0.36, 0.14), (0.4, 0.08)], trim),
                ([(-0.5, 0.1), (0.46, 0.1), (0.5, 0.13), (0.46, -0.01), (-0.48, -0.01)], hull),
            ]
        case "cone":
            return [
                ([(-0.4, -0.1), (0.4, -0.1), (0.12, 1.0), (-0.12, 1.0)], hull),
                ([(-0.29, 0.4), (0.29, 0.4), (0.22, 0.62), (-0.22, 0.62)], trim),
                ([(-0.04, 1.0), (0.04, 1.0), (0.04, 1.35), (-0.04, 1.35)], _DARK),
                ([(-0.18, 1.3), (0.18, 1.3), (0.0, 1.6)], hull),
            ]
        case "can":
            return [
                ([(-0.3, -0.1), (0.3, -0.1), (0.3, 0.9), (-0.3, 0.9)], hull),
                ([(-0.3, 0.35), (0.3, 0.35), (0.3, 0.55), (-0.3, 0.55)], trim),
                ([(-0.05, 0.9), (0.05, 0.9), (0.05, 1.3), (-0.05, 1.3)], _DARK),
            ]
        case _:
            turn = np.linspace(0, 2 * np.pi, 20)
            ball = [(0.42 * float(np.cos(a)), 0.3 + 0.42 * float(np.sin(a))) for a in turn]
            return [(ball, hull), (box(0, 0.28, 0.4, 0.06), trim)]


def _small(vessel: Vessel) -> list[tuple[Points, Bgr]] | None:
    """What is easily overlooked; None for anything else."""
    hull, trim = vessel.hull, vessel.trim
    match vessel.kind:
        case "swan":
            return [
                (_ellipse(0.0, 0.2, 0.4, 0.24), hull),
                ([(-0.3, 0.24), (-0.52, 0.46), (-0.2, 0.4)], hull),
                ([(0.24, 0.2), (0.36, 0.24), (0.44, 0.66), (0.4, 0.8), (0.3, 0.78), (0.3, 0.6)], hull),
                (_ellipse(0.38, 0.78, 0.09, 0.07), hull),
                ([(0.45, 0.8), (0.57, 0.74), (0.45, 0.74)], (40.0, 110.0, 220.0)),
            ]
        case "duck":
            return [
                (_ellipse(0.0, 0.14, 0.45, 0.2), hull),
                (_ellipse(0.36, 0.42, 0.14, 0.13), trim),
                ([(0.26, 0.2), (0.44, 0.2), (0.42, 0.42), (0.3, 0.42)], trim),
            ]
        case "swimmer":
            return [
                (_ellipse(0.0, 0.16, 0.17, 0.24), hull),
                ([(-0.6, -0.02), (-0.5, 0.08), (0.3, 0.06), (0.4, -0.02)], _SKIN),
                ([(0.2, 0.0), (0.34, 0.34), (0.62, 0.02), (0.54, -0.02), (0.34, 0.22), (0.28, 0.0)], _SKIN),
            ]
        case "kayak":
            return [
                (
                    [(-0.5, 0.05), (-0.1, 0.08), (0.15, 0.08), (0.52, 0.06), (0.4, -0.01), (-0.4, -0.01)],
                    hull,
                ),
                ([(-0.06, 0.07), (0.05, 0.07), (0.06, 0.22), (-0.05, 0.22)], trim),
                (_ellipse(0.005, 0.25, 0.03, 0.035), _SKIN),
                ([(-0.22, 0.26), (0.24, 0.1), (0.245, 0.115), (-0.215, 0.275)], _DARK),
            ]
        case "dinghy":
            return [
                ([(-0.5, 0.14), (0.52, 0.17), (0.38, -0.02), (-0.44, -0.02)], hull),
                ([(-0.3, 0.13), (-0.14, 0.13), (-0.16, 0.36), (-0.28, 0.36)], trim),
                (_ellipse(-0.22, 0.41, 0.045, 0.055), _SKIN),
                ([(0.1, 0.14), (0.24, 0.14), (0.22, 0.33), (0.11, 0.33)], _JIB),
                (_ellipse(0.165, 0.38, 0.042, 0.05), _SKIN),
            ]
        case "log":
            return [
                ([(-0.5, 0.02), (-0.4, 0.09), (0.46, 0.06), (0.5, -0.01), (-0.46, -0.02)], hull),
                ([(0.1, 0.07), (0.2, 0.2), (0.23, 0.19), (0.17, 0.06)], hull),
            ]
        case "post":
            return [
                ([(-0.06, -0.02), (0.06, -0.02), (0.055, 1.0), (-0.055, 1.0)], hull),
                ([(-0.06, 0.8), (0.06, 0.8), (0.055, 0.95), (-0.055, 0.95)], trim),
            ]
        case _:
            return None


def outline(vessel: Vessel) -> list[tuple[Points, Bgr]]:
    """Return the vessel's polygons in lengths of the vessel, x to the bow and y up from the waterline."""
    return _small(vessel) or _vessel(vessel)
