"""Tracks: who is who, how fast it comes, and when it is nearest."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from il2vseg.runtime.marine import tracks as module
from il2vseg.runtime.marine.scene import Obstacle, Scene
from il2vseg.runtime.marine.tracks import Approach, Motion, Tracker, _place, _Track, approach

SIZE = (360, 640)


def scene(*obstacles: Obstacle) -> Scene:
    return Scene(SIZE, np.full(640, np.nan, np.float32), None, obstacles)


def at(u: float, v: float = 200.0, bearing: float | None = None, distance: float | None = None) -> Obstacle:
    error = None if distance is None else distance**2 / 1000
    return Obstacle((int(u) - 5, int(v) - 10, 10, 10), (u, v), bearing, distance, error)


def numbers(found: Scene) -> list[int | None]:
    return [o.track for o in found.obstacles]


@pytest.mark.parametrize(("rate", "sights"), [(30, 16), (10, 6), (5, 4), (2, 3), (1, 3)])
def test_a_number_comes_after_half_a_second_and_three_sights_and_stays(rate: int, sights: int) -> None:
    tracker = Tracker()
    seen = [numbers(tracker(scene(at(100 + i / 5)), i / rate)) for i in range(sights + 4)]
    assert seen == (sights - 1) * [[None]] + 5 * [[1]]


def first_number(seen: Callable[[int], bool], rate: int = 10) -> float | None:
    """Seconds until something has a number that is seen in those frames; None if not within ten seconds."""
    tracker = Tracker()
    for i in range(10 * rate):
        if 1 in numbers(tracker(scene(*([at(100)] if seen(i) else [])), i / rate)):
            return i / rate
    return None


def test_what_is_seen_in_half_of_the_frames_has_a_number_later_and_what_is_seen_in_a_third_never() -> None:
    assert first_number(lambda i: i % 4 != 3) == pytest.approx(0.8, abs=0.1)
    assert first_number(lambda i: i % 2 == 0) == pytest.approx(2.0, abs=0.2)
    assert first_number(lambda i: i % 3 == 0) is None
    assert first_number(lambda i: i % 3 == 0, rate=30) is None
    assert first_number(lambda i: i < 14, rate=30) is None  # half a second of glitter is not quite one


def test_a_flicker_from_afar_does_not_delay_the_number_of_what_has_come_near() -> None:
    """Seen now and then for five seconds, and then all the time."""
    assert first_number(lambda i: i > 50 or i % 5 == 0) == pytest.approx(5.4, abs=0.15)


def test_dropped_frames_and_irregular_times_make_no_difference() -> None:
    tracker, rng, times = Tracker(), np.random.default_rng(0), [0.0]
    while times[-1] < 2:
        times.append(times[-1] + rng.choice([0.033, 0.066, 0.2]))
    got = [t for t in times if numbers(tracker(scene(at(100)), t)) == [1]]
    assert 0.5 <= got[0] < 0.7
    assert len(got) == sum(t >= got[0] for t in times)


def test_two_that_cross_keep_their_numbers() -> None:
    tracker = Tracker()
    for i in range(30):
        left, right = at(100 + 10 * i, 180), at(400 - 10 * i, 230)
        order = (left, right) if i % 2 else (right, left)
        found = tracker(scene(*order), 0.1 * i)
        if i == 5:
            first = {o.foot[1]: o.track for o in found.obstacles}
    assert {o.foot[1]: o.track for o in found.obstacles} == first
    assert sorted(first.values()) == [1, 2]


def test_a_gap_of_a_second_is_bridged_and_a_longer_one_is_not() -> None:
    tracker = Tracker()
    for i in range(10):
        tracker(scene(at(100 + i)), 0.1 * i)
    for i in range(10, 20):
        tracker(scene(), 0.1 * i)
    assert numbers(tracker(scene(at(120)), 2.0)) == [1]
    tracker(scene(), 4.0)
    for i in range(6):
        found = tracker(scene(at(120)), 4.1 + 0.1 * i)
    assert numbers(found) == [2]


@pytest.mark.parametrize(("moved", "number"), [(12, 1), (60, None)])
def test_what_is_three_and_a_half_deviations_away_is_somebody_else(moved: int, number: int | None) -> None:
    tracker = Tracker()
    for i in range(10):
        tracker(scene(at(100)), 0.1 * i)
    assert numbers(tracker(scene(at(100 + moved)), 1.0)) == [number]


@pytest.mark.parametrize(("seconds", "told"), [(1.0, False), (1.2, True)])
def test_a_velocity_is_told_after_a_second(seconds: float, told: bool) -> None:
    (obstacle,) = course((40.0, 8.0), (-2.0, 0.0), seconds, Tracker()).obstacles
    assert obstacle.track == 1
    assert (obstacle.closing_mps is not None) == told


def test_something_far_away_is_somebody_else() -> None:
    tracker = Tracker()
    for i in range(5):
        tracker(scene(at(100)), 0.1 * i)
    assert numbers(tracker(scene(at(500)), 0.5)) == [None]


def course(
    start: tuple[float, float], velocity: tuple[float, float], seconds: float, tracker: Tracker
) -> Scene:
    """Follow what moves from `start` (metres ahead and to starboard), with a little noise."""
    rng = np.random.default_rng(0)
    for i in range(round(10 * seconds)):
        x, y = (s + 0.1 * i * v for s, v in zip(start, velocity, strict=True))
        distance = math.hypot(x, y) + rng.normal(0, 0.05)
        bearing = math.degrees(math.atan2(y, x)) + rng.normal(0, 0.1)
        found = tracker(scene(at(320 + 9 * bearing, 200, bearing, distance)), 0.1 * i)
    return found


def test_closing_speed_and_nearest_approach_of_a_passing_boat() -> None:
    found = course((40.0, 8.0), (-2.0, 0.0), 5.0, Tracker())
    (obstacle,) = found.obstacles
    # After 4.9 s it is 30.2 m ahead and 8 m aside: nearest in 15.1 s, at 8 m.
    assert obstacle.closing_mps == pytest.approx(2.0 * 30.2 / math.hypot(30.2, 8.0), abs=0.25)
    assert obstacle.nearest_s == pytest.approx(15.1, abs=2.0)
    assert obstacle.nearest_m == pytest.approx(8.0, abs=2.0)
    assert obstacle.speed_mps == pytest.approx(2.0, abs=0.3)
    assert abs(obstacle.course_deg or 0) == pytest.approx(180.0, abs=10.0)  # right at us


def test_what_crosses_has_its_course() -> None:
    (obstacle,) = course((20.0, -8.0), (0.0, 1.5), 5.0, Tracker()).obstacles
    assert obstacle.speed_mps == pytest.approx(1.5, abs=0.3)
    assert obstacle.course_deg == pytest.approx(90.0, abs=12.0)  # to starboard


def test_a_nearest_approach_later_than_a_minute_is_not_told() -> None:
    (obstacle,) = course((90.0, 0.0), (-1.0, 0.0), 5.0, Tracker()).obstacles
    assert obstacle.closing_mps == pytest.approx(1.0, abs=0.25)
    assert (obstacle.nearest_s, obstacle.nearest_m) == (None, None)
    (obstacle,) = course((50.0, 0.0), (-1.0, 0.0), 5.0, Tracker()).obstacles
    assert obstacle.nearest_s == pytest.approx(45.1, abs=8.0)


def test_what_goes_away_has_no_nearest_approach() -> None:
    (obstacle,) = course((10.0, 2.0), (1.5, 0.0), 4.0, Tracker()).obstacles
    assert obstacle.closing_mps is not None
    assert obstacle.closing_mps < -1.0
    assert obstacle.nearest_s is None
    assert obstacle.nearest_m is None


def test_a_collision_course_is_reported_once() -> None:
    events: list[tuple[str, dict]] = []
    tracker = Tracker(5.0, lambda kind, message, **data: events.append((kind, data)))
    course((40.0, 1.0), (-2.0, 0.0), 8.0, tracker)
    assert [kind for kind, _ in events] == ["collision_course"]
    assert events[0][1]["track"] == 1
    assert 8 < events[0][1]["nearest_s"] < 25


def test_a_boat_that_passes_clear_is_not_reported() -> None:
    events: list[str] = []
    tracker = Tracker(5.0, lambda kind, message, **data: events.append(kind))
    course((40.0, 15.0), (-2.0, 0.0), 8.0, tracker)
    assert events == []


def test_without_ranges_there_are_numbers_alone() -> None:
    tracker = Tracker(5.0)
    for i in range(30):
        found = tracker(scene(at(100)), 0.1 * i)
    (obstacle,) = found.obstacles
    assert obstacle.track == 1
    assert obstacle.closing_mps is None
    assert found.to_dict()["obstacles"][0]["track"] == 1


def test_the_filter_equals_weighted_least_squares() -> None:
    """A line through noisy places, without acceleration: the filter is the batch estimate, one at a time."""
    rng = np.random.default_rng(1)
    times = 0.5 * np.arange(12)
    places = np.stack([3 + 2 * times, -1 + 0.5 * times], 1) + rng.normal(0, 0.3, (12, 2))
    noise, speed = 0.09 * np.eye(2), 50.0
    motion = Motion(places[0], noise, 0.0, speed)
    for place in places[1:]:
        motion.predict(0.5)
        motion.update(place, noise)
    design = np.stack([np.ones(12), times], 1)
    prior = np.diag([0.0, 1 / speed**2])
    solved = np.linalg.solve(design.T @ design / 0.09 + prior, design.T @ places / 0.09)
    assert np.allclose(motion.state[2:], solved[1], atol=1e-6)
    assert np.allclose(motion.state[:2], solved[0] + solved[1] * times[-1], atol=1e-6)


def test_the_nearest_approach_of_a_head_on_course_is_zero() -> None:
    met = approach(np.array([20.0, 0.0]), np.array([-4.0, 0.0]))
    assert met.closing_mps == pytest.approx(4.0)
    assert met.seconds == pytest.approx(5.0)
    assert met.metres == pytest.approx(0.0, abs=1e-9)


def test_the_filter_spreads_by_the_acceleration_that_it_allows() -> None:
    """Half a metre per second squared for two seconds: one metre, and one metre per second."""
    motion = Motion(np.array([3.0, 4.0]), np.zeros((2, 2)), 0.5, 0.0)
    motion.predict(2.0)
    np.testing.assert_allclose(motion.state, [3, 4, 0, 0])
    across = np.eye(2)
    np.testing.assert_allclose(motion.covariance, np.block([[across, across], [across, across]]))


@pytest.mark.parametrize("bearing", [0.0, 90.0])
def test_a_place_is_as_uncertain_as_two_pixels_of_range_and_half_a_degree_of_bearing(bearing: float) -> None:
    found = _place(Obstacle((0, 0, 1, 1), (0.0, 1.0), bearing, 100.0, 10.0))
    assert found is not None
    place, covariance = found
    ahead, aside = (20.1**2, 1.1472**2) if bearing == 0 else (1.1472**2, 20.1**2)
    np.testing.assert_allclose(place, [100, 0] if bearing == 0 else [0, 100], atol=1e-9)
    np.testing.assert_allclose(covariance, np.diag([ahead, aside]), rtol=1e-3, atol=1e-9)


def test_the_uncertainty_of_a_place_lies_along_its_bearing() -> None:
    """At 30 degrees to starboard, 1.1 m along the line of sight and 1.1472 m across it."""
    found = _place(Obstacle((0, 0, 1, 1), (0.0, 1.0), 30.0, 100.0, 0.5))
    assert found is not None
    np.testing.assert_allclose(found[0], [86.603, 50.0], rtol=1e-4)
    np.testing.assert_allclose(found[1], [[1.2365, -0.0459], [-0.0459, 1.2895]], atol=1e-3)


def test_two_side_by_side_keep_a_number_each() -> None:
    tracker = Tracker()
    for i in range(6):
        found = tracker(scene(at(100), at(106)), 0.1 * i)  # each within reach of the other's track
    assert numbers(found) == [1, 2]
    assert numbers(tracker(scene(at(100)), 0.6)) == [1]  # the other one is not seen in its place
    tracker = Tracker()
    for i in range(6):
        tracker(scene(at(100)), 0.1 * i)
    assert numbers(tracker(scene(at(100), at(106)), 0.6)) == [1, None]


def test_slow_and_close_things_have_their_speed_and_time_too() -> None:
    met = approach(np.array([20.0, 0.0]), np.array([-0.5, 0.0]))
    assert (met.closing_mps, met.seconds) == (pytest.approx(0.5), pytest.approx(40.0))
    near = approach(np.array([0.5, 0.0]), np.array([-1.0, 0.0]))
    assert (near.closing_mps, near.seconds) == (pytest.approx(1.0), pytest.approx(0.5))
    still = approach(np.array([20.0, 0.0]), np.array([-0.005, 0.0]))
    assert (still.seconds, still.metres) == (None, None)
    aside = approach(np.array([3.0, 4.0]), np.array([0.0, -1.0]))
    assert aside.closing_mps == pytest.approx(0.8)
    assert (aside.seconds, aside.metres) == (pytest.approx(4.0), pytest.approx(3.0))


def test_what_a_track_starts_with() -> None:
    track = _Track(np.array([0.5, 0.25]), 3.0)
    foot = track.foot
    np.testing.assert_allclose(foot.state, [0.5, 0.25, 0, 0])
    np.testing.assert_allclose(foot.covariance, np.diag([6.4e-5, 6.4e-5, 0.04, 0.04]))
    assert (foot._acceleration, track.hits, track.seen, track.place) == (0.15, 1, 3.0, None)
    track.locate(at(320), 4.0)
    assert track.place is None
    track.locate(at(320, 200, 0.0, 20.0), 5.0)
    assert track.place is not None
    np.testing.assert_allclose(track.place.state, [20, 0, 0, 0])
    np.testing.assert_allclose(np.diag(track.place.covariance)[2:], [9, 9])
    assert (track.place._acceleration, track.place_since) == (0.5, 5.0)
    track.locate(at(320, 200, 0.0, 24.0), 6.0)
    assert 20 < track.place.state[0] < 24
    assert track.place_since == 5.0


def test_a_distance_is_in_deviations_of_the_expected_and_the_measured_place() -> None:
    motion = Motion(np.array([1.0, 1.0]), 3 * np.eye(2), 0.0, 0.0)
    assert motion.distance(np.array([1.0, 7.0]), np.eye(2)) == pytest.approx(3.0)


def test_a_range_of_unknown_error_is_trusted_to_ten_centimetres() -> None:
    found = _place(Obstacle((0, 0, 1, 1), (0.0, 1.0), 0.0, 0.0, None))
    assert found is not None
    np.testing.assert_allclose(found[1], np.diag([0.01, 0.01]))
    assert _place(Obstacle((0, 0, 1, 1), (0.0, 1.0), None, 5.0)) is None
    assert _place(Obstacle((0, 0, 1, 1), (0.0, 1.0), 5.0, None)) is None


def test_a_thing_that_comes_at_a_centimetre_a_second_has_a_time() -> None:
    assert approach(np.array([2.0, 0.0]), np.array([-0.0099, 0.0])).seconds is None
    assert approach(np.array([2.0, 0.0]), np.array([-0.0101, 0.0])).seconds == pytest.approx(198.0, rel=1e-3)
    assert approach(np.zeros(2), np.array([1.0, 0.0])) == Approach(0.0, None, None)
    aside = approach(np.array([4.0, 0.0]), np.array([0.0, 2.0]))  # across: no nearer than now
    assert (aside.seconds, aside.metres) == (None, None)


@pytest.mark.parametrize(("gone", "number"), [(1.5, 1), (1.5625, None)])
def test_a_track_ends_after_a_second_and_a_half(gone: float, number: int | None) -> None:
    tracker = Tracker()
    for i in range(4):
        tracker(scene(at(100)), 0.25 * i)
    tracker(scene(), 0.75 + gone)
    assert numbers(tracker(scene(at(100)), 0.75 + gone)) == [number]


@pytest.mark.parametrize(("steps", "told"), [(4, False), (5, True)])
def test_a_velocity_is_told_from_the_first_second_on(steps: int, told: bool) -> None:
    tracker = Tracker()
    for i in range(steps):
        found = tracker(scene(at(320, 200, 0.0, 20.0)), 0.25 * i)
    assert (found.obstacles[0].closing_mps is not None) == told


@pytest.mark.parametrize(("seconds", "told"), [(60.0, True), (60.1, False)])
def test_a_minute_is_as_far_as_an_approach_is_told(
    monkeypatch: pytest.MonkeyPatch, seconds: float, told: bool
) -> None:
    met = Approach(1.5, seconds, 4.0)
    monkeypatch.setattr(module, "approach", lambda place, velocity: met)
    events: list[str] = []
    tracker = Tracker(4.0, lambda kind, message, **data: events.append(kind))
    for i in range(9):
        found = tracker(scene(at(320, 200, 0.0, 20.0)), 0.25 * i)
        assert len(events) == int(told and i == 8)  # known for a second, and a threat for another one
    (obstacle,) = found.obstacles
    assert obstacle.closing_mps == 1.5
    assert (obstacle.nearest_s, obstacle.nearest_m) == ((60.0, 4.0) if told else (None, None))


def test_a_threat_is_told_after_a_second_of_it_and_again_after_a_break() -> None:
    told: list[tuple[str, str, dict[str, object]]] = []
    tracker = Tracker(5.0, lambda kind, message, **data: told.append((kind, message, data)))
    threat, clear = Approach(1.0, 12.34, 5.0), Approach(1.0, 12.34, 5.1)
    for second in (0.0, 0.5, 1.0, 1.5, 4.0):
        tracker._warn(7, threat, second)
    message = ("collision_course", "obstacle 7 comes within 5 m in 12 s")
    assert told == [(*message, {"track": 7, "nearest_m": 5.0, "nearest_s": 12.3})]
    for met in (clear, Approach(1.0, 60.5, 1.0), Approach(-1.0, None, None)):
        tracker._warn(7, met, 5.0)
        tracker._warn(7, threat, 6.0)
        tracker._warn(7, threat, 6.9)
    assert len(told) == 1
    tracker._warn(7, threat, 7.0)
    assert len(told) == 2
    tracker._warn(8, threat, 7.5)  # another one has its own second
    assert len(told) == 2
    silent = Tracker(5.0)
    for second in (0.0, 1.0, 2.0):
        silent._warn(1, threat, second)


def test_a_clock_that_goes_back_moves_nothing() -> None:
    tracker = Tracker()
    for i in range(4):
        tracker(scene(at(100 + 20 * i)), 0.5 * i)
    (track,) = tracker._tracks
    before = track.foot.covariance.copy()
    tracker(scene(), 1.0)
    np.testing.assert_array_equal(track.foot.covariance, before)


def test_the_older_of_two_tracks_that_are_as_near_wins() -> None:
    tracker = Tracker()
    for i in range(4):
        tracker(scene(at(100)), 0.25 * i)
    (old,) = tracker._tracks
    new = _Track(old.foot.state[:2], 0.75)
    new.foot = old.foot
    for order in ([old, new], [new, old]):
        tracker._tracks = list(order)
        assert [(i, t) for i, t in tracker._pairs([np.array([100, 200]) / 640])] == [(0, old)]
