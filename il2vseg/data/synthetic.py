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

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.data.dataset import Part, Sample
from il2vseg.errors import UserError
from il2vseg.files import atomic_path
from il2vseg.images import Frame, Labels

CLASS_NAMES = ("obstacle", "water", "sky")
PALETTE = ((247, 195, 37), (41, 167, 224), (90, 75, 164))
OBSTACLE, WATER, SKY = 0, 1, 2

FPS = 20.0
"""Frames of a second of scene time."""

_TILE = 512
_FOCAL = 0.85  # focal length / frame width: a view of about 61 degrees

_Floats = NDArray[np.float32]
_Bgr = tuple[float, float, float]


def _fractal(shape: tuple[int, ...], slope: float, rng: np.random.Generator) -> _Floats:
    """Return periodic noise whose amplitude falls with frequency^-slope; zero mean, unit deviation."""
    frequencies = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in shape), indexing="ij")
    radius = np.sqrt(sum(f**2 for f in frequencies))
    radius.flat[0] = np.inf
    spectrum = np.fft.fftn(rng.standard_normal(shape)) / radius**slope
    noise = np.fft.ifftn(spectrum).real
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


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
class _Scene:
    """All that does not change from frame to frame."""

    weather: _Weather
    eye: float
    level: float
    chop: float
    clarity: float
    speed: float
    sway: _Floats
    sun: tuple[float, float]
    shore: _Floats
    crowns: _Floats
    hills: _Floats
    nearest: float
    tree: _Bgr
    beach: _Bgr
    tree_height: float
    houses: tuple[tuple[float, float, float, _Bgr, _Bgr], ...]
    vessels: tuple[_Vessel, ...]
    offset: float


@lru_cache(maxsize=64)
def _scene(seed: int) -> _Scene:
    rng = np.random.default_rng(seed)
    weather = _WEATHERS[int(rng.integers(len(_WEATHERS)))]
    nearest = float(rng.uniform(38, 70))
    shore = _fractal((4096,), 1.6, rng) + float(rng.uniform(-0.5, 0.9))
    season = rng.uniform(0, 1)
    tree = (38 + 14 * season, 74 - 8 * season, 50 + 30 * season)
    walls = ((214, 222, 226), (170, 196, 222), (150, 170, 200), (196, 190, 176))
    roofs = ((50, 62, 130), (70, 76, 96), (60, 90, 160))
    houses = tuple(
        (
            float(rng.uniform(0, 2 * np.pi)),
            float(rng.uniform(6, 14)),
            float(rng.uniform(3.5, 8)),
            walls[int(rng.integers(len(walls)))],
            roofs[int(rng.integers(len(roofs)))],
        )
        for _ in range(int(rng.integers(0, 30)))
    )
    hulls = ((232, 232, 228), (120, 60, 30), (60, 60, 190), (70, 96, 40), (40, 44, 52), (90, 190, 220))
    trims = ((40, 40, 160), (150, 90, 30), (50, 50, 50), (30, 140, 220))
    buoys = (
        ((40, 44, 196), (220, 220, 225)),
        ((70, 140, 40), (220, 220, 225)),
        ((40, 196, 236), (40, 40, 40)),
    )
    vessels = []
    for _ in range(int(rng.integers(2, 5))):
        kind = ("sail", "motor", "motor", "barge")[int(rng.integers(4))]
        length = {"sail": rng.uniform(6, 10), "motor": rng.uniform(4.5, 8), "barge": rng.uniform(16, 24)}[
            kind
        ]
        distance = nearest * (0.95 if kind == "barge" else float(rng.uniform(0.28, 0.9)))
        vessels.append(
            _Vessel(
                kind,
                distance,
                float(rng.uniform(-1, 1)) * distance,
                float(rng.choice([-1, 1]) * rng.uniform(0.4, 2.2)),
                float(length),
                hulls[int(rng.integers(len(hulls)))],
                trims[int(rng.integers(len(trims)))],
                float(rng.uniform(0, 2 * np.pi)),
            )
        )
    for _ in range(int(rng.integers(2, 6))):
        color, trim = buoys[int(rng.integers(len(buoys)))]
        distance = float(rng.uniform(8, 0.7 * nearest))
        kind = ("cone", "can", "ball")[int(rng.integers(3))]
        start = float(rng.uniform(-1, 1)) * distance
        size = float(rng.uniform(0.5, 1.1))
        vessels.append(_Vessel(kind, distance, start, 0.0, size, color, trim, float(rng.uniform(0, 6.28))))
    vessels.sort(key=lambda v: -v.distance)
    return _Scene(
        weather=weather,
        eye=float(rng.uniform(1.4, 2.6)),
        level=float(rng.uniform(0.34, 0.48)),
        chop=float(rng.uniform(0.15, 1.0)),
        clarity=float(rng.uniform(0.45, 0.85)),
        speed=float(rng.choice([-1, 1]) * rng.uniform(0.3, 1.2)),
        sway=rng.uniform(0, 2 * np.pi, 8).astype(np.float32),
        sun=(float(rng.uniform(-0.4, 0.4)), float(rng.uniform(0.05, 0.22))),
        shore=shore,
        crowns=_fractal((4096,), 0.55, rng),
        hills=_fractal((4096,), 1.3, rng),
        nearest=nearest,
        tree=tree,
        beach=(120.0 + 30 * season, 150.0 + 20 * season, 166.0 + 10 * season),
        tree_height=float(rng.uniform(5, 13)),
        houses=houses,
        vessels=tuple(vessels),
        offset=float(rng.uniform(0, _TILE)),
    )


