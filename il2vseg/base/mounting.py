"""How a camera is mounted: the flags of the commands that tell ranges."""

from typing import Any

from il2vseg.base.command import MAX_COUNT, flag
from il2vseg.base.errors import UserError


def camera_height_flag() -> Any:
    """`--camera-height METRES`."""
    help = "height of the camera above the water, for ranges"
    return flag(None, help, low=0.05, high=9000, metavar="METRES")


def fov_flag(use: str) -> Any:
    """`--fov DEGREES`; `use` says what the command needs it for."""
    help = f"horizontal field of view in degrees, for {use}"
    return flag(None, help, low=1, high=170, metavar="DEGREES")


def pitch_flag() -> Any:
    """`--pitch DEGREES`."""
    help = "angle of the camera above the horizontal, for ranges where no horizon is seen"
    return flag(None, help, above=-90, below=90, metavar="DEGREES")


def danger_zone_flag(help: str) -> Any:
    """`--danger-zone METRES`; `help` says what happens in it."""
    return flag(None, help, low=0.1, high=MAX_COUNT, metavar="METRES")


def check_mounting(camera_height: float | None, fov: float | None, danger_zone: float | None) -> None:
    """Refuse half a mounting, or a danger zone without one.

    Raises:
        UserError: it is so.
    """
    if (camera_height is None) != (fov is None):
        raise UserError("--camera-height and --fov are needed together")
    if danger_zone is not None and fov is None:
        raise UserError("--danger-zone needs --camera-height and --fov")
