"""Pieces over time: which of them the runtime would take for obstacles, because they stay where they are."""

from collections.abc import Sequence

import numpy as np

from il2vseg.evaluation.obstacles import Piece
from il2vseg.runtime.marine.scene import Obstacle, Scene
from il2vseg.runtime.marine.tracks import Tracker


class Follower:
    """Follows pieces from frame to frame as the runtime follows obstacles.

    follow = Follower()
    numbers = follow(pieces, labels.shape, seconds)
    """

    def __init__(self) -> None:
        self._tracker, self._last = Tracker(), -np.inf

    def __call__(self, pieces: Sequence[Piece], size: tuple[int, int], seconds: float) -> list[int | None]:
        """Return the number of each piece's track, None for what is not confirmed.

        Args:
            size: height and width of the frame. seconds: its time; one that does not grow begins a new clip.
        """
        if seconds <= self._last:
            self._tracker = Tracker()
        self._last = seconds
        obstacles = tuple(Obstacle(p.box, p.foot) for p in pieces)
        scene = Scene(size, np.full(size[1], np.nan, np.float32), None, obstacles)
        return [o.track for o in self._tracker(scene, seconds).obstacles]