@lru_cache(maxsize=1)
def _textures() -> tuple[list[_Floats], _Floats, _Floats, NDArray[np.uint8]]:
    """Return the wave tile at falling detail, the cloud tile, the foliage tile and the sensor noise."""
    rng = np.random.default_rng(20251)
    waves = _fractal((_TILE, _TILE), 1.0, rng)
    levels = [waves]
    for sigma in (3.0, 8.0):
        blurred = cv2.GaussianBlur(np.tile(waves, (3, 3)), (0, 0), sigma)[
            _TILE : 2 * _TILE, _TILE : 2 * _TILE
        ]
        levels.append(np.ascontiguousarray(blurred, dtype=np.float32))
    clouds = _fractal((_TILE, _TILE), 1.55, rng)
    leaves = _fractal((_TILE, _TILE), 0.6, rng)
    noise = np.clip(rng.normal(16, 2.2, (1024, 1024, 3)), 0, 32).astype(np.uint8)
    return levels, clouds, leaves, noise


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
    a = scene.sway
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
    return np.interp(position, np.arange(len(values)), values, period=len(values)).astype(np.float32)


def _shore_lines(scene: _Scene, pose: _Pose, canvas: _Canvas) -> tuple[_Floats, _Floats, _Floats, _Floats]:
    """Return, for every column, the rows of hill top, tree top, beach top and waterline."""
    x = np.arange(canvas.columns, dtype=np.float32) - (canvas.columns - 1) / 2
    bearing = np.arctan(x / canvas.focal) + pose.yaw
    angle = bearing + pose.travel / 120.0
    cover = _profile(scene.shore, angle, 2.0)
    present = np.clip(4 * cover, 0, 1)
    # The shore comes nearer where it is broad; its distance sets the waterline and the scale of the trees.
    near = np.clip(0.25 + 0.55 * cover, 0.12, 1.0)
    scale = canvas.focal * near / scene.nearest
    waterline = pose.horizon + np.where(present > 0, scene.eye * scale * np.minimum(1, 2 * present), 0)
    crown = 1 - 0.5 * np.abs(_profile(scene.crowns, angle, 1.0)) + 0.25 * _profile(scene.crowns, angle, 9.0)
    beach = waterline - scale * present * (0.5 + 0.1 * _profile(scene.crowns, angle, 3.0))
    trees = beach - scale * scene.tree_height * present * np.clip(crown, 0.12, None)
    hills = pose.horizon - canvas.focal * np.clip(
        0.02 + 0.035 * _profile(scene.hills, bearing + pose.travel / 900.0, 3.0), 0, None
    )
    return hills.astype(np.float32), trees, beach, waterline.astype(np.float32)


def _mix(low: _Floats | _Bgr, high: _Floats | _Bgr, weight: _Floats | float) -> _Floats:
    low_ = np.asarray(low, np.float32)
    return low_ + (np.asarray(high, np.float32) - low_) * weight


