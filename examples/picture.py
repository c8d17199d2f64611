"""Segment one picture with a bundled model: python examples/picture.py [PICTURE] [OVERLAY]."""

import sys

import il2vseg
from il2vseg.data.synthetic import render


def main(picture: str | None = None, overlay: str = "overlay.png") -> il2vseg.Result:
    """Say what is in a picture, of a rendered river unless told otherwise, and draw it."""
    model = il2vseg.load("marine-lite")
    result = model(render(3, 0, (360, 640))[0] if picture is None else picture)
    print(result)
    for obstacle in result.obstacles:
        print("obstacle: left, top, width, height =", obstacle.box)
    print("drawn to", result.save(overlay))
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
