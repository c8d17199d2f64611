"""Obstacles over time: one number from frame to frame, how fast they close in, and when they are nearest.

Every obstacle is followed twice by a Kalman filter of constant velocity: its foot in the picture, which tells
who is who, and, where ranges are known, its place on the water relative to the boat. Both are linear in these
coordinates; a measured bearing and range become a place with the covariance that follows from their errors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from il2vseg.runtime.marine.alarm import Alarm
from il2vseg.runtime.marine.scene import Obstacle, Scene
from il2vseg.runtime.sources.base import Report

CONFIRM_S = 0.5
"""Seconds in which what is seen all along gets its number. In a track's presence they count as much as all
the time before them."""

CONFIRM_SHARE = 0.5
"""Presence from which an obstacle has a number: it has lately been seen at least half of the time."""

CONFIRM_HITS = 3
"""Frames in which it must have been seen, however slowly they come."""

INSIDE_S = 0.2
"""Seconds that an obstacle must be seen in the danger zone alone, or its range may just have flickered."""

FORGET_S = 1.5
"""Seconds without being seen after which a track ends."""

SETTLED_S = 1.0
"""Seconds that a place must be followed before its velocity is worth telling."""

COURSE_S = 60.0
"""Seconds; a nearest approach later than this is not reported."""

GATE = 3.5
"""Deviations that a foot may lie from where it was expected."""

_FOOT_NOISE = 0.008  # of the frame's width: the foot of a piece flickers by a few pixels
_FOOT_ACCELERATION = 0.15  # widths per second squared: the boat rolls
_ACCELERATION = 0.5  # metres per second squared, of the obstacle and of the boat together
_BEARING_NOISE_DEG = 0.6
_PIXELS = 2.0  # error of the foot in pixels, for the range

_Matrix = NDArray[np.float64]


class Motion:
    """A Kalman filter of constant velocity in the plane; the state is x, y and their rates."""

    def __init__(self, at: _Matrix, noise: _Matrix, acceleration: float, speed: float) -> None:
        """Start at a measured place.

        Args:
            at: (2,). noise: its covariance (2, 2). acceleration: deviation of the unmodelled one.
            speed: deviation of the velocity that is not known yet.
        """
        self.state = np.concatenate([at, np.zeros(2)])
        self.covariance = np.zeros((4, 4))
        self.covariance[:2, :2] = noise
        self.covariance[2:, 2:] = speed**2 * np.eye(2)
        self._acceleration = acceleration

    def predict(self, seconds: float) -> None:
        """Move on by so many seconds."""
        step = np.eye(4)
        step[0, 2] = step[1, 3] = seconds
        gain = np.concatenate([0.5 * seconds**2 * np.eye(2), seconds * np.eye(2)])
        self.state = step @ self.state
        self.covariance = step @ self.covariance @ step.T + self._acceleration**2 * gain @ gain.T

    def distance(self, at: _Matrix, noise: _Matrix) -> float:
        """Deviations between a measured place and the expected one."""
        difference = at - self.state[:2]
        spread = self.covariance[:2, :2] + noise
        return math.sqrt(float(difference @ np.linalg.solve(spread, difference)))

    def update(self, at: _Matrix, noise: _Matrix) -> None:
        """Take a measured place (2,) with its covariance (2, 2)."""
        spread = self.covariance[:2, :2] + noise
        gain = np.linalg.solve(spread, self.covariance[:2]).T
        self.state = self.state + gain @ (at - self.state[:2])
        self.covariance = self.covariance - gain @ self.covariance[:2]


@dataclass(frozen=True)
class Approach:
    """How an obstacle and the boat come together, if both go on as they do.

    Attributes:
        closing_mps: metres per second that the range falls by; negative when it grows.
        seconds: until they are nearest, None when that is past. metres: their distance then.
    """

    closing_mps: float
    seconds: float | None
    metres: float | None


def approach(place: _Matrix, velocity: _Matrix) -> Approach:
    """Nearest approach of what is at `place` (2,) relative to the boat and moves with `velocity` (2,)."""
    distance, square = float(np.linalg.norm(place)), float(velocity @ velocity)
    closing = -float(place @ velocity) / max(distance, 1e-6)
    if square < 1e-4 or closing <= 0:
        return Approach(closing, None, None)
    seconds = -float(place @ velocity) / square
    return Approach(closing, seconds, float(np.linalg.norm(place + seconds * velocity)))


class _Track:
    """What is known of one obstacle.

    Attributes:
        presence: share of the time in [0, 1) that it was seen, the latest counting most (`CONFIRM_S`).
        inside_since: when it was first seen in the danger zone and never outside since; None if it is not.
    """

    def __init__(self, foot: _Matrix, seconds: float) -> None:
        self.number: int | None = None
        self.presence = 0.0
        self.inside_since: float | None = None
        self.foot = Motion(foot, _foot_noise(), _FOOT_ACCELERATION, 0.2)
        self.place: Motion | None = None
        self.place_since = seconds
        self.seen = seconds
        self.hits = 1
        self._step = 0.0  # what a sighting now adds to the presence

    @property
    def confirmed(self) -> bool:
        """Whether it has been there long enough, and often enough, to be no mistake of the labels."""
        return self.hits >= CONFIRM_HITS and self.presence >= CONFIRM_SHARE - 1e-6

    def threatens(self, seconds: float) -> bool:
        """Whether it has a number and has not just come into the danger zone."""
        inside = self.inside_since
        return self.number is not None and inside is not None and seconds - inside >= INSIDE_S - 1e-6

    def see(self, obstacle: Obstacle, foot: _Matrix, seconds: float) -> None:
        self.foot.update(foot, _foot_noise())
        self.seen = seconds
        self.hits += 1
        self.presence += self._step
        self.locate(obstacle, seconds)

    def locate(self, obstacle: Obstacle, seconds: float) -> None:
        """Take the obstacle's bearing and range, where they are known, and whether that is too near."""
        if not obstacle.danger:
            self.inside_since = None
        elif self.inside_since is None:
            self.inside_since = seconds
        found = _place(obstacle)
        if found is None:
            return
        if self.place is None:
            self.place, self.place_since = Motion(*found, _ACCELERATION, 3.0), seconds
        else:
            self.place.update(*found)

    def predict(self, seconds: float) -> None:
        kept = 0.5 ** (seconds / CONFIRM_S)
        self.presence *= kept
        self._step = 1 - kept
        self.foot.predict(seconds)
        if self.place is not None:
            self.place.predict(seconds)


