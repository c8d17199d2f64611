"""Sky and shore."""

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.data.synthetic.camera import PARALLAX, Canvas, Pose
from il2vseg.data.synthetic.scene import House, Scene
from il2vseg.data.synthetic.shapes import box, fill
from il2vseg.data.synthetic.textures import sample, textures
from il2vseg.data.synthetic.types import Floats, Picture, mix


def _profile(values: Floats, angle: Floats, repeat: float = 1.0) -> Floats:
    """Sample a periodic profile at angles (radians); it closes after 2π / repeat."""
    position = angle * (repeat * len(values) / (2 * np.pi))
    looked_up = np.interp(position, np.arange(len(values)), values, period=len(values))
    return np.asarray(looked_up, dtype=np.float32)


def shore_lines(scene: Scene, pose: Pose, canvas: Canvas) -> tuple[Floats, Floats, Floats, Floats]:
    """Return, for every column, the rows of hill top, tree top, beach top and waterline."""
    x = np.arange(canvas.columns, dtype=np.float32) - (canvas.columns - 1) / 2
    bearing = np.arctan(x / canvas.focal) + pose.yaw
    angle = bearing + pose.travel / PARALLAX
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


def draw_sky(scene: Scene, pose: Pose, canvas: Canvas, rows: int) -> Picture:
    """Paint gradient, clouds and sun. It is all soft, so half the resolution is enough."""
    w = scene.weather
    half_rows, half_columns = (rows + 1) // 2, (canvas.columns + 1) // 2
    above = np.maximum(pose.horizon - 2 * np.arange(half_rows, dtype=np.float32), 1.0)
    x = 2 * np.arange(half_columns, dtype=np.float32) - (canvas.columns - 1) / 2 + canvas.focal * pose.yaw
    height = np.clip(above / (0.5 * canvas.height), 0, 1) ** 0.7
    gradient = mix(w.haze, w.zenith, height[:, None])
    # Clouds lie on a plane high above: they crowd together towards the horizon and drift with the wind.
    depth = 60.0 / (above + 0.05 * canvas.height)
    map_x = np.outer(depth * np.float32(360 / canvas.focal), x).astype(np.float32) + (
        3.0 * pose.time + scene.offset
    )
    map_y = np.repeat((depth * 260 + 1.2 * pose.time)[:, None], half_columns, 1)
    density = sample(textures().clouds, map_x, map_y)
    clear = np.clip(above / (0.12 * canvas.height), 0, 1)
    density = np.clip((density + w.cover) * 0.55, 0, 1) * clear[:, None]
    sky = mix(gradient[:, None], w.cloud, density[..., None])
    if w.sun > 0:
        dx = (x - canvas.focal * scene.sun[0]) / canvas.focal
        dy = (above - canvas.focal * scene.sun[1]) / canvas.focal
        for radius, strength in ((0.22, 45.0), (0.035, 120.0)):
            glow = np.outer(np.exp(-((dy / radius) ** 2)), np.exp(-((dx / radius) ** 2)) * strength * w.sun)
            sky += glow[..., None] * np.array((0.75, 0.92, 1.0), np.float32)
    doubled = cv2.resize(cv2.convertScaleAbs(sky), (2 * half_columns, 2 * half_rows))
    return np.ascontiguousarray(doubled[:rows, : canvas.columns], dtype=np.uint8)


def draw_shore(
    scene: Scene, pose: Pose, canvas: Canvas, picture: Picture, lines: tuple[Floats, ...]
) -> NDArray[np.bool_]:
    """Paint hills, beach, trees and houses into `picture`; return which pixels they cover."""
    hills, trees, beach, waterline = lines
    w = scene.weather
    first = max(0, int(min(hills.min(), trees.min())) - 1)
    rows = np.arange(first, len(picture), dtype=np.float32)[:, None]
    x = np.arange(canvas.columns, dtype=np.float32) - (canvas.columns - 1) / 2
    angle = np.arctan(x / canvas.focal) + pose.yaw + pose.travel / PARALLAX
    scale = np.maximum(waterline - pose.horizon, 0.5) / scene.eye
    map_x = np.repeat((angle * 652).astype(np.float32)[None], len(rows), 0)
    leaves = sample(textures().leaves, map_x, ((waterline - rows) * (9.0 / scale)).astype(np.float32))
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
    scene: Scene,
    pose: Pose,
    canvas: Canvas,
    house: House,
    picture: Picture,
    mask: NDArray[np.uint8],
    beach: Floats,
    waterline: Floats,
) -> None:
    turn = (house.bearing - pose.yaw - pose.travel / PARALLAX + np.pi) % (2 * np.pi) - np.pi
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
        pane = box(offset * half, eaves + 0.45 * house.height * size, 0.5 * size, 0.7 * size)
        shapes.append((pane, (70.0, 60.0, 55.0)))
    for points, color in shapes:
        fill(picture, mask, np.add(points, (column, 0)), np.asarray(color) * light, 1)
