"""A deterministic marine scene: seed and frame number in, frame and exact mask out.

It is the built-in footage of `make demo` and the fixture of the tests, never a benchmark. Consecutive
frames form a clip: the camera rolls, pitches and moves along the shore, the water flows, boats pass and
buoys bob. There is no state, so any frame of any scene can be asked for at any time:

    frame, labels = render(seed=3, frame=120)

A scene is drawn upright on a canvas somewhat larger than the frame (sky, shore, the mirror image of both
in the waves, then boats and buoys with their own mirror images) and finally rotated by the roll.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.base.files import atomic_path
from il2vseg.base.images import Frame, Labels
from il2vseg.data.dataset import Part, Sample

CLASS_NAMES = ("obstacle", "water", "sky")
PALETTE = ((247, 195, 37), (41, 167, 224), (90, 75, 164))
OBSTACLE, WATER, SKY = 0, 1, 2

FPS = 20.0
"""Frames of a second of scene time."""

_TILE = 512
_PARALLAX = 120.0  # metres along the shore that turn its profile by one radian
_FOCAL = 0.85  # focal length / frame width: a view of about 61 degrees

Picture = NDArray[np.uint8]
"""BGR (rows, columns, 3) uint8 of any part of the canvas."""

_Floats = NDArray[np.float32]
_Bgr = tuple[float, float, float]
_Points = list[tuple[float, float]]


def _fractal(shape: tuple[int, ...], slope: float, rng: np.random.Generator) -> _Floats:
    """Return periodic noise whose amplitude falls with frequency^-slope; zero mean, unit deviation."""
    frequencies = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(f**2 for f in frequencies))
    radius.flat[0] = np.inf
    spectrum = np.fft.fftn(rng.standard_normal(shape)) / radius**slope
    noise = np.fft.ifftn(spectrum).real
    return np.asarray((noise - noise.mean()) / noise.std(), dtype=np.float32)


@dataclass(frozen=True)
class _Weather:
    """Colours (BGR, 0-255) and moods of a scene."""

    zenith: _Bgr
    haze: _Bgr
    cloud: _Bgr
    deep: _Bgr
    cover: float
    light: float
    sun: float


_WEATHERS = (
    _Weather((196, 128, 62), (236, 214, 190), (250, 246, 242), (88, 62, 22), 0.10, 1.00, 0.8),  # fair
    _Weather((172, 160, 150), (212, 206, 200), (228, 224, 220), (84, 80, 62), 1.10, 0.80, 0.0),  # overcast
    _Weather((120, 92, 88), (120, 176, 244), (140, 150, 214), (70, 48, 38), 0.25, 0.62, 1.0),  # dusk
    _Weather((206, 176, 140), (224, 220, 214), (240, 236, 234), (92, 86, 48), 0.50, 0.90, 0.5),  # misty
    _Weather((214, 150, 84), (242, 226, 200), (255, 252, 250), (112, 98, 28), -0.4, 1.05, 0.9),  # clear
)


@dataclass(frozen=True)
class _Vessel:
    """A boat or buoy: distance and lateral start in metres, lateral speed in metres a second."""

    kind: str
    distance: float
    start: float
    speed: float
    length: float
    hull: _Bgr
    trim: _Bgr
    phase: float


@dataclass(frozen=True)
class _House:
    """A house on the beach: bearing in radians, width and height of the walls in metres, colours."""

    bearing: float
    width: float
    height: float
    wall: _Bgr
    roof: _Bgr


@dataclass(frozen=True)
class _Scene:
    """All that does not change from frame to frame.

    Attributes:
        eye: height of the camera above the water in metres.
        level: row of the horizon / frame height, at rest.
        chop: roughness of the water, 0 to 1.
        clarity: how much the water mirrors, 0 to 1.
        speed: metres a second along the shore.
        phases: of the camera's sway.
        sun: bearing and elevation in radians.
        shore, crowns, hills: profiles around the compass.
        nearest: metres to the nearest shore.
    """

    weather: _Weather
    eye: float
    level: float
    chop: float
    clarity: float
    speed: float
    phases: tuple[float, ...]
    sun: tuple[float, float]
    shore: _Floats
    crowns: _Floats
    hills: _Floats
    nearest: float
    tree: _Bgr
    beach: _Bgr
    tree_height: float
    houses: tuple[_House, ...]
    vessels: tuple[_Vessel, ...]
    offset: float


_WALLS: tuple[_Bgr, ...] = ((214, 222, 226), (170, 196, 222), (150, 170, 200), (196, 190, 176))
_ROOFS: tuple[_Bgr, ...] = ((50, 62, 130), (70, 76, 96), (60, 90, 160))
_HULLS: tuple[_Bgr, ...] = (
    (232, 232, 228),
    (120, 60, 30),
    (60, 60, 190),
    (70, 96, 40),
    (40, 44, 52),
    (90, 190, 220),
)
_TRIMS: tuple[_Bgr, ...] = ((40, 40, 160), (150, 90, 30), (50, 50, 50), (30, 140, 220))
_BUOYS: tuple[tuple[_Bgr, _Bgr], ...] = (
    ((40, 44, 196), (220, 220, 225)),
    ((70, 140, 40), (220, 220, 225)),
    ((40, 196, 236), (40, 40, 40)),
)
_LENGTHS = {"sail": (6.0, 10.0), "motor": (4.5, 8.0), "barge": (16.0, 24.0)}


def _crowns(rng: np.random.Generator) -> _Floats:
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
    ragged = 0.035 * _fractal((samples,), 0.7, rng)
    return np.asarray(np.maximum((height * shape).max(1), 0.22) + ragged, dtype=np.float32)


def _vessels(rng: np.random.Generator, nearest: float) -> list[_Vessel]:
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
        vessels.append(_Vessel(kind, distance, start, speed, length, pick(_HULLS), pick(_TRIMS), phase))
    for _ in range(int(rng.integers(2, 6))):
        distance = float(rng.uniform(8, 0.7 * nearest))
        start, size = float(rng.uniform(-1, 1)) * distance, float(rng.uniform(0.5, 1.1))
        kind, (hull, trim) = pick(("cone", "can", "ball")), pick(_BUOYS)
        phase = float(rng.uniform(0, 2 * np.pi))
        vessels.append(_Vessel(kind, distance, start, 0.0, size, hull, trim, phase))
    return sorted(vessels, key=lambda v: -v.distance)


@lru_cache(maxsize=64)
def _scene(seed: int) -> _Scene:
    rng = np.random.default_rng(seed)
    nearest = float(rng.uniform(38, 70))
    season = float(rng.uniform(0, 1))
    houses = tuple(
        _House(
            bearing=float(rng.uniform(0, 2 * np.pi)),
            width=float(rng.uniform(5, 10)),
            height=float(rng.uniform(2.6, 5)),
            wall=_WALLS[int(rng.integers(len(_WALLS)))],
            roof=_ROOFS[int(rng.integers(len(_ROOFS)))],
        )
        for _ in range(int(rng.integers(0, 16)))
    )
    return _Scene(
        weather=_WEATHERS[int(rng.integers(len(_WEATHERS)))],
        eye=float(rng.uniform(1.4, 2.6)),
        level=float(rng.uniform(0.34, 0.48)),
        chop=float(rng.uniform(0.15, 1.0)),
        clarity=float(rng.uniform(0.45, 0.85)),
        speed=float(rng.choice((-1, 1)) * rng.uniform(0.3, 1.2)),
        phases=tuple(rng.uniform(0, 2 * np.pi, 6).tolist()),
        sun=(float(rng.uniform(-0.4, 0.4)), float(rng.uniform(0.05, 0.22))),
        shore=_fractal((4096,), 1.6, rng) + np.float32(rng.uniform(-0.5, 0.9)),
        crowns=_crowns(rng),
        hills=_fractal((4096,), 1.3, rng),
        nearest=nearest,
        tree=(38 + 14 * season, 74 - 8 * season, 50 + 30 * season),
        beach=(120 + 30 * season, 150 + 20 * season, 166 + 10 * season),
        tree_height=float(rng.uniform(5, 12)),
        houses=houses,
        vessels=tuple(_vessels(rng, nearest)),
        offset=float(rng.uniform(0, _TILE)),
    )


@dataclass(frozen=True)
class _Textures:
    """Periodic tiles: waves at falling detail, clouds, foliage."""

    waves: tuple[_Floats, _Floats, _Floats]
    clouds: _Floats
    leaves: _Floats


@lru_cache(maxsize=1)
def _textures() -> _Textures:
    rng = np.random.default_rng(20251)
    shape = (_TILE, _TILE)
    waves = _fractal(shape, 1.0, rng)

    def padded(tile: _Floats) -> _Floats:
        return np.pad(tile, (0, 2), mode="wrap")

    def blurred(sigma: float) -> _Floats:
        wide = cv2.GaussianBlur(np.tile(waves, (3, 3)), (0, 0), sigma)
        return padded(np.asarray(wide[_TILE : 2 * _TILE, _TILE : 2 * _TILE], dtype=np.float32))

    return _Textures(
        waves=(padded(waves), blurred(3.0), blurred(8.0)),
        clouds=padded(_fractal(shape, 1.55, rng)),
        leaves=padded(_fractal(shape, 0.6, rng)),
    )


_NOISE_SHIFTS = 61


@lru_cache(maxsize=4)
def _noise(size: tuple[int, int]) -> Picture:
    """Return sensor noise around 16, taller than the frame so that every frame can take another piece."""
    rng = np.random.default_rng(4096)
    return np.clip(rng.normal(16, 2.2, (size[0] + _NOISE_SHIFTS, size[1], 3)), 0, 32).astype(np.uint8)


def _sample(tile: _Floats, x: _Floats, y: _Floats) -> _Floats:
    """Look a periodic tile up at positions (x, y), bilinearly.

    Positions are folded into the tile, whose first rows and columns are repeated at its end:
    OpenCV's own wrapping takes four times as long.
    """

    def fold(position: _Floats) -> _Floats:
        turns = position * np.float32(1 / _TILE)
        return np.asarray((turns - np.floor(turns)) * np.float32(_TILE), dtype=np.float32)

    return np.asarray(cv2.remap(tile, fold(x), fold(y), cv2.INTER_LINEAR), dtype=np.float32)


@dataclass(frozen=True)
class _Pose:
    """Where the camera looks in one frame.

    Attributes:
        time: seconds.
        roll: radians, positive lowers the right-hand side of the horizon.
        horizon: row of the horizon on the upright canvas, in pixels.
        yaw: radians.
        travel: metres along the shore.
    """

    time: float
    roll: float
    horizon: float
    yaw: float
    travel: float


@dataclass(frozen=True)
class _Canvas:
    """The upright picture that a frame of (height, width) is cut from, with margins for the roll."""

    height: int
    width: int
    margin: int
    focal: float

    @property
    def rows(self) -> int:
        return self.height + 2 * self.margin

    @property
    def columns(self) -> int:
        return self.width + 2 * self.margin


_MAX_ROLL = 0.085


def _canvas(size: tuple[int, int]) -> _Canvas:
    height, width = size
    return _Canvas(height, width, int(np.ceil(0.5 * width * np.sin(_MAX_ROLL))) + 2, _FOCAL * width)


def _pose(scene: _Scene, frame: int, canvas: _Canvas) -> _Pose:
    t = frame / FPS
    a = scene.phases
    swell = 0.35 + 0.65 * scene.chop
    roll = swell * (0.05 * np.sin(0.9 * t + a[0]) + 0.03 * np.sin(1.7 * t + a[1]))
    pitch = swell * (0.018 * np.sin(1.1 * t + a[2]) + 0.010 * np.sin(2.3 * t + a[3]))
    yaw = 0.10 * np.sin(0.13 * t + a[4]) + 0.04 * np.sin(0.37 * t + a[5])
    horizon = canvas.margin + scene.level * canvas.height + canvas.focal * np.tan(pitch)
    return _Pose(t, float(roll), float(horizon), float(yaw), scene.speed * t)


def _roll_matrix(pose: _Pose, canvas: _Canvas) -> NDArray[np.float64]:
    """Return the 2x3 matrix that maps frame coordinates (x, y) to canvas coordinates."""
    c, s = np.cos(pose.roll), np.sin(pose.roll)
    x0, y0 = (canvas.width - 1) / 2, (canvas.height - 1) / 2
    m = canvas.margin
    return np.array([[c, s, x0 + m - c * x0 - s * y0], [-s, c, y0 + m + s * x0 - c * y0]])


def horizon(seed: int, frame: int, size: tuple[int, int] = (360, 640)) -> tuple[float, float]:
    """Return the true horizon of a frame as (row at x = 0, slope in rows a column).

    Above it there is sky or shore, below it water or what stands in front of it.
    """
    canvas = _canvas(size)
    pose = _pose(_scene(seed), frame, canvas)
    (_, (m10, m11, m12)) = _roll_matrix(pose, canvas)
    # The canvas row m10·x + m11·y + m12 equals the horizon.
    return float((pose.horizon - m12) / m11), float(-m10 / m11)


def _profile(values: _Floats, angle: _Floats, repeat: float = 1.0) -> _Floats:
    """Sample a periodic profile at angles (radians); it closes after 2π / repeat."""
    position = angle * (repeat * len(values) / (2 * np.pi))
    looked_up = np.interp(position, np.arange(len(values)), values, period=len(values))
    return np.asarray(looked_up, dtype=np.float32)


def _shore_lines(scene: _Scene, pose: _Pose, canvas: _Canvas) -> tuple[_Floats, _Floats, _Floats, _Floats]:
    """Return, for every column, the rows of hill top, tree top, beach top and waterline."""
    x = np.arange(canvas.columns, dtype=np.float32) - (canvas.columns - 1) / 2
    bearing = np.arctan(x / canvas.focal) + pose.yaw
    angle = bearing + pose.travel / _PARALLAX
    cover = _profile(scene.shore, angle, 2.0)
    present = np.clip(4 * cover, 0, 1)
    # The shore comes nearer where it is broad; its distance sets the waterline and the scale of the trees.
    near = np.clip(0.25 + 0.55 * cover, 0.12, 1.0)
    scale = canvas.focal * near / scene.nearest
    waterline = pose.horizon + np.where(present > 0, scene.eye * scale * np.minimum(1, 2 * present), 0)
    crowns = _profile(scene.crowns, angle)
    beach = waterline - scale * present * (0.45 + 0.35 * crowns)
    trees = beach - scale * scene.tree_height * present * crowns
    hills = pose.horizon - canvas.focal * np.clip(
        0.02 + 0.035 * _profile(scene.hills, bearing + pose.travel / 900.0, 3.0), 0, None
    )
    return hills.astype(np.float32), trees, beach, waterline.astype(np.float32)


def _mix(low: NDArray[Any] | _Bgr, high: NDArray[Any] | _Bgr, weight: _Floats | float) -> _Floats:
    start = np.asarray(low, np.float32)
    return np.asarray(start + (np.asarray(high, np.float32) - start) * weight, dtype=np.float32)


def _draw_sky(scene: _Scene, pose: _Pose, canvas: _Canvas, rows: int) -> Picture:
    """Paint gradient, clouds and sun. It is all soft, so half the resolution is enough."""
    w = scene.weather
    half_rows, half_columns = (rows + 1) // 2, (canvas.columns + 1) // 2
    above = np.maximum(pose.horizon - 2 * np.arange(half_rows, dtype=np.float32), 1.0)
    x = 2 * np.arange(half_columns, dtype=np.float32) - (canvas.columns - 1) / 2 + canvas.focal * pose.yaw
    height = np.clip(above / (0.5 * canvas.height), 0, 1) ** 0.7
    gradient = _mix(w.haze, w.zenith, height[:, None])
    # Clouds lie on a plane high above: they crowd together towards the horizon and drift with the wind.
    depth = 60.0 / (above + 0.05 * canvas.height)
    map_x = np.outer(depth * np.float32(360 / canvas.focal), x).astype(np.float32) + (
        3.0 * pose.time + scene.offset
    )
    map_y = np.repeat((depth * 260 + 1.2 * pose.time)[:, None], half_columns, 1)
    density = _sample(_textures().clouds, map_x, map_y)
    clear = np.clip(above / (0.12 * canvas.height), 0, 1)
    density = np.clip((density + w.cover) * 0.55, 0, 1) * clear[:, None]
    sky = _mix(gradient[:, None], w.cloud, density[..., None])
    if w.sun > 0:
        dx = (x - canvas.focal * scene.sun[0]) / canvas.focal
        dy = (above - canvas.focal * scene.sun[1]) / canvas.focal
        for radius, strength in ((0.22, 45.0), (0.035, 120.0)):
            glow = np.outer(np.exp(-((dy / radius) ** 2)), np.exp(-((dx / radius) ** 2)) * strength * w.sun)
            sky += glow[..., None] * np.array((0.75, 0.92, 1.0), np.float32)
    doubled = cv2.resize(cv2.convertScaleAbs(sky), (2 * half_columns, 2 * half_rows))
    return np.ascontiguousarray(doubled[:rows, : canvas.columns], dtype=np.uint8)


def _draw_shore(
    scene: _Scene, pose: _Pose, canvas: _Canvas, picture: Picture, lines: tuple[_Floats, ...]
) -> NDArray[np.bool_]:
    """Paint hills, beach, trees and houses into `picture`; return which pixels they cover."""
    hills, trees, beach, waterline = lines
    w = scene.weather
    first = max(0, int(min(hills.min(), trees.min())) - 1)
    rows = np.arange(first, len(picture), dtype=np.float32)[:, None]
    x = np.arange(canvas.columns, dtype=np.float32) - (canvas.columns - 1) / 2
    angle = np.arctan(x / canvas.focal) + pose.yaw + pose.travel / _PARALLAX
    scale = np.maximum(waterline - pose.horizon, 0.5) / scene.eye
    map_x = np.repeat((angle * 652).astype(np.float32)[None], len(rows), 0)
    leaves = _sample(_textures().leaves, map_x, ((waterline - rows) * (9.0 / scale)).astype(np.float32))
    # Every pixel mixes three colours: foliage, haze, sand.
    weights = np.empty((len(rows), canvas.columns, 3), np.float32)
    foliage, haze, sand = weights[..., 0], weights[..., 1], weights[..., 2]
    fade = np.clip((rows - hills) / (0.05 * canvas.height), 0, 1)
    foliage[:] = 0.38 - 0.19 * fade
    haze[:] = 0.62 + 0.19 * fade
    sand[:] = 0
    is_tree = (rows >= trees) & (rows < beach)
    lit = np.clip((beach - rows) / np.maximum(beach - trees, 1), 0, 1)
    distance = np.clip(1.2 - scale * scene.nearest / canvas.focal, 0, 1) * 0.35
    np.copyto(foliage, (0.5 + 0.45 * lit + 0.16 * leaves) * (1 - distance), where=is_tree)
    np.copyto(haze, distance[None], where=is_tree)
    is_sand = (rows >= beach) & (rows < waterline)
    np.copyto(sand, 0.85 + 0.08 * leaves, where=is_sand)
    weights[is_sand, :2] = 0
    covered = np.zeros(picture.shape[:2], bool)
    covered[first:] = is_tree | is_sand | ((rows >= hills) & (rows < np.maximum(waterline, pose.horizon)))
    mask = covered.view(np.uint8)
    colors = np.array((scene.tree, w.haze, scene.beach), np.float32).T * (w.light, 1.0, w.light)
    painted = cv2.convertScaleAbs(cv2.transform(weights, colors))
    cv2.copyTo(painted, mask[first:], picture[first:])
    for house in scene.houses:
        _draw_house(scene, pose, canvas, house, picture, mask, beach, waterline)
    return covered


def _draw_house(
    scene: _Scene,
    pose: _Pose,
    canvas: _Canvas,
    house: _House,
    picture: Picture,
    mask: NDArray[np.uint8],
    beach: _Floats,
    waterline: _Floats,
) -> None:
    turn = (house.bearing - pose.yaw - pose.travel / _PARALLAX + np.pi) % (2 * np.pi) - np.pi
    column = (canvas.columns - 1) / 2 + canvas.focal * np.tan(turn)
    if abs(turn) > 0.9 or not 0 <= column < canvas.columns:
        return
    ground, water = float(beach[int(column)]), float(waterline[int(column)])
    if water - ground < 0.5:
        return
    size = (water - pose.horizon) / scene.eye
    half, eaves = house.width * size / 2, ground - house.height * size
    ridge = eaves - 0.7 * half
    light = scene.weather.light
    walls = [(-half, ground + 1), (half, ground + 1), (half, eaves), (0, ridge), (-half, eaves)]
    roof = [(-half - 0.5 * size, eaves), (half + 0.5 * size, eaves), (0, ridge - 0.4 * size)]
    shapes = [(walls, house.wall), (roof, house.roof)]
    for offset in (-0.56, 0.0, 0.56):
        pane = _box(offset * half, eaves + 0.45 * house.height * size, 0.5 * size, 0.7 * size)
        shapes.append((pane, (70.0, 60.0, 55.0)))
    for points, color in shapes:
        _fill(picture, mask, np.add(points, (column, 0)), np.asarray(color) * light, 1)


def _fill(
    picture: Picture, mask: NDArray[np.uint8], points: NDArray[Any], color: NDArray[Any], value: int
) -> None:
    """Fill the polygon `points` (n, 2), to a sixteenth of a pixel, in the picture and in the mask alike."""
    fixed = np.round(points * 16).astype(np.int32)
    cv2.fillPoly(picture, [fixed], color.tolist(), cv2.LINE_8, 4)
    cv2.fillPoly(mask, [fixed], value, cv2.LINE_8, 4)


def _wave_slopes(scene: _Scene, pose: _Pose, canvas: _Canvas, distance: _Floats, across: _Floats) -> _Floats:
    """Return the slope of the water (rows, columns), about unit deviation nearby and calm far away.

    Args:
        distance: metres to the water of each row, falling.
        across: tangent of the bearing of each column.
    """
    slope = np.empty((len(distance), len(across)), np.float32)
    # Coarser tiles far away: a fine one would flicker there.
    far, middle = (int(i) for i in np.searchsorted(-distance, (-30.0, -11.0)))
    for tile, start, stop in zip(
        _textures().waves, (middle, far, 0), (len(distance), middle, far), strict=True
    ):
        if start == stop:
            continue
        span = distance[start:stop]
        x = np.outer(span, across) + pose.travel
        y = np.repeat(span[:, None], len(across), 1)
        wind = scene.offset + 9.0 * pose.time
        long_waves = _sample(tile, x * 11.0 + wind, y * 26.0 + 13.0 * pose.time)
        short_waves = _sample(tile, x * 27.0 - 1.8 * wind, y * 61.0 - 19.0 * pose.time)
        calm = 1.0 / (1.0 + (span / 45.0) ** 2)
        slope[start:stop] = (long_waves + 0.6 * short_waves) * calm[:, None]
    return slope


def _draw_water(
    scene: _Scene, pose: _Pose, canvas: _Canvas, above: Picture, waterline: _Floats, first: int
) -> Picture:
    """Return the water from row `first` of the canvas down: waves that mirror what stands above them."""
    w = scene.weather
    rows = np.arange(first, canvas.rows, dtype=np.float32)
    columns = np.arange(canvas.columns, dtype=np.float32)
    x = columns - (canvas.columns - 1) / 2
    below = np.maximum(rows - pose.horizon, 0.7)
    slope = _wave_slopes(scene, pose, canvas, scene.eye * canvas.focal / below, x / canvas.focal + pose.yaw)
    # Mirror about the local waterline; the waves stretch and tear the image, most of all nearby.
    rough = scene.chop * slope
    source_y = waterline - (rows[:, None] - waterline) * (0.92 + 0.5 * rough) - 2.0 * rough
    source_x = columns + (2.0 + 0.02 * below[:, None]) * rough
    np.clip(source_y, 0, len(above) - 1, out=source_y)
    mirror = cv2.remap(above, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    # The flatter one looks at water, the more it mirrors; where it does not, its own depth shows.
    grazing = scene.clarity * np.exp(-below / (0.55 * canvas.height)) + 0.12
    fresnel = np.clip(grazing[:, None] + (0.10 + 0.14 * scene.chop) * slope, 0.04, 0.95)
    deep = np.empty_like(mirror)
    deep[:] = np.round(np.asarray(w.deep) * w.light)
    water = cv2.blendLinear(mirror, deep, fresnel, 1 - fresnel)
    if w.sun > 0:
        # A lane towards the sun, wider nearby; it is soft, so a quarter of the resolution is enough.
        bearing = x[::4] - canvas.focal * (scene.sun[0] - pose.yaw)
        lane = np.exp(-((bearing / (0.11 * canvas.width + 0.35 * below[::4, None])) ** 2))
        lane = cv2.resize(lane, (canvas.columns, len(rows)))
        glint = np.clip(slope - 0.9 + 0.45 * lane, 0, 1) * lane
        tints = [cv2.convertScaleAbs(glint, alpha=230 * w.sun * tint) for tint in (0.8, 0.94, 1.0)]
        water = cv2.add(water, cv2.merge(tints))
    return np.asarray(water, dtype=np.uint8)


def _box(x: float, y: float, half_width: float, half_height: float) -> _Points:
    return [
        (x - half_width, y - half_height),
        (x + half_width, y - half_height),
        (x + half_width, y + half_height),
        (x - half_width, y + half_height),
    ]


_DARK: _Bgr = (62, 54, 48)
_PANE: _Bgr = (120, 100, 84)
_CLOTH: _Bgr = (236, 240, 242)
_JIB: _Bgr = (219, 223, 225)


def _outline(vessel: _Vessel) -> list[tuple[_Points, _Bgr]]:
    """Return the vessel's polygons in lengths of the vessel, x to the bow and y up from the waterline."""
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
            return [(ball, hull), (_box(0, 0.28, 0.4, 0.06), trim)]


