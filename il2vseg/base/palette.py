"""Colours of classes: customary ones for customary names, well spread ones for the rest."""

import colorsys
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


def default_palette(n: int) -> tuple[Color, ...]:
    """n distinct RGB colours: hues a golden angle apart, so that any prefix is well spread."""
    colours = (colorsys.hsv_to_rgb((0.58 + i * 0.618034) % 1.0, 0.75 - 0.2 * (i % 2), 0.95) for i in range(n))
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colours)


def class_colors(names: Sequence[str]) -> tuple[Color, ...]:
    """One RGB colour per class.

    >>> class_colors(["water", "class 1"])[0]
    (41, 167, 224)
    """
    return tuple(CUSTOMARY.get(n, c) for n, c in zip(names, default_palette(len(names)), strict=True))


def color_table(colors: Sequence[Color], other: Color = (0, 0, 0)) -> NDArray[np.uint8]:
    """The BGR colour of every class id (256, 3); ids without a class have the colour `other`.

    >>> color_table([(1, 2, 3)])[:2].tolist()
    [[3, 2, 1], [0, 0, 0]]
    """
    table = np.full((256, 3), other, np.uint8)
    table[: len(colors)] = np.array(colors, np.uint8).reshape(-1, 3)
    return np.ascontiguousarray(table[:, ::-1])
