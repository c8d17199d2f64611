"""Boats and buoys with their mirror images."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Labels
from il2vseg.data.synthetic.camera import FOCAL, Canvas, Pose
from il2vseg.data.synthetic.outlines import outline
from il2vseg.data.synthetic.scene import Scene, Vessel
from il2vseg.data.synthetic.shapes import fill
from il2vseg.data.synthetic.types import OBSTACLE, Floats, Picture, mix


def draw_vessel(
    scene: Scene,
    pose: Pose,
    canvas: Canvas,
    vessel: Vessel,
    picture: Picture,
    labels: Labels,
    waterline: Floats,
) -> None:
    """Paint a vessel and its mirror image, unless it is out of view or behind the shore."""
    scale = canvas.focal / vessel.distance
    extent = scale * vessel.length
    # Whoever leaves on one side comes back on the other, well out of view.
    reach = 0.8 * vessel.distance / FOCAL + vessel.length
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
    for points, color in outline(vessel):
        px, py = (np.asarray(points) * (facing, 1.0)).T
        placed = np.stack([column + c * px - s * py, row - s * px - c * py], 1)
        shapes.append((placed, mix(np.asarray(color) * scene.weather.light, scene.weather.haze, haze)))
    draw_reflection(scene, pose, shapes, row, vessel.phase, extent, picture)
    for placed, shaded in shapes:
        fill(picture, labels, placed, shaded, OBSTACLE)


def draw_reflection(
    scene: Scene,
    pose: Pose,
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
