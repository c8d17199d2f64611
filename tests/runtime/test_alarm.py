"""The alarm, by track and time; and who counts an obstacle before it is confirmed: nobody."""

from dataclasses import replace

import numpy as np
import pytest

from il2vseg.runtime.marine.alarm import Alarm
from il2vseg.runtime.marine.scene import Obstacle, Scene
from il2vseg.runtime.marine.sectors import sectors
from il2vseg.runtime.marine.tracks import Tracker
from il2vseg.runtime.marine.water_plane import Camera
from il2vseg.runtime.overlay import draw_scene

SIZE = (360, 640)
INSIDE = Obstacle((310, 190, 20, 20), (320.0, 210.0), -12.345, 7.891, 0.1, danger=True)
OUTSIDE = replace(INSIDE, range_m=15.0, danger=False)


def scene(*obstacles: Obstacle) -> Scene:
    return Scene(SIZE, np.full(640, 100, np.float32), None, obstacles, any(o.danger for o in obstacles))


class Watch:
    """A tracker and what it told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, dict[str, float]]] = []
        self.tracker = Tracker(10.0, lambda kind, message, **data: self.told.append((kind, message, data)))

    def alarm(self, seconds: float, *obstacles: Obstacle) -> bool:
        return self.tracker(scene(*obstacles), seconds).alarm


@pytest.mark.parametrize(("rate", "latest"), [(30, 0.51), (10, 0.51), (5, 0.61), (2, 1.01)])
def test_what_appears_in_the_zone_raises_the_alarm_within_about_a_second(rate: int, latest: float) -> None:
    watch = Watch()
    alarmed = [i / rate for i in range(3 * rate) if watch.alarm(i / rate, INSIDE)]
    assert 0.49 <= alarmed[0] <= latest
    assert len(alarmed) == 3 * rate - round(alarmed[0] * rate)
    assert watch.told == [
        ("alarm", "obstacle at 8 m, bearing -12°", {"range_m": 7.89, "bearing_deg": -12.35})
    ]


def test_a_flicker_of_the_labels_raises_no_alarm() -> None:
    watch = Watch()
    for i in range(100):
        assert not watch.alarm(i / 10, *([INSIDE] if i % 3 == 0 else []))
    assert watch.told == []


@pytest.mark.parametrize(("rate", "latest"), [(30, 0.21), (10, 0.21), (2, 0.51)])
def test_what_is_known_and_comes_into_the_zone_raises_it_at_once(rate: int, latest: float) -> None:
    watch = Watch()
    times = [i / rate for i in range(4 * rate)]
    alarmed = [t for t in times if watch.alarm(t, OUTSIDE if t < 2 else INSIDE)]
    assert 0.19 < alarmed[0] - 2 <= latest


def test_a_range_that_flickers_raises_no_alarm() -> None:
    """The horizon is lost for a frame in three, and with it everybody's range."""
    watch = Watch()
    assert not any(watch.alarm(i / 10, INSIDE if i % 3 == 0 else OUTSIDE) for i in range(50))


def test_what_is_farther_off_does_not_alarm_for_what_flickers_in_the_zone() -> None:
    watch, aside = Watch(), replace(OUTSIDE, foot=(100.0, 180.0))
    assert not any(watch.alarm(i / 10, *([INSIDE] if i % 4 == 0 else []), aside) for i in range(50))


def test_the_alarm_is_over_after_a_second_and_a_half_without_anything_there() -> None:
    watch = Watch()
    for i in range(10):
        watch.alarm(i / 10, INSIDE)
    for wave in (2.3, 3.7):  # it is hidden for almost as long
        assert watch.alarm(wave - 0.1)
        assert watch.alarm(wave, INSIDE)
    assert watch.alarm(5.1)
    assert not watch.alarm(5.2)
    assert [kind for kind, _, _ in watch.told] == ["alarm", "alarm_over"]
    assert watch.told[1][1:] == ("the danger zone is clear", {})


def test_an_alarm_that_nobody_listens_to_is_on_all_the_same() -> None:
    alarm = Alarm()
    assert [alarm.update(o, t) for o, t in ((INSIDE, 0.0), (None, 1.4), (None, 1.5))] == [True, True, False]


def test_only_what_has_a_number_counts_where_somebody_follows() -> None:
    known, new = replace(INSIDE, track=4), replace(INSIDE, box=(500, 190, 20, 20))
    assert scene(known, new).confirmed == (known, new)  # a single picture: nobody followed it
    assert replace(scene(known, new), followed=True).confirmed == (known,)
    followed = Tracker()(scene(new), 0.0)
    assert (followed.obstacles, followed.confirmed, followed.alarm) == ((new,), (), False)


def test_what_is_not_confirmed_is_drawn_pale() -> None:
    known, new = replace(INSIDE, track=4), replace(INSIDE, box=(500, 190, 20, 20))
    image = np.zeros((*SIZE, 3), np.uint8)
    draw_scene(image, replace(scene(known, new), followed=True))
    assert image[200, 310].tolist() == [94, 107, 255]
    assert image[200, 500].tolist() == [200, 200, 200]


def test_an_autopilot_is_not_stopped_by_what_is_not_confirmed_but_the_way_there_is_not_free() -> None:
    camera = Camera(height=2.0, field_of_view=60.0, pitch=0.0)

    def ahead(*obstacles: Obstacle, edge: int, followed: bool) -> float:
        water = np.full(640, edge, np.float32)
        found = sectors(Scene(SIZE, water, None, obstacles, camera=camera, followed=followed), 30.0)
        assert found is not None
        return float(found.metres[len(found.metres) // 2])

    free, shore = 185, 235  # rows: the water goes on beyond 30 m, or ends at about 20
    assert ahead(edge=free, followed=True) == np.inf
    assert ahead(INSIDE, edge=free, followed=False) == 7.891
    assert ahead(replace(INSIDE, track=1), edge=free, followed=True) == 7.891
    assert np.isnan(ahead(INSIDE, edge=free, followed=True))
    assert ahead(INSIDE, edge=shore, followed=True) == ahead(edge=shore, followed=True) < 30
