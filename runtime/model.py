"""A model: pictures in, results out."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame, Labels, read_frame
from il2vseg.base.outputs import frame_names, key_of
from il2vseg.runtime.engine import Engine
from il2vseg.runtime.marine.scene import Classes, MarineAnalyser, Scene
from il2vseg.runtime.result import Result

Picture = str | Path | NDArray[np.uint8]
"""The path of an image, or a BGR array (H, W, 3) of uint8 as OpenCV reads it."""


def _distinct(results: list[Result]) -> list[Result]:
    """Give results of one call names of their own, or a sink would write one over the other."""
    files = [result.file.absolute() for result in results if result.file is not None]
    root = Path(os.path.commonpath([file.parent for file in files])) if files else Path()
    of_files = iter(frame_names(files, root))
    names = [result.name if result.file is None else next(of_files) for result in results]
    seen = Counter(map(key_of, names[::-1]))
    for number in reversed(range(len(names))):
        key = key_of(names[number])
        seen[key] -= 1
        names[number] += f"~{number}" if seen[key] else ""
    return [result.named(name) for result, name in zip(results, names, strict=True)]


class Model:
    """An engine, and the marine layer where the classes include water and obstacle.

    model = il2vseg.load("marine-lite")
    result = model("river.jpg")

    Attributes:
        engine: runs the graph. analyse: class ids (H, W) -> marine scene; None where there is none.
    """

    def __init__(self, engine: Engine, analyse: Callable[[Labels], Scene] | None = None) -> None:
        """Take an engine.

        Args:
            analyse: None for a marine layer without a camera: water's edge and obstacles, but no ranges.
        """
        self.engine = engine
        classes = Classes.of(engine.manifest.class_names)
        self.analyse = analyse or (None if classes is None else MarineAnalyser(classes))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their ids."""
        return self.engine.manifest.class_names

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) that frames are resized to; the labels have the frame's own size again."""
        return self.engine.manifest.size

    @property
    def provider(self) -> str:
        """What runs the model: cpu, openvino, cuda, tensorrt or torch."""
        return self.engine.provider

    @overload
    def __call__(self, frames: Picture) -> Result: ...  # type: ignore[overload-overlap]  # a str is an Iterable[str]

    @overload
    def __call__(self, frames: Iterable[Picture]) -> list[Result]: ...

    def __call__(self, frames: Picture | Iterable[Picture]) -> Result | list[Result]:
        """Segment a picture, or several.

        Raises:
            UserError: an image cannot be read, or an array is no BGR picture.
        """
        if isinstance(frames, (str, Path)):
            result = self.segment(read_frame(frames), Path(frames).stem)
            return replace(result, file=Path(frames))
        if isinstance(frames, np.ndarray) and frames.ndim <= 3:
            return self.segment(frames, "frame")
        return _distinct([self(frame) for frame in frames])

    def segment(self, frame: Frame, name: str = "frame") -> Result:
        """Segment a BGR frame (H, W, 3) of uint8, to be called `name`.

        Raises:
            UserError: it is something else.
        """
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
            raise UserError(f"a BGR picture (H, W, 3) of uint8 is needed, not {frame.dtype} {frame.shape}")
        result = self.engine(frame)
        scene = None if self.analyse is None else self.analyse(result.labels)
        captured = replace(result.captured, name=name)
        return replace(result, captured=captured, scene=scene)

    def close(self) -> None:
        """Release what the engine holds."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.size
        name = self.engine.manifest.name
        return f"Model({name}, {width}x{height} on {self.provider}: {', '.join(self.names)})"
