"""Obstacles pasted on real water, or a road: what footage does not show often enough, with exact masks.

A teacher without labels sees few swans. Shapes of many kinds, cut-outs of the footage itself, and what only
looks like an obstacle (glitter, foam, wakes, mirrored banks) make a student that finds what stands in the
water. Everything is NumPy and OpenCV and a function of its random generator.
"""

from il2vseg.learning.paste.compose import PASTINGS, Pasted, Pasting, paste
from il2vseg.learning.paste.shapes import Cutout, cut_out

__all__ = ["PASTINGS", "Cutout", "Pasted", "Pasting", "cut_out", "paste"]
