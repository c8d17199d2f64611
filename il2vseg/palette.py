"""Colours for classes that nobody has named yet."""

import colorsys

Color = tuple[int, int, int]


def default_palette(n: int) -> tuple[Color, ...]:
    """n distinct RGB colours: hues a golden angle apart, so that any prefix is well spread."""
    colours = (colorsys.hsv_to_rgb((0.58 + i * 0.618034) % 1.0, 0.75 - 0.2 * (i % 2), 0.95) for i in range(n))
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colours)
