"""Decoded pictures as BGR frames: depth, colour range and orientation."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Frame, eight_bits

_DEEP_GREY = ("gray16le", "gray16be")
_DEEP_COLOUR = ("rgb48le", "rgb48be", "bgr48le", "bgr48be")


class ToFrame:
    """Turns PyAV's video frames into BGR (H, W, 3) uint8, as they are to be seen.

    Colour matrix and range are the frame's own, its display matrix turns and mirrors it. Of formats with
    16 bits the used ones are found out, and never become fewer within a clip.
    """

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._bits = 8
        self._turn: tuple[int, NDArray[np.int32] | None] | None = None  # degrees, and the whole matrix

    def __call__(self, picture: Any) -> Frame:
        """Convert a frame.

        Raises:
            ValueError or another error of PyAV: there is no conversion.
        """
        name = picture.format.name
        if name in _DEEP_GREY or name in _DEEP_COLOUR:
            deep = picture.to_ndarray(format="gray16le" if name in _DEEP_GREY else "bgr48le")
            frame, self._bits = eight_bits(np.asarray(deep, np.uint16), self._bits)
            if frame.ndim == 2:
                frame = np.asarray(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR), np.uint8)
        else:
            # One thread: handing a frame to several takes longer than converting it.
            plain = self._reformatter.reformat(picture, format="bgr24", threads=1)
            frame = np.ascontiguousarray(plain.to_ndarray())
        matrix = self._matrix(picture)
        return frame if matrix is None else oriented(frame, matrix)

    def _matrix(self, picture: Any) -> NDArray[np.int32] | None:
        """The display matrix, looked at again where the angle changes.

        Side data and their frame refer to each other: each look keeps one until the garbage collector comes.
        """
        if self._turn is None or self._turn[0] != picture.rotation:
            data = picture.side_data.get("DISPLAYMATRIX")
            matrix = None if data is None else np.frombuffer(bytes(data), "<i4", 9)
            self._turn = picture.rotation, matrix
        return self._turn[1]


def oriented(frame: Frame, matrix: NDArray[np.int32]) -> Frame:
    """Turn and mirror a frame as its display matrix (9 values, row by row) says, by right angles."""
    a, b, c, d = (int(np.sign(round(int(matrix[i]) / 65536))) for i in (0, 1, 3, 4))
    if (a, b, c, d) == (1, 0, 0, 1) or abs(a * d - b * c) != 1:
        return frame  # as it is, or turned by some other angle
    if a == 0:  # x and y are exchanged
        frame = np.asarray(cv2.transpose(frame), np.uint8)
        a, d = c, b
    axes = {(-1, 1): 1, (1, -1): 0, (-1, -1): -1}
    return np.asarray(cv2.flip(frame, axes[a, d]), np.uint8) if (a, d) in axes else frame