def _draw_vessel(
    scene: _Scene,
    pose: _Pose,
    canvas: _Canvas,
    vessel: _Vessel,
    picture: Picture,
    labels: Labels,
    waterline: _Floats,
) -> None:
    """Paint a vessel and its mirror image, unless it is out of view or behind the shore."""
    scale = canvas.focal / vessel.distance
    extent = scale * vessel.length
    # Whoever leaves on one side comes back on the other, well out of view.
    reach = 0.8 * vessel.distance / _FOCAL + vessel.length
    lateral = vessel.start + vessel.speed * pose.time - pose.travel
    lateral = (lateral + reach) % (2 * reach) - reach
    column = (canvas.columns - 1) / 2 + scale * lateral - canvas.focal * pose.yaw
    heave = 0.12 * scene.chop * np.sin(1.6 * pose.time + vessel.phase)
    row = pose.horizon + scale * (scene.eye - heave * min(1.0, vessel.length))
    left, right = max(0, int(column - extent)), min(canvas.columns, int(column + extent) + 1)
    if left >= right or waterline[left:right].max() >= row - 0.5:
        return
    tilt = (0.03 + 0.07 * scene.chop) * np.sin(1.3 * pose.time + 2 * vessel.phase)
    if vessel.kind == "barge":
        tilt *= 0.1
    c, s = extent * np.cos(tilt), extent * np.sin(tilt)
    facing = -1.0 if vessel.speed < 0 else 1.0
    haze = min(0.4, vessel.distance / 400)
    shapes: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for points, color in _outline(vessel):
        px, py = (np.asarray(points) * (facing, 1.0)).T
        placed = np.stack([column + c * px - s * py, row - s * px - c * py], 1)
        shapes.append((placed, _mix(np.asarray(color) * scene.weather.light, scene.weather.haze, haze)))
    _draw_reflection(scene, pose, shapes, row, vessel.phase, extent, picture)
    for placed, shaded in shapes:
        _fill(picture, labels, placed, shaded, OBSTACLE)


