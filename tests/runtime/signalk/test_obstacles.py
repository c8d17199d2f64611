"""Obstacles and alarms on a Signal K server, in its units."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from il2vseg.runtime.events import Event
from tests.waiting import eventually

from ..conftest import needs

needs("websockets", "signalk")
needs("starlette", "web")
needs("uvicorn", "web")


from il2vseg.runtime.sinks.own_ship import Fix, OwnShip  # noqa: E402

from .conftest import ALARM, CAMERA, FAR, NEAR, NEAREST, Open, kinds, seen  # noqa: E402
from .server import FakeSignalK  # noqa: E402


def test_obstacles_come_in_metres_and_radians_and_go_as_nulls(fake: FakeSignalK, opened: Open) -> None:
    sink, events = opened(fake)
    eventually(lambda: kinds(events) == ["signalk_connected"])
    sink.write(seen(NEAR, FAR))
    eventually(lambda: fake.value("environment.obstacles.bow.count") == 2)
    assert fake.value(f"{NEAREST}.distance") == 20.0
    assert fake.value(f"{NEAREST}.distanceError") == 0.4
    assert fake.value(f"{NEAREST}.bearingRelative") == pytest.approx(0.17453, abs=1e-5)
    assert fake.value(f"{NEAREST}.closingSpeed") == 0.5
    assert fake.value(f"{NEAREST}.closestApproach.distance") == 1.5
    assert fake.value(f"{NEAREST}.closestApproach.timeTo") == 40.0
    assert fake.value(f"{NEAREST}.position") is None
    near, far = fake.value("environment.obstacles.bow.list")
    assert (near["track"], near["danger"], far["distance"], far["bearingTrue"]) == (3, True, None, None)
    (update,) = next(m for m in fake.messages if "count" in json.dumps(m))["updates"]
    assert update["timestamp"] == "2023-11-14T22:13:20.000Z"  # when the frame was captured
    assert update["$source"] == "il2vseg.bow"
    sink.write(seen())
    eventually(lambda: fake.value("environment.obstacles.bow.count") == 0)
    assert fake.value(f"{NEAREST}.distance") is None
    assert fake.value(f"{NEAREST}.closestApproach.timeTo") is None
    assert fake.value("environment.obstacles.bow.list") == []


def test_units_are_told(fake: FakeSignalK, opened: Open) -> None:
    opened(fake)
    eventually(lambda: any("meta" in u for m in fake.messages for u in m.get("updates", ())))
    (told,) = [u["meta"] for m in fake.messages for u in m.get("updates", ()) if "meta" in u]
    units = {m["path"].removeprefix(f"{NEAREST}."): m["value"]["units"] for m in told}
    assert units == {
        "distance": "m",
        "distanceError": "m",
        "bearingRelative": "rad",
        "bearingTrue": "rad",
        "closingSpeed": "m/s",
        "closestApproach.distance": "m",
        "closestApproach.timeTo": "s",
    }


def test_an_alarm_comes_once_and_ends(fake: FakeSignalK, opened: Open) -> None:
    sink, _ = opened(fake)
    eventually(
        lambda: fake.value(ALARM) == {"state": "normal", "method": [], "message": "no obstacle is near"}
    )
    for metres in (20.0, 19.0, 18.0):
        sink.write(seen(replace(NEAR, range_m=metres), alarm=True))
        eventually(lambda m=metres: fake.value(f"{NEAREST}.distance") == m)  # type: ignore[misc]
    alarm = fake.value(ALARM)
    assert alarm["method"] == ["visual", "sound"]
    assert alarm["message"] == "obstacle at 20 m, bearing +10°"
    assert alarm["data"] == {"distance": 20.0, "distanceError": 0.4, "bearingRelative": 0.17453}
    sink.write(seen(FAR))
    eventually(lambda: fake.value(ALARM)["state"] == "normal")
    states = [
        v["value"]["state"]
        for m in fake.messages
        for u in m.get("updates", ())
        for v in u.get("values", ())
        if v["path"] == ALARM
    ]
    assert states == ["normal", "alarm", "normal"]  # who silenced it is not disturbed again


def test_a_collision_course_is_a_warning_until_the_obstacle_is_out_of_sight(
    fake: FakeSignalK, opened: Open
) -> None:
    sink, _ = opened(fake)
    sink.event(Event("collision_course", "obstacle 3 comes within 2 m in 40 s", {"track": 3}))
    sink.write(seen(replace(NEAR, danger=False)))
    eventually(lambda: (fake.value(ALARM) or {}).get("state") == "warn")
    assert fake.value(ALARM)["message"] == "obstacle 3 comes within 2 m in 40 s"
    sink.write(seen(index=29))  # 2.9 s later it is hidden by a wave
    sink.write(seen(replace(NEAR, danger=False), index=30))
    sink.write(seen(index=60))
    assert sink._notices["obstacle"].state == "warn"
    sink.write(seen(index=61))
    eventually(lambda: fake.value(ALARM)["state"] == "normal")


def test_a_camera_that_does_not_see_is_a_warning(fake: FakeSignalK, opened: Open) -> None:
    sink, _ = opened(fake)
    eventually(lambda: fake.value(CAMERA))
    sink.event(Event("unlike_training", "this is unlike the training"))
    eventually(lambda: fake.value(CAMERA)["state"] == "alert")
    sink.event(Event("source_lost", "camera 0: gone"))
    eventually(
        lambda: (
            fake.value(CAMERA)
            == {"state": "warn", "method": ["visual", "sound"], "message": "camera 0: gone"}
        )
    )
    sink.event(Event("source_back", "camera 0 is back"))
    eventually(lambda: fake.value(CAMERA)["state"] == "alert")
    sink.event(Event("like_training", "as usual"))
    eventually(lambda: fake.value(CAMERA)["state"] == "normal")
    sink.write(seen(blind="it is black"))
    eventually(lambda: "it is black" in fake.value(CAMERA)["message"])
    sink.write(seen())
    eventually(lambda: fake.value(CAMERA)["state"] == "normal")


def test_nothing_stays_behind_when_the_sink_is_closed(fake: FakeSignalK, opened: Open) -> None:
    sink, _ = opened(fake)
    sink.write(seen(NEAR, alarm=True))
    eventually(lambda: (fake.value(ALARM) or {}).get("state") == "alarm")
    eventually(lambda: fake.value(f"{NEAREST}.distance") == 20.0)
    sink.close()
    eventually(lambda: fake.value(ALARM)["state"] == "normal")
    eventually(lambda: "not watching" in fake.value(CAMERA)["message"])
    eventually(lambda: fake.value(f"{NEAREST}.distance") is None)


def test_positions_are_absolute_once_the_server_tells_position_and_heading(
    fake: FakeSignalK, opened: Open
) -> None:
    sink, events = opened(fake)
    eventually(lambda: events)
    fake.tell("navigation.position", {"latitude": 54.0, "longitude": 10.0})
    fake.tell("navigation.headingTrue", math.radians(100.0))

    def placed() -> Any:
        sink.write(seen(NEAR, alarm=True, yaw=-20.0))
        return fake.value(f"{NEAREST}.position")

    eventually(placed)
    # 20 m in the direction 100 − 20 + 10 = 90 degrees; a degree of longitude is 65.6 km at 54 degrees north.
    assert fake.value(f"{NEAREST}.bearingTrue") == pytest.approx(math.pi / 2, abs=1e-4)
    assert fake.value(f"{NEAREST}.bearingRelative") == pytest.approx(math.radians(-10), abs=1e-4)
    assert placed()["latitude"] == pytest.approx(54.0, abs=2e-7)
    assert placed()["longitude"] == pytest.approx(10.0 + 20 / 65578.0, abs=3e-7)
    sink.write(seen())
    sink.write(seen(NEAR, alarm=True))
    eventually(lambda: "position" in fake.value(ALARM))


def test_an_old_position_is_none() -> None:
    own = OwnShip()
    own.hello({"timestamp": "2020-01-01T00:00:00Z"})  # its clock is years behind

    def hear(path: str, value: Any, when: str) -> None:
        own.take({"updates": [{"timestamp": when, "values": [{"path": path, "value": value}]}]})

    place = {"latitude": 1.0, "longitude": 2.0}
    hear("navigation.position", place, "2019-12-31T23:59:54Z")
    assert own.fix().position is None
    hear("navigation.position", place, "2020-01-01T00:00:00Z")
    hear("navigation.headingTrue", None, "2020-01-01T00:00:00Z")
    assert own.fix().position == (1.0, 2.0)
    assert own.fix().heading is None
    own.hello({})
    assert own.fix().position is None


@pytest.mark.parametrize(
    ("bearing", "latitude", "longitude"),
    [(0, 54.00898, 10.0), (90, 54.0, 10.01525), (180, 53.99102, 10.0), (-90, 54.0, 9.98475)],
)
def test_a_kilometre_on_the_ellipsoid(bearing: float, latitude: float, longitude: float) -> None:
    """Reference: one minute of latitude is 1855.3 m at 54 degrees, one of longitude 1093.0 m."""
    fix = Fix(position=(54.0, 10.0), heading=0.0)
    found = fix.position_of(1000.0, fix.relative(bearing))
    assert found is not None
    assert found["latitude"] == pytest.approx(latitude, abs=2e-5)
    assert found["longitude"] == pytest.approx(longitude, abs=2e-5)


def test_a_degree_of_latitude_is_shorter_at_the_equator() -> None:
    """Reference: 110574 m there, 111694 m at the poles."""
    north = Fix(position=(0.0, 0.0), heading=0.0).position_of(1000.0, 0.0)
    assert north is not None
    assert north["latitude"] == pytest.approx(1000 / 110574, abs=1e-7)


def test_positions_go_round_the_earth_and_end_at_the_pole() -> None:
    east = Fix(position=(0.0, 179.9999), heading=math.pi / 2).position_of(100.0, 0.0)
    assert east is not None
    assert east["longitude"] == pytest.approx(-179.9992, abs=1e-4)
    assert Fix(position=(89.5, 0.0), heading=0.0).position_of(100.0, 0.0) is None
    assert Fix(position=(0.0, 0.0)).position_of(100.0, 0.0) is None
    assert Fix(ahead=math.radians(170)).relative(20.0) == pytest.approx(math.radians(-170))
