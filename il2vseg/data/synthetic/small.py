"""Scenes full of what is easily overlooked: the same shores, other things in the water, other light."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from il2vseg.data.synthetic.effects import Effects
from il2vseg.data.synthetic.scene import Scene, Vessel, scene_of
from il2vseg.data.synthetic.types import Bgr

KINDS: dict[str, tuple[float, float]] = {
    "swan": (1.1, 1.6),
    "duck": (0.4, 0.6),
    "swimmer": (0.7, 1.1),
    "kayak": (3.6, 5.2),
    "dinghy": (2.6, 4.2),
    "log": (1.5, 5.0),
    "post": (1.2, 3.0),
    "cone": (0.5, 1.1),
    "can": (0.5, 1.1),
    "ball": (0.3, 0.8),
    "motor": (4.5, 8.0),
    "sail": (6.0, 10.0),
}
"""Kind -> shortest and longest, in metres."""

_SLOW = {"log", "post", "cone", "can", "ball"}

_COLOURS: dict[str, tuple[tuple[Bgr, Bgr], ...]] = {
    "swan": (((240, 244, 246), (240, 244, 246)), ((222, 230, 236), (222, 230, 236))),
    "duck": (((70, 90, 110), (40, 90, 40)), ((60, 66, 72), (40, 44, 50))),
    "swimmer": (((60, 60, 70), (0, 0, 0)), ((60, 60, 210), (0, 0, 0)), ((230, 232, 236), (0, 0, 0))),
    "log": (((44, 58, 74), (0, 0, 0)), ((70, 84, 98), (0, 0, 0))),
    "post": (((60, 76, 92), (230, 232, 236)), ((40, 40, 190), (236, 236, 238))),
}
_ANY: tuple[tuple[Bgr, Bgr], ...] = (
    ((232, 232, 228), (60, 60, 190)),
    ((40, 40, 200), (220, 220, 225)),
    ((70, 140, 40), (220, 220, 225)),
    ((40, 196, 236), (40, 40, 40)),
    ((44, 48, 56), (40, 140, 230)),
    ((150, 90, 30), (40, 60, 200)),
)


def colours_of(kind: str) -> tuple[tuple[Bgr, Bgr], ...]:
    """Colours that a kind comes in: of the hull and of what is on it."""
    return _COLOURS.get(kind, _ANY)


@lru_cache(maxsize=64)
def obstacle_scene(seed: int) -> tuple[Scene, Effects]:
    """The scene of a seed with other things in the water, and what lies over it."""
    rng = np.random.default_rng((seed, 1))
    scene = scene_of(seed)
    kinds = list(KINDS)
    found = []
    for _ in range(int(rng.integers(6, 12))):
        kind = kinds[int(rng.integers(len(kinds)))]
        length = float(rng.uniform(*KINDS[kind]))
        closest = max(7.0, 2.5 * length)
        distance = float(np.exp(rng.uniform(np.log(closest), np.log(0.85 * scene.nearest))))
        start = float(rng.uniform(-0.6, 0.6)) * distance
        speed = 0.0 if kind in _SLOW else float(rng.choice((-1, 1)) * rng.uniform(0.2, 1.6))
        colours = colours_of(kind)
        hull, trim = colours[int(rng.integers(len(colours)))]
        phase = float(rng.uniform(0, 2 * np.pi))
        found.append(Vessel(kind, distance, start, speed, length, hull, trim, phase))
    vessels = tuple(sorted(found, key=lambda v: -v.distance))
    return replace(scene, vessels=vessels), Effects.draw(rng)