def _foot_noise() -> _Matrix:
    return _FOOT_NOISE**2 * np.eye(2)


def _place(obstacle: Obstacle) -> tuple[_Matrix, _Matrix] | None:
    """Place ahead and to starboard in metres (2,) and its covariance (2, 2); None without a range."""
    if obstacle.range_m is None or obstacle.bearing_deg is None:
        return None
    bearing, distance = math.radians(obstacle.bearing_deg), obstacle.range_m
    along = np.array([math.cos(bearing), math.sin(bearing)])
    across = np.array([-along[1], along[0]])
    errors = (
        _PIXELS * (obstacle.range_error_m or 0.0) + 0.1,
        math.radians(_BEARING_NOISE_DEG) * distance + 0.1,
    )
    covariance = errors[0] ** 2 * np.outer(along, along) + errors[1] ** 2 * np.outer(across, across)
    return distance * along, covariance


class Tracker:
    """Gives the obstacles of consecutive scenes their numbers and approaches, and raises the alarm.

    What is seen now and then only is a mistake of the labels and gets no number; nobody is alarmed by it.

    tracker = Tracker(danger_m=10.0, report=print)
    scene = tracker(analyser(labels), seconds)
    """

    def __init__(self, danger_m: float | None = None, report: Report | None = None) -> None:
        """Prepare.

        Args:
            danger_m: distance of a nearest approach that is reported as a `collision_course`.
            report: told of it, and of `alarm` and `alarm_over`; None for nobody.
        """
        self._alarm = Alarm(report)
        self._danger_m = danger_m
        self._report = report
        self._tracks: list[_Track] = []
        self._numbers = 0
        self._time: float | None = None
        self._warned: dict[int, float] = {}

    def __call__(self, scene: Scene, seconds: float) -> Scene:
        """Follow a scene taken at a time in seconds, on any clock that does not go back."""
        passed = 0.0 if self._time is None else max(0.0, seconds - self._time)
        self._time = seconds
        for track in self._tracks:
            track.predict(passed)
        width = scene.size[1]
        feet = [np.array(o.foot) / width for o in scene.obstacles]
        found: dict[int, _Track] = {}
        for index, track in self._pairs(feet):
            track.see(scene.obstacles[index], feet[index], seconds)
            found[index] = track
        for index in range(len(feet)):
            if index not in found:
                found[index] = _Track(feet[index], seconds)
                found[index].locate(scene.obstacles[index], seconds)
                self._tracks.append(found[index])
        self._tracks = [t for t in self._tracks if seconds - t.seen <= FORGET_S]
        followed = tuple(self._followed(o, found[i], seconds) for i, o in enumerate(scene.obstacles))
        near = [o for i, o in enumerate(followed) if found[i].threatens(seconds)]
        alarm = self._alarm.update(near[0] if near else None, seconds)
        return replace(scene, obstacles=followed, alarm=alarm, followed=True)

    def _pairs(self, feet: Sequence[_Matrix]) -> list[tuple[int, _Track]]:
        """Match obstacles to tracks, the most alike first, each at most once."""
        costs = []
        for index, foot in enumerate(feet):
            for track in self._tracks:
                cost = track.foot.distance(foot, _foot_noise())
                if cost <= GATE:
                    # Among equals the older track wins.
                    costs.append((cost, -track.hits, index, track))
        pairs: list[tuple[int, _Track]] = []
        taken: set[int] = set()
        used: set[int] = set()
        for _, _, index, track in sorted(costs, key=lambda c: c[:3]):
            if index not in taken and id(track) not in used:
                pairs.append((index, track))
                taken.add(index)
                used.add(id(track))
        return pairs

    def _followed(self, obstacle: Obstacle, track: _Track, seconds: float) -> Obstacle:
        if track.number is None:
            if not track.confirmed:
                return obstacle
            self._numbers += 1
            track.number = self._numbers
        if track.place is None or seconds - track.place_since < SETTLED_S:
            return replace(obstacle, track=track.number)
        velocity = track.place.state[2:]
        met = approach(track.place.state[:2], velocity)
        self._warn(track.number, met, seconds)
        ahead = met.seconds is not None and met.seconds <= COURSE_S
        return replace(
            obstacle,
            track=track.number,
            closing_mps=met.closing_mps,
            nearest_s=met.seconds if ahead else None,
            nearest_m=met.metres if ahead else None,
            speed_mps=float(np.linalg.norm(velocity)),
            course_deg=math.degrees(math.atan2(velocity[1], velocity[0])),
        )

    def _warn(self, number: int, met: Approach, seconds: float) -> None:
        """Report a track that will come into the danger zone, once it has been so for a second."""
        threat = (
            self._danger_m is not None
            and met.metres is not None
            and met.seconds is not None
            and met.metres <= self._danger_m
            and met.seconds <= COURSE_S
        )
        if not threat:
            self._warned.pop(number, None)
            return
        since = self._warned.setdefault(number, seconds)
        if self._report is not None and since != math.inf and seconds - since >= SETTLED_S:
            self._warned[number] = math.inf
            self._report(
                "collision_course",
                f"obstacle {number} comes within {met.metres:.0f} m in {met.seconds:.0f} s",
                track=number,
                nearest_m=round(met.metres or 0.0, 1),
                nearest_s=round(met.seconds or 0.0, 1),
            )
