"""python docs/make_overlay.py: the picture of the README, by the bundled model on a rendered scene."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import il2vseg

SOURCE, SIZE, STEP = "synthetic:seed=5,frames=60,size=360x640", (512, 288), 3


def main() -> None:
    """Write docs/overlay.webp: the frame on the left of a moving line, the classes over it on the right."""
    model = il2vseg.load("marine-lite")
    shown = []
    for i, result in enumerate(il2vseg.stream(SOURCE, model)):
        if i % STEP:
            continue
        left = cv2.resize(result.frame, SIZE, interpolation=cv2.INTER_AREA)
        picture = cv2.resize(result.draw(legend=False), SIZE, interpolation=cv2.INTER_AREA)
        edge = round(SIZE[0] * (0.5 - 0.35 * np.cos(2 * np.pi * i / 60)))
        picture[:, :edge] = left[:, :edge]
        picture[:, edge : edge + 2] = 255
        shown.append(Image.fromarray(picture[..., ::-1]))
    path = Path(__file__).with_name("overlay.webp")
    shown[0].save(path, save_all=True, append_images=shown[1:], duration=100, loop=0, quality=55, method=6)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
