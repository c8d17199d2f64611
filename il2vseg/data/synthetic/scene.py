"""What a seed decides: weather, shore, houses, vessels. Nothing here changes from frame to frame."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from il2vseg.data.synthetic.textures import TILE, fractal
from il2vseg.data.synthetic.types import Bgr, Floats


@dataclass(frozen=True)
class Weather:
    """Colours (BGR, 0-255) and moods of a scene."""

    zenith: Bgr
    haze: Bgr
    cloud: Bgr
    deep: Bgr
    cover: float
    light: float
    sun: float


WEATHERS = (
    Weather((196, 128, 62), (236, 214, 190), (250, 246, 242), (88, 62, 22), 0.10, 1.00, 0.8),  # fair
    Weather((172, 160, 150), (212, 206, 200), (228, 224, 220), (84, 80, 62), 1.10, 0.80, 0.0),  # overcast
    Weather((120, 92, 88), (120, 176, 244), (140, 150, 214), (70, 48, 38), 0.25, 0.62, 1.0),  # dusk
    Weather((206, 176, 140), (224, 220, 214), (240, 236, 234), (92, 86, 48), 0.50, 0.90, 0.5),  # misty
    Weather((214, 150, 84), (242, 226, 200), (255, 252, 250), (112, 98, 28), -0.4, 1.05, 0.9),  # clear
)


@dataclass(frozen=True)
class Vessel:
    """A boat or buoy: distance and lateral start in metres, lateral speed in metres per second."""

    kind: str
    distance: float
    start: float
    speed: float
    length: float
    hull: Bgr
    trim: Bgr
    phase: float


@dataclass(frozen=True)
class House:
    """A house on the beach: bearing in radians, width and height of the walls in metres, colours."""

    bearing: float
    width: float
    height: float
    wall: Bgr
    roof: Bgr


@dataclass(frozen=True)
class Scene:
    """All that does not change from frame to frame.

    Attributes:
        eye: height of the camera above the water in metres.
        level: row of the horizon / frame height, at rest.
        chop: roughness of the water, 0 to 1.
        clarity: how much the water mirrors, 0 to 1.
        speed: metres per second along the shore.
        phases: of the camera's sway.
        sun: bearing and elevation in radians.
        shore, crowns, hills: profiles around the compass.
        nearest: metres to the nearest shore.
    """

    weather: Weather
    eye: float
    level: float
    chop: float
    clarity: float
    speed: float
    phases: tuple[float, ...]
    sun: tuple[float, float]
    shore: Floats
    crowns: Floats
    hills: Floats
    nearest: float
    tree: Bgr
    beach: Bgr
    tree_height: float
    houses: tuple[House, ...]
    vessels: tuple[Vessel, ...]
    offset: float


_WALLS: tuple[Bgr, ...] = ((214, 222, 226), (170, 196, 222), (150, 170, 200), (196, 190, 176))
_ROOFS: tuple[Bgr, ...] = ((50, 62, 130), (70, 76, 96), (60, 90, 160))
_HULLS: tuple[Bgr, ...] = (
    (232, 232, 228),
    (120, 60, 30),
    (60, 60, 190),
    (70, 96, 40),
    (40, 44, 52),
    (90, 190, 220),
)
_TRIMS: tuple[Bgr, ...] = ((40, 40, 160), (150, 90, 30), (50, 50, 50), (30, 140, 220))
_BUOYS: tuple[tuple[Bgr, Bgr], ...] = (
    ((40, 44, 196), (220, 220, 225)),
    ((70, 140, 40), (220, 220, 225)),
    ((40, 196, 236), (40, 40, 40)),
)
_LENGTHS = {"sail": (6.0, 10.0), "motor": (4.5, 8.0), "barge": (16.0, 24.0)}


def crowns(rng: np.random.Generator) -> Floats:
    """Return the tree line around the compass, 1 = a tall tree: domes and spires, one before another."""
    samples = 4096
    count = int(rng.integers(110, 260))
    center = rng.uniform(0, samples, count)
    half = rng.uniform(0.7, 2.6, count) * samples / 200
    height = rng.uniform(0.4, 1.0, count)
    away = np.abs((np.arange(samples)[:, None] - center + samples / 2) % samples - samples / 2) / half
    conifers = rng.uniform(size=count) < rng.choice((0.0, 0.2, 0.8))
    shape = np.where(
        conifers, 1.25 * np.clip(1 - 2.2 * away, 0, None), np.sqrt(np.clip(1 - away**2, 0, None))
    )
    ragged = 0.035 * fractal((samples,), 0.7, rng)
    return np.asarray(np.maximum((height * shape).max(1), 0.22) + ragged, dtype=np.float32)


def vessels(rng: np.random.Generator, nearest: float) -> list[Vessel]:
    """Return a few boats and buoys, farthest first."""

    def pick(options: tuple[Any, ...]) -> Any:
        return options[int(rng.integers(len(options)))]

    vessels = []
    for _ in range(int(rng.integers(2, 5))):
        kind = pick(("sail", "motor", "motor", "barge"))
        distance = nearest * float(rng.uniform(0.8, 0.95) if kind == "barge" else rng.uniform(0.28, 0.9))
        start = float(rng.uniform(-1, 1)) * distance
        speed = float(rng.choice((-1, 1)) * rng.uniform(0.4, 2.2))
        length, phase = float(rng.uniform(*_LENGTHS[kind])), float(rng.uniform(0, 2 * np.pi))
        vessels.append(Vessel(kind, distance, start, speed, length, pick(_HULLS), pick(_TRIMS), phase))
    for _ in range(int(rng.integers(2, 6))):
        distance = float(rng.uniform(8, 0.7 * nearest))
        start, size = float(rng.uniform(-1, 1)) * distance, float(rng.uniform(0.5, 1.1))
        kind, (hull, trim) = pick(("cone", "can", "ball")), pick(_BUOYS)
        phase = float(rng.uniform(0, 2 * np.pi))
        vessels.append(Vessel(kind, distance, start, 0.0, size, hull, trim, phase))
    return sorted(vessels, key=lambda v: -v.distance)


@lru_cache(maxsize=64)
def scene_of(seed: int) -> Scene:
    rng = np.random.default_rng(seed)
    nearest = float(rng.uniform(38, 70))
    season = float(rng.uniform(0, 1))
    houses = tuple(
        House(
            bearing=float(rng.uniform(0, 2 * np.pi)),
            width=float(rng.uniform(5, 10)),
            height=float(rng.uniform(2.6, 5)),
            wall=_WALLS[int(rng.integers(len(_WALLS)))],
            roof=_ROOFS[int(rng.integers(len(_ROOFS)))],
        )
        for _ in range(int(rng.integers(0, 16)))
    )
    return Scene(
        weather=WEATHERS[int(rng.integers(len(WEATHERS)))],
        eye=float(rng.uniform(1.4, 2.6)),
        level=float(rng.uniform(0.34, 0.48)),
        chop=float(rng.uniform(0.15, 1.0)),
        clarity=float(rng.uniform(0.45, 0.85)),
        speed=float(rng.choice((-1, 1)) * rng.uniform(0.3, 1.2)),
        phases=tuple(rng.uniform(0, 2 * np.pi, 6).tolist()),
        sun=(float(rng.uniform(-0.4, 0.4)), float(rng.uniform(0.05, 0.22))),
        shore=fractal((4096,), 1.6, rng) + np.float32(rng.uniform(-0.5, 0.9)),
        crowns=crowns(rng),
        hills=fractal((4096,), 1.3, rng),
        nearest=nearest,
        tree=(38 + 14 * season, 74 - 8 * season, 50 + 30 * season),
        beach=(120 + 30 * season, 150 + 20 * season, 166 + 10 * season),
        tree_height=float(rng.uniform(5, 12)),
        houses=houses,
        vessels=tuple(vessels(rng, nearest)),
        offset=float(rng.uniform(0, TILE)),
    )