def _draw_reflection(
    scene: _Scene,
    pose: _Pose,
    shapes: list[tuple[NDArray[Any], NDArray[Any]]],
    row: float,
    phase: float,
    extent: float,
    picture: Picture,
) -> None:
    """Paint the mirror image of `shapes` about `row`, torn by the waves into strips that slide sideways."""
    points = np.vstack([placed for placed, _ in shapes])
    left, right = max(0, int(points[:, 0].min()) - 6), min(picture.shape[1], int(points[:, 0].max()) + 7)
    top, bottom = max(0, int(row) - 1), min(picture.shape[0], int(1.9 * row - 0.9 * points[:, 1].min()) + 2)
    if left >= right or top >= bottom:
        return
    water = picture[top:bottom, left:right]
    mirrored = water.copy()
    for placed, color in shapes:
        flipped = (placed - (0, row)) * (1, -0.9) + (-left, row - top)
        cv2.fillPoly(
            mirrored, [np.round(flipped * 16).astype(np.int32)], (0.8 * color).tolist(), cv2.LINE_8, 4
        )
    y = np.arange(bottom - top, dtype=np.float32)
    ripple = np.sin(36.0 * y / (y + 14.0) - 5.0 * pose.time + phase)
    shift = (0.6 + 0.06 * y) * (0.3 + scene.chop) * ripple
    x = np.arange(right - left, dtype=np.float32) + shift[:, None]
    torn = cv2.remap(
        mirrored, x, np.repeat(y[:, None], right - left, 1), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    weight = np.repeat((0.75 * scene.clarity * np.exp(-y / (0.8 * extent + 8)))[:, None], right - left, 1)
    picture[top:bottom, left:right] = cv2.blendLinear(torn, water, weight, 1 - weight)


def render(seed: int, frame: int, size: tuple[int, int] = (360, 640)) -> tuple[Frame, Labels]:
    """Render one frame of a scene.

    Args:
        seed: the scene: weather, shore, vessels, camera.
        frame: frame number; FPS frames are a second.
        size: (height, width) in pixels, each at least 16.
    Returns:
        the frame, BGR (H, W, 3) uint8, and its exact mask (H, W) uint8: 0 obstacle, 1 water, 2 sky.
    """
    scene, canvas = _scene(seed), _canvas(size)
    pose = _pose(scene, frame, canvas)
    lines = _shore_lines(scene, pose, canvas)
    waterline = lines[3]
    first, last = int(pose.horizon), min(canvas.rows, int(np.ceil(waterline.max())) + 1)
    above = _draw_sky(scene, pose, canvas, last)
    covered = _draw_shore(scene, pose, canvas, above, lines)
    water = _draw_water(scene, pose, canvas, above, waterline, first)
    picture = np.empty((canvas.rows, canvas.columns, 3), np.uint8)
    picture[:last] = above
    wet = np.zeros((canvas.rows, canvas.columns), bool)
    wet[first:] = np.arange(first, canvas.rows)[:, None] >= waterline
    wet[:last] &= ~covered
    cv2.copyTo(water, wet[first:].view(np.uint8), picture[first:])
    labels = np.where(wet, np.uint8(WATER), np.uint8(SKY))
    labels[:last][covered] = OBSTACLE
    for vessel in scene.vessels:
        _draw_vessel(scene, pose, canvas, vessel, picture, labels, waterline)
    matrix = _roll_matrix(pose, canvas)
    out = (canvas.width, canvas.height)
    flags = cv2.WARP_INVERSE_MAP
    image = cv2.warpAffine(
        picture, matrix, out, flags=flags | cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    mask = cv2.warpAffine(
        labels, matrix, out, flags=flags | cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
    )
    shift = (37 * frame + seed) % _NOISE_SHIFTS
    image = cv2.addWeighted(image, 1.0, _noise(size)[shift : shift + size[0]], 1.0, -16.0)
    return np.asarray(image, dtype=np.uint8), np.asarray(mask, dtype=np.uint8)


def write_clip(
    path: Path,
    frames: int,
    seed: int = 0,
    size: tuple[int, int] = (360, 640),
    fps: float = FPS,
    start: int = 0,
) -> None:
    """Render `frames` frames of a scene from frame `start` on into a video file (MPEG-4).

    Raises:
        UserError: OpenCV cannot write such a file.
    """
    with atomic_path(path) as temporary:
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), fps, (size[1], size[0]))
        if not writer.isOpened():
            raise UserError(f"{path}: OpenCV cannot write a {path.suffix} clip here; try .mp4")
        try:
            for frame in range(start, start + frames):
                writer.write(render(seed, frame, size)[0])
        finally:
            writer.release()


_SPLITS = {"train": (240, 0), "val": (48, 10_000)}
"""Split -> (number of images, first scene)."""

_PER_SCENE = 12
_STRIDE = 17


@dataclass(frozen=True)
class _ScenePart:
    """Frames of one scene, far enough apart to differ."""

    seed: int
    count: int
    labelled: bool

    @property
    def name(self) -> str:
        return f"scene_{self.seed:05d}"

    def read(self, wanted: Sequence[int]) -> Iterator[Sample]:
        for index in wanted:
            frame, labels = render(self.seed, index * _STRIDE)
            yield Sample(f"{self.name}/{index * _STRIDE:06d}", frame, labels if self.labelled else None)


def parts(split: str, seed: int, *, labelled: bool) -> list[Part]:
    """List the parts of a split, 12 frames a scene; `seed` chooses other scenes.

    Raises:
        UserError: there is no such split.
    """
    if split not in _SPLITS:
        raise UserError(f"the synthetic data set has no split '{split}'; it has: {', '.join(_SPLITS)}")
    total, first = _SPLITS[split]
    scenes = range(first + 1000 * seed, first + 1000 * seed + total // _PER_SCENE)
    return [_ScenePart(scene, _PER_SCENE, labelled) for scene in scenes]
