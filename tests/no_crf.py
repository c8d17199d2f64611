"""A CRF that takes no time and needs no package: the labels of the best scores."""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import pytest

from il2vseg.evaluation import crf


class NoCrf:
    """In the place of `CrfPool`; counts the frames that it was given."""

    frames = 0

    def __enter__(self) -> "NoCrf":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def refine(self, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
        for frame, scores in pairs:
            NoCrf.frames += 1
            yield cv2.resize(scores.argmax(0).astype(np.uint8), frame.shape[1::-1], interpolation=0)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every evaluation use it."""
    NoCrf.frames = 0
    monkeypatch.setattr(crf, "find_spec", lambda name: name)
    monkeypatch.setattr(crf, "CrfPool", NoCrf)