def _draw_sky(scene: _Scene, pose: _Pose, canvas: _Canvas, rows: int) -> _Floats:
    w = scene.weather
    above = np.maximum(pose.horizon - np.arange(rows, dtype=np.float32), 1.0)
    height = np.clip(above / (0.5 * canvas.height), 0, 1) ** 0.7
    gradient = _mix(w.haze, w.zenith, height[:, None])
    # Clouds lie on a plane high above: they crowd together towards the horizon and drift with the wind.
    x = np.arange(canvas.columns, dtype=np.float32) - (canvas.columns - 1) / 2 + canvas.focal * pose.yaw
    depth = 60.0 * canvas.focal / (above + 0.05 * canvas.height) / canvas.focal
    map_x = np.outer(depth * (360 / canvas.focal), x) + (3.0 * pose.time + scene.offset)
    map_y = np.repeat((depth * 260 + 1.2 * pose.time)[:, None], canvas.columns, 1)
    density = cv2.remap(
        _textures()[1],
        map_x.astype(np.float32),
        map_y.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )
    density = (
        np.clip((density + w.cover) * 0.55, 0, 1) * np.clip(above / (0.12 * canvas.height), 0, 1)[:, None]
    )
    sky = _mix(gradient[:, None], w.cloud, density[..., None])
    if w.sun > 0:
        column = canvas.columns / 2 + canvas.focal * (scene.sun[0] - pose.yaw)
        row = pose.horizon - canvas.focal * scene.sun[1]
        dx = (np.arange(canvas.columns, dtype=np.float32) - column) / canvas.focal
        dy = (np.arange(rows, dtype=np.float32) - row) / canvas.focal
        for radius, strength in ((0.22, 45.0), (0.035, 120.0)):
            glow = np.outer(np.exp(-((dy / radius) ** 2)), np.exp(-((dx / radius) ** 2)) * strength * w.sun)
            sky += glow.astype(np.float32)[..., None] * np.array((0.75, 0.92, 1.0), np.float32)
    return sky


