"""One frame of a scene, and clips of it."""

from pathlib import Path

import cv2
import numpy as np

from il2vseg.base.errors import UserError
from il2vseg.base.files import atomic_path
from il2vseg.base.images import Frame, Labels
from il2vseg.data.synthetic.camera import FPS, Canvas, Pose, canvas_of, pose_of, roll_matrix
from il2vseg.data.synthetic.effects import Effects, bow_wave, glitter, spray, veil
from il2vseg.data.synthetic.land import draw_shore, draw_sky, shore_lines
from il2vseg.data.synthetic.scene import Scene, scene_of
from il2vseg.data.synthetic.small import obstacle_scene
from il2vseg.data.synthetic.textures import NOISE_SHIFTS, noise
from il2vseg.data.synthetic.types import OBSTACLE, SKY, WATER, Floats, Picture
from il2vseg.data.synthetic.vessels import draw_vessel
from il2vseg.data.synthetic.water import draw_water


def render(seed: int, frame: int, size: tuple[int, int] = (360, 640)) -> tuple[Frame, Labels]:
    """Render one frame of a scene.

    Args:
        seed: the scene: weather, shore, vessels, camera.
        frame: frame number; FPS frames are a second.
        size: (height, width) in pixels, each at least 16.
    Returns:
        the frame, BGR (H, W, 3) uint8, and its exact mask (H, W) uint8: 0 obstacle, 1 water, 2 sky.
    """
    return draw(scene_of(seed), None, seed, frame, size)


def render_obstacles(seed: int, frame: int, size: tuple[int, int] = (360, 640)) -> tuple[Frame, Labels]:
    """Render a scene with swans, swimmers, kayaks, logs and buoys in difficult light: see `render`."""
    scene, effects = obstacle_scene(seed)
    return draw(scene, effects, seed, frame, size)


def draw(
    scene: Scene, effects: Effects | None, seed: int, frame: int, size: tuple[int, int]
) -> tuple[Frame, Labels]:
    """Draw a frame of a scene and its mask: see `render`.

    Args:
        effects: what lies over the scene. seed: of the sensor's noise and of the effects' details.
    """
    canvas = canvas_of(size)
    pose = pose_of(scene, frame, canvas)
    lines = shore_lines(scene, pose, canvas)
    waterline = lines[3]
    picture, labels = _backdrop(scene, pose, canvas, lines)
    empty = labels.copy()
    if effects is not None:
        glitter(effects, pose, canvas, picture, labels, seed)
    for vessel in scene.vessels:
        if effects is not None:
            bow_wave(effects, scene, pose, canvas, vessel, picture, labels)
        draw_vessel(scene, pose, canvas, vessel, picture, labels, waterline)
    if effects is not None:
        picture = veil(effects, scene, pose, canvas, picture, labels != empty, waterline, seed)
    matrix = roll_matrix(pose, canvas)
    out = (canvas.width, canvas.height)
    flags = cv2.WARP_INVERSE_MAP
    image = cv2.warpAffine(
        picture, matrix, out, flags=flags | cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    mask = cv2.warpAffine(
        labels, matrix, out, flags=flags | cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
    )
    if effects is not None:
        image = spray(effects, np.asarray(image, dtype=np.uint8), seed, frame)
    shift = (37 * frame + seed) % NOISE_SHIFTS
    image = cv2.addWeighted(image, 1.0, noise(size)[shift : shift + size[0]], 1.0, -16.0)
    return np.asarray(image, dtype=np.uint8), np.asarray(mask, dtype=np.uint8)


def _backdrop(
    scene: Scene, pose: Pose, canvas: Canvas, lines: tuple[Floats, Floats, Floats, Floats]
) -> tuple[Picture, Labels]:
    """Sky, shore and water on the canvas, and their classes."""
    waterline = lines[3]
    first, last = int(pose.horizon), min(canvas.rows, int(np.ceil(waterline.max())) + 1)
    above = draw_sky(scene, pose, canvas, last)
    covered = draw_shore(scene, pose, canvas, above, lines)
    water = draw_water(scene, pose, canvas, above, waterline, first)
    picture = np.empty((canvas.rows, canvas.columns, 3), np.uint8)
    picture[:last] = above
    wet = np.zeros((canvas.rows, canvas.columns), bool)
    wet[first:] = np.arange(first, canvas.rows)[:, None] >= waterline
    wet[:last] &= ~covered
    cv2.copyTo(water, wet[first:].view(np.uint8), picture[first:])
    labels = np.where(wet, np.uint8(WATER), np.uint8(SKY))
    labels[:last][covered] = OBSTACLE
    return picture, labels


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
