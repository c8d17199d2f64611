"""Lens undistortion, rotation and crop, in this order."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame
from il2vseg.runtime.sources.base import Captured, Source

_ROTATIONS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


@dataclass(frozen=True)
class Geometry:
    """What to do to every frame.

    Attributes:
        calibration: OpenCV YAML, XML or JSON file with camera_matrix and distortion_coefficients, and
            image_width and image_height where the frames may have another size.
        rotate: degrees clockwise. crop: x, y, width, height in pixels of the rotated frame.
    """

    calibration: Path | None = None
    rotate: Literal[0, 90, 180, 270] = 0
    crop: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Lens:
    """A pinhole camera with distortion; size is (width, height) of its calibration, None if not given."""

    matrix: NDArray[np.float64]
    distortion: NDArray[np.float64]
    size: tuple[int, int] | None

    @classmethod
    def load(cls, path: Path) -> "Lens":
        """Read what OpenCV's calibration tools write.

        Raises:
            UserError: there is no such file, or it is not a calibration.
        """
        if not path.is_file():
            raise UserError(f"{path}: no such calibration file")
        try:
            storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
            matrix = storage.getNode("camera_matrix").mat()
            distortion = storage.getNode("distortion_coefficients").mat()
            width, height = (int(storage.getNode(f"image_{n}").real()) for n in ("width", "height"))
            storage.release()
        except (cv2.error, SystemError) as error:
            raise UserError(
                f"{path}: not a calibration file of OpenCV ({str(error).split(chr(10))[0]})"
            ) from None
        if matrix is None or distortion is None or matrix.shape != (3, 3):
            raise UserError(f"{path}: camera_matrix (3x3) and distortion_coefficients are needed")
        return cls(
            matrix.astype(float),
            distortion.astype(float),
            (width, height) if width > 0 and height > 0 else None,
        )

    def maps(self, size: tuple[int, int]) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
        """Return the maps that straighten a frame of `size` (width, height)."""
        matrix = self.matrix.copy()
        if self.size is not None:
            matrix[0] *= size[0] / self.size[0]
            matrix[1] *= size[1] / self.size[1]
        first, second = cv2.initUndistortRectifyMap(
            matrix, self.distortion, np.eye(3), matrix, size, cv2.CV_16SC2
        )
        return np.asarray(first, dtype=np.int16), np.asarray(second, dtype=np.uint16)


class Transform:
    """A `Geometry` as a function of frames."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._lens = Lens.load(geometry.calibration) if geometry.calibration else None
        self._maps: tuple[tuple[int, int], tuple[NDArray[np.int16], NDArray[np.uint16]]] | None = None

    def __call__(self, frame: Frame) -> Frame:
        """Map a frame (H, W, 3) to the straightened, rotated and cropped one.

        Raises:
            UserError: the crop does not lie inside the frame.
        """
        if self._lens is not None:
            size = (frame.shape[1], frame.shape[0])
            if self._maps is None or self._maps[0] != size:
                self._maps = (size, self._lens.maps(size))
            frame = np.asarray(cv2.remap(frame, *self._maps[1], cv2.INTER_LINEAR), dtype=np.uint8)
        if self._geometry.rotate:
            frame = np.asarray(cv2.rotate(frame, _ROTATIONS[self._geometry.rotate]), dtype=np.uint8)
        if self._geometry.crop is not None:
            x, y, width, height = self._geometry.crop
            rows, columns = frame.shape[:2]
            if x < 0 or y < 0 or width < 1 or height < 1 or x + width > columns or y + height > rows:
                raise UserError(
                    f"--crop {x} {y} {width} {height} (x y width height) does not lie inside the frame of "
                    f"{columns}x{rows}"
                )
            frame = np.ascontiguousarray(frame[y : y + height, x : x + width])
        return frame


class Transformed(Source):
    """A source whose frames went through a `Geometry`."""

    def __init__(self, source: Source, geometry: Geometry) -> None:
        self._source = source
        self._transform = Transform(geometry)
        self.live, self.fps, self.total = source.live, source.fps, source.total

    @property
    def skipped(self) -> int:  # type: ignore[override]
        """Frames that could not be decoded so far."""
        return self._source.skipped

    @property
    def damaged(self) -> int:  # type: ignore[override]
        """Frames so far of which parts are guessed."""
        return self._source.damaged

    def read(self) -> Captured | None:
        captured = self._source.read()
        return captured and replace(captured, frame=self._transform(captured.frame))

    def interrupt(self) -> None:
        self._source.interrupt()

    def close(self) -> None:
        self._source.close()