def _draw_shore(
    scene: _Scene, pose: _Pose, canvas: _Canvas, picture: _Floats, lines: tuple[_Floats, ...]
) -> NDArray[np.bool_]:
    """Paint hills, beach, trees and houses into `picture`; return which pixels they cover."""
    hills, trees, beach, waterline = lines
    w = scene.weather
    covered = np.zeros(picture.shape[:2], bool)
    first = max(0, int(min(hills.min(), trees.min())) - 1)
    last = len(picture)
    rows = np.arange(first, last, dtype=np.float32)[:, None]
    band = picture[first:last]
    solid = np.asarray(scene.tree, np.float32) * w.light
    hill = (rows >= hills) & (rows < np.maximum(waterline, pose.horizon))
    fade = np.clip((rows - hills) / (0.05 * canvas.height), 0, 1)
    band[hill] = _mix(_mix(solid, w.haze, 0.62), w.haze, 0.5 * fade[..., None])[hill]
    x = np.arange(canvas.columns, dtype=np.float32) - (canvas.columns - 1) / 2
    angle = np.arctan(x / canvas.focal) + pose.yaw + pose.travel / 120.0
    scale = np.maximum(waterline - pose.horizon, 0.5) / scene.eye
    map_x = np.repeat((angle * 652).astype(np.float32)[None], len(rows), 0)
    map_y = ((waterline - rows) * (9.0 / scale)).astype(np.float32)
    leaves = cv2.remap(_textures()[2], map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    tree = (rows >= trees) & (rows < beach)
    lit = np.clip((beach - rows) / np.maximum(beach - trees, 1), 0, 1)
    shade = 0.5 + 0.45 * lit + 0.16 * leaves
    distance = np.clip(1.2 - scale * scene.nearest / canvas.focal, 0, 1) * 0.35
    foliage = _mix(solid * shade[..., None], w.haze, np.broadcast_to(distance, shade.shape)[..., None])
    band[tree] = foliage[tree]
    sand = (rows >= beach) & (rows < waterline)
    band[sand] = (np.asarray(scene.beach, np.float32) * (w.light * (0.85 + 0.08 * leaves))[..., None])[sand]
    covered[first:last] = hill | tree | sand
    for bearing, width, height, wall, roof in scene.houses:
        turn = (bearing - pose.yaw - pose.travel / 120.0 + np.pi) % (2 * np.pi) - np.pi
        if abs(turn) > 0.9:
            continue
        column = (canvas.columns - 1) / 2 + canvas.focal * np.tan(turn)
        index = int(np.clip(column, 0, canvas.columns - 1))
        if not 0 <= column < canvas.columns or waterline[index] - beach[index] < 0.5:
            continue
        size = float(scale[index])
        left, right = column - width * size / 2, column + width * size / 2
        foot, eaves = float(beach[index]) + 1, float(beach[index]) - height * size
        ridge = eaves - 0.35 * width * size
        outline = [(left, foot), (right, foot), (right, eaves), (column, ridge), (left, eaves)]
        gable = [(left - size, eaves), (right + size, eaves), (column, ridge - 0.4 * size)]
        mask = covered.view(np.uint8)
        _fill(picture, mask, outline, tuple(c * w.light for c in wall), 1)
        _fill(picture, mask, gable, tuple(c * w.light for c in roof), 1)
        for k in (-0.28, 0.0, 0.28):
            pane = _box(column + k * width * size, eaves + 0.45 * height * size, 0.5 * size, 0.7 * size)
            _fill(picture, mask, pane, (70 * w.light, 60 * w.light, 55 * w.light), 1)
    return covered


def _box(x: float, y: float, half_width: float, half_height: float) -> list[tuple[float, float]]:
    return [
        (x - half_width, y - half_height),
        (x + half_width, y - half_height),
        (x + half_width, y + half_height),
        (x - half_width, y + half_height),
    ]


def _fill(
    picture: NDArray[np.generic],
    mask: NDArray[np.uint8],
    points: Sequence[tuple[float, float]],
    color: Sequence[float],
    value: int,
) -> None:
    """Fill one polygon, to a sixteenth of a pixel, in the picture and in the mask alike."""
    fixed = np.round(np.asarray(points) * 16).astype(np.int32)
    cv2.fillPoly(picture, [fixed], tuple(color), cv2.LINE_8, 4)
    cv2.fillPoly(mask, [fixed], value, cv2.LINE_8, 4)


def _draw_water(
    scene: _Scene, pose: _Pose, canvas: _Canvas, above: NDArray[np.uint8], waterline: _Floats, first: int
) -> _Floats:
    """Return the water from row `first` of the canvas down: waves that mirror what stands above them."""
    w = scene.weather
    rows = np.arange(first, canvas.rows, dtype=np.float32)
    below = np.maximum(rows - pose.horizon, 0.7)
    distance = scene.eye * canvas.focal / below
    x = np.arange(canvas.columns, dtype=np.float32) - (canvas.columns - 1) / 2
    slope = np.empty((len(rows), canvas.columns), np.float32)
    levels = _textures()[0]
    bounds = np.searchsorted(-distance, [-30.0, -11.0])
    for level, start, stop in zip(
        levels, (bounds[1], bounds[0], 0), (len(rows), bounds[1], bounds[0]), strict=True
    ):
        if start >= stop:
            continue
        span = slice(start, stop)
        across = (
            np.outer(scene.eye / below[span], x + canvas.focal * pose.yaw).astype(np.float32) + pose.travel
        )
        along = np.repeat(distance[span, None], canvas.columns, 1)
        long_waves = cv2.remap(
            level,
            across * 11.0 + (scene.offset + 9.0 * pose.time),
            along * 26.0 + 13.0 * pose.time,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        short_waves = cv2.remap(
            level,
            across * 27.0 - (scene.offset + 16.0 * pose.time),
            along * 61.0 - 19.0 * pose.time,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        slope[span] = long_waves + 0.6 * short_waves
    slope *= (1.0 / (1.0 + (distance / 45.0) ** 2))[:, None].astype(np.float32)
    # Mirror about the local waterline; the waves stretch and tear the image, most of all nearby.
    depth = rows[:, None] - waterline
    source_y = waterline - depth * (0.92 + 0.5 * scene.chop * slope) - 2.0 * scene.chop * slope
    source_x = (
        np.arange(canvas.columns, dtype=np.float32) + (2.0 + 0.02 * below[:, None]) * scene.chop * slope
    )
    mirror = cv2.remap(
        above,
        source_x.astype(np.float32),
        np.minimum(source_y, len(above) - 1).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    ).astype(np.float32)
    grazing = scene.clarity * np.exp(-below / (0.55 * canvas.height)) + 0.12
    fresnel = np.clip(grazing[:, None] + (0.10 + 0.10 * scene.chop) * slope, 0.04, 0.95)
    light = w.light * (1 + 0.10 * scene.chop * slope)
    water = _mix(np.asarray(w.deep, np.float32) * light[..., None], mirror, fresnel[..., None])
    if w.sun > 0:
        column = canvas.columns / 2 + canvas.focal * (scene.sun[0] - pose.yaw)
        lane = np.exp(
            -(((x + (canvas.columns - 1) / 2 - column) / (0.11 * canvas.width + 0.35 * below[:, None])) ** 2)
        )
        glint = np.clip(slope - 0.9 + 0.45 * lane, 0, 1) * lane
        water += (230.0 * w.sun) * glint[..., None] * np.array((0.8, 0.94, 1.0), np.float32)
    return water


def _outline(vessel: _Vessel) -> list[tuple[list[tuple[float, float]], _Bgr]]:
    """Return the vessel's polygons in lengths of the vessel, x to the bow and y up from the waterline."""
    hull, trim = vessel.hull, vessel.trim
    dark = (62.0, 54.0, 48.0)
    pane = (120.0, 100.0, 84.0)
    cloth = (236.0, 240.0, 242.0)
    match vessel.kind:
        case "sail":
            return [
                ([(-0.012, 0.1), (0.018, 0.1), (0.014, 1.32), (-0.008, 1.32)], dark),
                ([(-0.03, 0.2), (-0.46, 0.22), (-0.02, 1.25)], cloth),
                ([(0.03, 0.16), (0.47, 0.15), (0.02, 1.12)], tuple(0.93 * c for c in cloth)),  # type: ignore[list-item]
                ([(-0.5, 0.13), (0.52, 0.16), (0.4, -0.02), (-0.44, -0.02)], hull),
                ([(-0.48, 0.05), (0.46, 0.06), (0.44, 0.03), (-0.47, 0.02)], trim),
            ]
        case "motor":
            return [
                ([(-0.3, 0.14), (-0.26, 0.36), (0.02, 0.36), (0.16, 0.16)], cloth),
                ([(-0.22, 0.22), (-0.2, 0.33), (0.01, 0.33), (0.09, 0.22)], pane),
                ([(-0.2, 0.36), (-0.18, 0.56), (-0.165, 0.56), (-0.17, 0.36)], dark),
                ([(-0.5, 0.16), (0.52, 0.21), (0.36, -0.02), (-0.47, -0.02)], hull),
                ([(-0.49, 0.09), (0.45, 0.12), (0.43, 0.09), (-0.48, 0.06)], trim),
            ]
        case "barge":
            return [
                ([(-0.44, 0.08), (-0.44, 0.24), (-0.26, 0.24), (-0.26, 0.08)], cloth),
                ([(-0.42, 0.17), (-0.42, 0.21), (-0.28, 0.21), (-0.28, 0.17)], pane),
                ([(-0.2, 0.08), (-0.16, 0.15), (0.1, 0.17), (0.36, 0.14), (0.4, 0.08)], trim),
                ([(-0.5, 0.1), (0.46, 0.1), (0.5, 0.13), (0.46, -0.01), (-0.48, -0.01)], hull),
            ]
        case "cone":
            return [
                ([(-0.4, -0.1), (0.4, -0.1), (0.12, 1.0), (-0.12, 1.0)], hull),
                ([(-0.29, 0.4), (0.29, 0.4), (0.22, 0.62), (-0.22, 0.62)], trim),
                ([(-0.04, 1.0), (0.04, 1.0), (0.04, 1.35), (-0.04, 1.35)], dark),
                ([(-0.18, 1.3), (0.18, 1.3), (0.0, 1.6)], hull),
            ]
        case "can":
            return [
                ([(-0.3, -0.1), (0.3, -0.1), (0.3, 0.9), (-0.3, 0.9)], hull),
                ([(-0.3, 0.35), (0.3, 0.35), (0.3, 0.55), (-0.3, 0.55)], trim),
                ([(-0.05, 0.9), (0.05, 0.9), (0.05, 1.3), (-0.05, 1.3)], dark),
            ]
        case _:
            turn = np.linspace(0, 2 * np.pi, 20)
            ball = [(0.42 * float(np.cos(a)), 0.3 + 0.42 * float(np.sin(a))) for a in turn]
            return [(ball, hull), ([(-0.4, 0.22), (0.4, 0.22), (0.4, 0.34), (-0.4, 0.34)], trim)]


def _draw_vessel(
    scene: _Scene,
    pose: _Pose,
    canvas: _Canvas,
    vessel: _Vessel,
    picture: NDArray[np.uint8],
    labels: Labels,
    waterline: _Floats,
) -> None:
    """Paint a vessel and its mirror image, unless it is out of view or behind the shore."""
    scale = canvas.focal / vessel.distance
    reach = 1.3 * vessel.distance / _FOCAL / 2 + vessel.length
    lateral = vessel.start + vessel.speed * pose.time - pose.travel
    lateral = (lateral + reach) % (2 * reach) - reach
    column = (canvas.columns - 1) / 2 + scale * lateral - canvas.focal * pose.yaw
    heave = 0.12 * scene.chop * np.sin(1.6 * pose.time + vessel.phase)
    row = pose.horizon + scale * (scene.eye - heave * min(1.0, vessel.length))
    extent = scale * vessel.length
    left, right = column - extent, column + extent
    if right < 0 or left >= canvas.columns:
        return
    inside = slice(max(0, int(left)), min(canvas.columns, int(right) + 1))
    if waterline[inside].max(initial=0) >= row - 0.5:
        return
    tilt = (0.03 + 0.07 * scene.chop) * np.sin(1.3 * pose.time + 2 * vessel.phase)
    if vessel.kind == "barge":
        tilt *= 0.1
    c, s = np.cos(tilt) * extent, np.sin(tilt) * extent
    facing = -1.0 if vessel.speed < 0 else 1.0
    light = scene.weather.light
    haze = np.clip(vessel.distance / 400, 0, 0.4)
    shapes = []
    for points, color in _outline(vessel):
        p = np.asarray(points) * (facing, 1.0)
        upright = np.stack([column + c * p[:, 0] - s * p[:, 1], row - s * p[:, 0] - c * p[:, 1]], 1)
        shaded = _mix(np.asarray(color, np.float32) * light, scene.weather.haze, float(haze))
        shapes.append((upright, shaded))
    # The mirror image first, torn by the waves in strips that slide sideways.
    low = np.vstack([points for points, _ in shapes])
    x0, x1 = int(low[:, 0].min()) - 6, int(low[:, 0].max()) + 7
    x0, x1 = max(0, x0), min(canvas.columns, x1)
    y0 = max(0, int(row) - 1)
    y1 = min(canvas.rows, int(row + (row - low[:, 1].min()) * 0.9) + 2)
    if x1 > x0 and y1 > y0:
        water = picture[y0:y1, x0:x1]
        mirrored = water.copy()
        for points, color in shapes:
            flipped = np.stack([points[:, 0] - x0, row + 0.9 * (row - points[:, 1]) - y0], 1)
            fixed = np.round(flipped * 16).astype(np.int32)
            cv2.fillPoly(mirrored, [fixed], tuple(0.8 * float(v) for v in color), cv2.LINE_8, 4)
        y = np.arange(y1 - y0, dtype=np.float32)
        ripple = np.sin(y * (40.0 / (y + 14.0)) * 0.9 - 5.0 * pose.time + vessel.phase)
        shift = (0.6 + 0.06 * y) * (0.3 + scene.chop) * ripple
        map_x = np.arange(x1 - x0, dtype=np.float32)[None] + shift[:, None].astype(np.float32)
        map_y = np.repeat(y[:, None], x1 - x0, 1)
        torn = cv2.remap(mirrored, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        weight = (0.75 * scene.clarity * np.exp(-y / (0.8 * extent + 8)))[:, None, None]
        picture[y0:y1, x0:x1] = _mix(water.astype(np.float32), torn.astype(np.float32), weight).astype(
            np.uint8
        )
    for points, color in shapes:
        _fill(picture, labels, [(float(px), float(py)) for px, py in points], color.tolist(), OBSTACLE)


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
    sky = _draw_sky(scene, pose, canvas, last)
    covered = _draw_shore(scene, pose, canvas, sky, lines)
    above = np.clip(sky, 0, 255).astype(np.uint8)
    water = _draw_water(scene, pose, canvas, above, waterline, first)
    picture = np.empty((canvas.rows, canvas.columns, 3), np.uint8)
    picture[:last] = above
    wet = np.zeros((canvas.rows, canvas.columns), bool)
    wet[first:] = np.arange(first, canvas.rows)[:, None] >= waterline
    wet[:last] &= ~covered
    np.copyto(picture[first:], np.clip(water, 0, 255).astype(np.uint8), where=wet[first:, :, None])
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
    noise = _textures()[3]
    step = (frame * 7919 + seed * 104729) % 1024
    tiled = np.take(np.take(noise, np.arange(step, step + size[0]) % 1024, 0), np.arange(size[1]) % 1024, 1)
    image = cv2.addWeighted(image, 1.0, tiled, 1.0, -16.0)
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
