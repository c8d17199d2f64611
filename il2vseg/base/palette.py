"""Colours of classes, by name: customary ones for customary names, ones of their own for the rest."""

import colorsys
import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]
"""RGB, 0 to 255."""

CUSTOMARY: dict[str, Color] = {
    "unsure": (128, 128, 128),
    "ignore": (128, 128, 128),
    # MaSTr1325
    "obstacle": (247, 195, 37),
    "water": (41, 167, 224),
    "sky": (90, 75, 164),
    "land": (152, 110, 72),
    "own boat": (205, 205, 205),
    # Cityscapes
    "road": (128, 64, 128),
    "pavement": (244, 35, 232),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "tree": (107, 142, 35),
    "vegetation": (107, 142, 35),
    "person": (220, 20, 60),
    "pedestrian": (220, 20, 60),
    "car": (0, 0, 142),
}
"""What people who know these data sets expect; any order of classes has the same colours."""


_GOLDEN = 0.618034
_UNNAMED = re.compile(r"class (\d{1,6})")
_APART = 0.07
"""Hues of a list are so far apart, as long as there is room."""


def _color(hue: float, saturation: float) -> Color:
    r, g, b = colorsys.hsv_to_rgb(hue % 1.0, saturation, 0.95)
    return round(255 * r), round(255 * g), round(255 * b)


def _hue(color: Color) -> float:
    return colorsys.rgb_to_hsv(*color)[0]


def _spread(i: int) -> Color:
    """The i-th colour of a list of any length."""
    return _color(0.58 + i * _GOLDEN, 0.75 - 0.2 * (i % 2))


def default_palette(n: int) -> tuple[Color, ...]:
    """n distinct RGB colours: hues a golden angle apart, so that any prefix is well spread."""
    return tuple(map(_spread, range(n)))


def class_colors(names: Sequence[str]) -> tuple[Color, ...]:
    """One RGB colour per class, by its name: the same one in every picture, wherever in a list it stands.

    "class 7", a cluster that has no name yet, has the eighth of `default_palette`.

    >>> class_colors(["water", "class 1"])
    ((41, 167, 224), (217, 242, 109))
    """
    found: dict[str, Color] = {}
    customary = [CUSTOMARY[name] for name in names if name in CUSTOMARY]
    hues = [_hue(color) for color in customary if len(set(color)) > 1]
    for name in names:
        if name in found:
            continue
        if name in CUSTOMARY:
            found[name] = CUSTOMARY[name]
        elif unnamed := _UNNAMED.fullmatch(name):
            found[name] = _spread(int(unnamed[1]))
        else:
            hues.append(_free_hue(zlib.crc32(name.encode()) / 2**32, hues))
            found[name] = _color(hues[-1], 0.65)
    return tuple(found[name] for name in names)


def _free_hue(hue: float, taken: Sequence[float]) -> float:
    """A hue, moved until it is not one of those taken, as far as they leave room."""
    for _ in range(1 + 2 * len(taken)):
        if all(abs((hue - other + 0.5) % 1.0 - 0.5) > _APART for other in taken):
            break
        hue = (hue + _GOLDEN) % 1.0
    return hue


def color_table(colors: Sequence[Color], other: Color = (0, 0, 0)) -> NDArray[np.uint8]:
    """The BGR colour of every class id (256, 3); ids without a class have the colour `other`.

    >>> color_table([(1, 2, 3)])[:2].tolist()
    [[3, 2, 1], [0, 0, 0]]
    """
    table = np.full((256, 3), other, np.uint8)
    table[: len(colors)] = np.array(colors, np.uint8).reshape(-1, 3)
    return np.ascontiguousarray(table[:, ::-1])
