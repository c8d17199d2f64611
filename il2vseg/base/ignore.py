"""The part of every frame that shows the own vessel (`--ignore-mask`): left out of training and scores.

own = IgnoreMask.parse("deck.png")                       # a picture of the camera's size: white is left out
own = IgnoreMask.parse("0.2,1 0.35,0.7 0.65,0.7 0.8,1")  # corners as shares of width and height
labels[own.pixels(labels.shape)] = IGNORED
"""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.base.images import read_frame

IGNORED = 255
"""Class id of pixels that are left out."""

_SIDE = 2048
"""Pixels of the square in which polygons are drawn, before it is fitted to a frame."""

_WHITE = 128
_SHAPE = 0.02
"""Largest difference of the aspects of a picture and a frame, relative to it."""


@dataclass(frozen=True)
class IgnoreMask:
    """An area of every frame, of any size.

    Attributes:
        name: for messages. picture: 255 where frames are left out, else 0, (h, w).
        aspect: width by height that frames must have; None takes any.
    """

    name: str
    picture: NDArray[np.uint8]
    aspect: float | None = None
    _fitted: dict[tuple[int, int], NDArray[np.bool_]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> "IgnoreMask":
        """Read a picture's file, or the corners of polygons.

        Raises:
            UserError: it is neither, or leaves out nothing or everything.
        """
        if Path(text).is_file():
            grey = cv2.cvtColor(read_frame(Path(text)), cv2.COLOR_BGR2GRAY)
            seen = _opaque(Path(text), grey.shape)
            picture = np.where((grey >= _WHITE) & seen, 255, 0).astype(np.uint8)
            mask = cls(text, picture, picture.shape[1] / picture.shape[0])
        else:
            mask = cls(f"'{text}'", _drawn(text))
        if not mask.picture.any():
            raise UserError(f"--ignore-mask {mask.name}: leaves nothing out; white is left out")
        if mask.picture.all():
            raise UserError(f"--ignore-mask {mask.name}: leaves the whole frame out; only white is left out")
        return mask

    def pixels(self, size: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return which pixels of a frame are left out, (H, W). Not to be written to.

        Args:
            size: (H, W, …) of the frame.
        Raises:
            UserError: the frame has another shape than the picture.
        """
        height, width = size[:2]
        if (height, width) not in self._fitted:
            if self.aspect is not None and abs(width / height / self.aspect - 1) > _SHAPE:
                h, w = self.picture.shape
                raise UserError(
                    f"--ignore-mask {self.name} has {w}x{h} pixels, a frame {width}x{height}: draw it on a "
                    "frame of this camera, turned and cropped as it will be"
                )
            fitted = cv2.resize(self.picture, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
            self._fitted.clear()
            self._fitted[height, width] = fitted > 0
        return self._fitted[height, width]

    @classmethod
    def of(cls, text: str | None) -> "IgnoreMask | None":
        """Read the value of a flag; None stands for no mask. See `parse`."""
        return None if text is None else cls.parse(text)

    def cells(self, grid: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which cells of a grid (h, w) are left out by half or more."""
        share = cv2.resize(self.picture, (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
        return np.asarray(share >= _WHITE)


def _opaque(path: Path, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which pixels (H, W) of a picture one can see: below transparent ones any colour may be stored."""
    whole = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if whole is None or whole.ndim != 3 or whole.shape[2] != 4 or whole.shape[:2] != size:
        return np.ones(size, np.bool_)
    return np.asarray(whole[..., 3] > 0)


def _drawn(text: str) -> NDArray[np.uint8]:
    """Draw polygons, given as corners, into a square."""
    picture = np.zeros((_SIDE, _SIDE), np.uint8)
    for polygon in filter(str.strip, text.split(";")):
        try:
            corners = np.array([[float(v) for v in corner.split(",")] for corner in polygon.split()])
        except ValueError:
            corners = np.empty((0, 0))
        if corners.ndim != 2 or corners.shape[1:] != (2,) or len(corners) < 3:
            raise UserError(
                f"--ignore-mask '{text}': no such picture, and no polygon of three or more corners x,y"
            )
        if not ((corners >= 0) & (corners <= 1)).all():
            raise UserError(
                f"--ignore-mask '{text}': corners are shares of width and height, between 0 and 1"
            )
        cv2.fillPoly(picture, [(corners * (_SIDE - 1)).round().astype(np.int32)], 255)
    return picture
