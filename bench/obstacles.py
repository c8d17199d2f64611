"""python bench/obstacles.py: an exact test set for obstacles, rendered vessels on real water.

Swans, swimmers, kayaks, logs, buoys and boats of the scene renderer, which no training has seen, are drawn on
the water of real frames, with their images in it. Their masks are exact; what a model takes for water is
called so, and everything else is ignored. The result is a data set of the layout of MaSTr1325:

    python bench/obstacles.py --model marine-lite --frames intcatch/val/images --out pasted
    python -m il2vseg.evaluate --model MODEL --dataset mastr1325 --root pasted --by-name --obstacles
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

import il2vseg
from il2vseg.base.command import Settings, flag, parse
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.files import IMAGE_SUFFIXES, list_files, require_writable_dir
from il2vseg.base.images import Frame, Labels, read_frame, write_image
from il2vseg.data.synthetic import OBSTACLE, WATER
from il2vseg.data.synthetic.outlines import outline
from il2vseg.data.synthetic.scene import Vessel
from il2vseg.data.synthetic.small import KINDS, colours_of
from il2vseg.evaluation.metrics import IGNORE
from il2vseg.learning.paste import Cutout
from il2vseg.learning.paste.compose import Pasting, place
from il2vseg.runtime.model import Model

PROGRAM = "bench/obstacles.py"
FINE = 4
"""Vessels are drawn so many times as large and then shrunk: smooth edges."""


@dataclass
class ObstacleSetConfig(Settings):
    """Draw rendered vessels on the water of real frames, with exact masks."""

    frames: Path = flag(Path("frames"), "folder of images", metavar="DIR")
    model: str = flag("marine-lite", "tells where the water is: a bundled name or an export", metavar="NAME")
    out: Path = flag(Path("runs/obstacles"), "data set to write, split val", metavar="DIR")
    copies: int = flag(2, "pictures of every frame", low=1, high=100, metavar="N")
    seed: int = flag(0, "of what is drawn where", low=0, high=1 << 31, metavar="S")


def some_vessel(rng: np.random.Generator) -> Vessel:
    """Draw its kind and its colours."""
    kind = list(KINDS)[int(rng.integers(len(KINDS)))]
    pairs = colours_of(kind)
    hull, trim = pairs[int(rng.integers(len(pairs)))]
    return Vessel(kind, 1.0, 0.0, 0.0, 1.0, hull, trim, 0.0)


def light_of(frame: Frame) -> float:
    """How bright what is drawn into a frame should be, relative to full daylight."""
    return float(np.percentile(frame, 97)) / 245


def clear_water(model: Model, frame: Frame) -> np.ndarray:
    """Pixels (H, W) that a model takes for water, without the rim, where it may be wrong."""
    water = model(frame).labels == model.names.index("water")
    return cv2.erode(water.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0


def picture(vessel: Vessel, width: float, light: float) -> Cutout:
    """Draw a vessel so many pixels long in some light, without anything around it."""
    shapes = outline(vessel)
    points = np.vstack([np.asarray(p) for p, _ in shapes])
    left, right, top = points[:, 0].min(), points[:, 0].max(), points[:, 1].max()
    scale = width / (right - left) * FINE
    size = (max(FINE, int(np.ceil(top * scale))), max(FINE, int(np.ceil(width * FINE))))
    image, mask = np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8)
    for polygon, colour in shapes:
        p = np.asarray(polygon)
        placed = np.stack([(p[:, 0] - left) * scale, size[0] - p[:, 1] * scale], 1)
        fixed = np.round(placed * 16).astype(np.int32)
        cv2.fillPoly(image, [fixed], colour, cv2.LINE_8, 4)
        cv2.fillPoly(mask, [fixed], 255, cv2.LINE_8, 4)
    shape = (max(2, round(size[1] / FINE)), max(2, round(size[0] / FINE)))
    small = [cv2.resize(x, shape, interpolation=cv2.INTER_AREA) for x in (image, mask)]
    # Averaging darkened the rim by what lies outside.
    share = small[1].astype(np.float32)[..., None].clip(1, None) / 255
    colours = (small[0] / share).clip(0, 255).astype(np.uint8)
    return Cutout((colours * light).clip(0, 255).astype(np.uint8), np.asarray(small[1], dtype=np.uint8))


def draw(rng: np.random.Generator, frame: Frame, water: np.ndarray) -> tuple[Frame, Labels]:
    """Draw two to five vessels on a frame.

    Args:
        water: pixels (H, W) that are water.
    Returns:
        the picture and its mask, 255 where nobody knows.
    """
    height, width = water.shape
    out = frame.copy()
    truth = np.where(water, WATER, IGNORE).astype(np.uint8)
    solid, weight = np.zeros_like(truth), np.ones(truth.shape, np.float32)
    feet = np.argwhere(water & (np.arange(height)[:, None] < 0.96 * height))
    edge = int(feet[:, 0].min())
    light = light_of(frame)
    for y, x in sorted(feet[rng.integers(len(feet), size=int(rng.integers(2, 6)))].tolist()):
        vessel = some_vessel(rng)
        depth = (y - edge) / (height - edge)
        length = float(np.exp(rng.uniform(np.log(0.012), np.log(0.05 + 0.2 * depth)))) * width
        thing = picture(vessel, length * min(1.0, 0.4 + KINDS[vessel.kind][1] / 5), light)
        place(rng, out, solid, weight, water.astype(np.float32), thing, (y, x), Pasting())
    truth[solid > 127] = OBSTACLE
    truth[(solid > 0) & (solid <= 127)] = IGNORE
    return out, truth


def run(config: ObstacleSetConfig) -> None:
    """Write the data set."""
    files = list_files(config.frames, IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"{config.frames}: holds no image")
    model = il2vseg.load(config.model)
    if "water" not in model.names:
        raise UserError(f"{config.model}: no class is called water")
    images, masks = (require_writable_dir(config.out / "val" / n) for n in ("images", "masks"))
    written = 0
    for number, file in enumerate(files):
        frame = read_frame(file)
        sure = clear_water(model, frame)
        if sure.mean() < 0.05:
            continue
        for copy in range(config.copies):
            rng = np.random.default_rng((config.seed, number, copy))
            made, truth = draw(rng, frame, sure)
            write_image(images / f"{file.stem}_{copy}.jpg", made)
            write_image(masks / f"{file.stem}_{copy}m.png", truth)
            written += 1
    print(f"{config.out}: {written} pictures")


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return run_command(lambda: run(parse(ObstacleSetConfig, PROGRAM, argv)), PROGRAM)


if __name__ == "__main__":
    raise SystemExit(main())
