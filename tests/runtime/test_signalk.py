"""Obstacles and alarms on a Signal K server, which may want a token, vanish and come back."""

import json
import logging
import math
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from il2vseg.base.errors import UserError
from il2vseg.runtime.events import Event
from il2vseg.runtime.marine.scene import Obstacle, Scene
from il2vseg.runtime.marine.water_plane import Camera
from il2vseg.runtime.result import Result
from tests.waiting import eventually

from .conftest import SIZE, make_result, needs

needs("websockets", "signalk")
needs("starlette", "web")
needs("uvicorn", "web")

import numpy as np  # noqa: E402

from il2vseg.runtime.sinks import signalk as sinks  # noqa: E402
from il2vseg.runtime.sinks import signalk_access  # noqa: E402
from il2vseg.runtime.sinks.own_ship import Fix, OwnShip  # noqa: E402
from il2vseg.runtime.sinks.signalk import Server, SignalKSink  # noqa: E402
from il2vseg.runtime.sinks.signalk_access import read_token  # noqa: E402

from .signalk import FakeSignalK, RealSignalK, SignalK, installed, stamp  # noqa: E402

NEAR = Obstacle((30, 20, 4, 5), (32.0, 25.0), 10.0, 20.0, 0.4, True, 3, 0.5, 40.0, 1.5)
FAR = Obstacle((10, 15, 2, 2), (11.0, 17.0), -20.0, None)
ALARM = "notifications.navigation.obstacle.bow"
CAMERA = "notifications.sensors.camera.bow"
NEAREST = "environment.obstacles.bow.nearest"

Events = list[tuple[str, str]]
Open = Callable[..., tuple[SignalKSink, Events]]


def seen(
    *obstacles: Obstacle, alarm: bool = False, index: int = 0, yaw: float = 0.0, **fields: Any
) -> Result:
    camera = Camera(2.0, 60.0, yaw=yaw)
    scene = Scene(SIZE, np.full(SIZE[1], 20, np.float32), None, obstacles, alarm, camera)
    return make_result(index=index, scene=scene, **fields)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IL2VSEG_SIGNALK_TOKEN", raising=False)
    monkeypatch.setattr(sinks, "_PAUSES_S", (0.02, 0.05))
    monkeypatch.setattr(sinks, "_ASK_S", 0.02)
    return tmp_path / "cache"


@pytest.fixture
def opened(cache: Path) -> Iterator[Open]:
    made: list[SignalKSink] = []

    def start(server: SignalK, **options: Any) -> tuple[SignalKSink, Events]:
        events: Events = []
        made.append(
            SignalKSink(f"{server.url}/bow", lambda kind, text, **_: events.append((kind, text)), **options)
        )
        return made[-1], events

    yield start
    for sink in made:
        sink.close()


@pytest.fixture
def fake() -> Iterator[FakeSignalK]:
    server = FakeSignalK()
    server.start()
    yield server
    server.kill()


def kinds(events: Events) -> list[str]:
    return [kind for kind, _ in events]


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


# --- access --------------------------------------------------------------------------------------------


def test_access_is_requested_granted_and_remembered(opened: Open, cache: Path, caplog: Any) -> None:
    server = FakeSignalK(secure=True)
    server.start()
    try:
        with caplog.at_level(logging.DEBUG):
            sink, events = opened(server)
            eventually(lambda: kinds(events) == ["signalk_waiting"])
            assert "grant access to 'il2vseg bow'" in events[0][1]
            (request,) = server.pending()
            assert (request["description"], request["permissions"]) == ("il2vseg bow", "readwrite")
            server.decide(request["clientId"], "approved")
            eventually(lambda: kinds(events) == ["signalk_waiting", "signalk_connected"])
        token = f"granted-to-{request['clientId']}"
        assert server.headers[-1]["authorization"] == f"Bearer {token}"
        assert token not in caplog.text + str(events)
        (file,) = cache.iterdir()
        assert token in file.read_text()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        sink.close()
        _, again = opened(server)
        eventually(lambda: kinds(again) == ["signalk_connected"])
        assert not server.pending()
        server.tokens.clear()  # its owner thinks better of it
        server.kill()
        server.start()
        eventually(lambda: [r["clientId"] for r in server.pending()] == [request["clientId"]])
        eventually(lambda: again[-1][0] == "signalk_waiting")
    finally:
        server.kill()


def test_a_request_outlives_a_restart_on_either_side(opened: Open) -> None:
    server = FakeSignalK(secure=True)
    server.start()
    try:
        first, events = opened(server)
        eventually(lambda: events)
        first.close()
        _, events = opened(server)
        eventually(lambda: kinds(events) == ["signalk_waiting"])
        assert len(server.pending()) == 1
        server.kill()
        server.start()
        eventually(server.pending)
        server.decide(server.pending()[0]["clientId"], "approved")
        eventually(lambda: kinds(events)[-1:] == ["signalk_connected"])
    finally:
        server.kill()


def test_who_is_denied_asks_no_more(opened: Open) -> None:
    server = FakeSignalK(secure=True)
    server.start()
    try:
        sink, events = opened(server)
        eventually(server.pending)
        server.decide(server.pending()[0]["clientId"], "denied")
        eventually(lambda: kinds(events)[-1:] == ["signalk_lost"])
        assert "denied" in events[-1][1]
        sink._thread.join(2)
        assert not server.pending()
        sink.write(seen(NEAR, alarm=True))
    finally:
        server.kill()


def test_a_given_token_is_used_and_none_is_asked_for(opened: Open, cache: Path) -> None:
    server = FakeSignalK(secure=True)
    server.tokens.add("given")
    server.start()
    try:
        _, events = opened(server, token="given")
        eventually(lambda: kinds(events) == ["signalk_connected"])
        _, events = opened(server, token="wrong")
        eventually(lambda: kinds(events) == ["signalk_lost"])
        assert "does not accept the token" in events[0][1]
        assert "wrong" not in events[0][1]
        assert not server.pending()
        assert not cache.exists()
    finally:
        server.kill()


def test_a_server_that_ignores_us_is_no_connection(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server takes the messages of a reader and forgets them, without a word."""
    monkeypatch.setattr(sinks, "ANSWER_S", 0.3)
    server = FakeSignalK(ignoring=True)
    server.start()
    server._values[ALARM] = {"state": "normal"}, stamp()  # of an earlier day
    try:
        _, events = opened(server)
        eventually(lambda: events)
        assert kinds(events) == ["signalk_lost"]
        assert "read/write" in events[0][1]
    finally:
        server.kill()


def test_the_token_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IL2VSEG_SIGNALK_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("IL2VSEG_SIGNALK_TOKEN", " abc\n")
    assert read_token(None) == "abc"
    (tmp_path / "token").write_text("def\n")
    assert read_token(tmp_path / "token") == "def"
    (tmp_path / "token").write_text("two tokens")
    with pytest.raises(UserError, match="one token"):
        read_token(tmp_path / "token")
    with pytest.raises(UserError, match="cannot be read"):
        read_token(tmp_path / "gone")


def test_a_memory_that_cannot_be_written_lasts_for_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    access = signalk_access.Access("http://127.0.0.1:1", "x", tmp_path / "file" / "m.json")
    access._remember(token="t")
    assert access.token() == "t"


# --- death and return ----------------------------------------------------------------------------------


def test_the_sink_outlives_its_server_and_tells_it_again(fake: FakeSignalK, opened: Open) -> None:
    sink, events = opened(fake)
    sink.write(seen(NEAR, alarm=True))
    eventually(lambda: (fake.value(ALARM) or {}).get("state") == "alarm")
    for round_ in range(2):
        fake.kill()
        eventually(lambda n=round_: kinds(events).count("signalk_lost") == n + 1)  # type: ignore[misc]
        sink.write(seen(NEAR, alarm=True))
        fake.start()
        eventually(lambda n=round_: kinds(events).count("signalk_connected") == n + 2)  # type: ignore[misc]
        assert fake.value(ALARM)["state"] == "alarm"  # a server forgets
    assert kinds(events) == ["signalk_connected", "signalk_lost"] * 2 + ["signalk_connected"]


def test_a_server_that_is_not_there_is_reported_once_and_costs_nothing(opened: Open) -> None:
    server = FakeSignalK()
    sink, events = opened(server)
    eventually(lambda: events)
    took = []
    for i in range(200):
        begun = time.perf_counter()
        sink.write(seen(NEAR, FAR, alarm=True, index=i))
        took.append(time.perf_counter() - begun)
    assert sorted(took)[150] < 0.002
    assert [kind for kind, _ in events] == ["signalk_lost"]
    assert "cannot be reached" in events[0][1]
    begun = time.perf_counter()
    sink.close()
    assert time.perf_counter() - begun < 2.5


def test_what_is_no_signal_k_server_is_said_to_be_none(
    opened: Open, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "ANSWER_S", 0.3)
    from .servers import MjpegServer

    server = MjpegServer(clip)
    server.url = server.url.replace("http:", "ws:").removesuffix("/video.mjpg")
    server.start()
    try:
        _, events = opened(server)
        eventually(lambda: events, 10)
        assert kinds(events) == ["signalk_lost"]
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://boat", (False, "boat", 3000, "camera")),
        ("wss://boat", (True, "boat", 443, "camera")),
        ("ws://boat:80/bow", (False, "boat", 80, "bow")),
        ("ws://boat:80/bow/1", (False, "boat", 80, "bow-1")),
        ("ws://boat:3000/signalk/v1/stream", (False, "boat", 3000, "camera")),
        ("ws://[::1]:3000/", (False, "[::1]", 3000, "camera")),
    ],
)
def test_addresses_of_servers(url: str, expected: tuple[Any, ...]) -> None:
    assert tuple(vars(Server.parse(url)).values()) == expected


@pytest.mark.parametrize(
    "url", ["http://boat", "ws://", "ws://u:geheim@boat", "ws://boat:0", "ws://b/a.b", "boat"]
)
def test_a_wrong_address_is_refused_and_shows_no_password(url: str) -> None:
    with pytest.raises(UserError, match="--signalk") as error:
        Server.parse(url)
    assert "geheim" not in str(error.value)


def test_the_flag_opens_the_sink_with_the_token_of_a_file(
    cache: Path, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from il2vseg.runtime.config import RunConfig, streams
    from il2vseg.runtime.histogram import Latencies
    from il2vseg.runtime.manifest import Manifest
    from il2vseg.runtime.sinks.table import Setup, open_sinks

    server = FakeSignalK(secure=True)
    server.tokens.add("of-the-file")
    server.start()
    (tmp_path / "token").write_text("of-the-file\n")
    events: Events = []
    config = RunConfig(source=("a", "b"), signalk=f"{server.url}/bow", signalk_token=tmp_path / "token")
    setup = Setup(
        streams(config)[1], Manifest.load(model), Latencies(), lambda k, m, **_: events.append((k, m))
    )
    try:
        sinks_ = open_sinks(setup)
        eventually(lambda: kinds(events) == ["signalk_connected"])
        assert server.value(f"{CAMERA}-1")["state"] == "normal"
        for sink in sinks_:
            sink.close()
    finally:
        server.kill()
    assert "of-the-file" not in str(events) + str(capsys.readouterr())


# --- the real server -----------------------------------------------------------------------------------


@pytest.fixture
def real(tmp_path: Path, require: Callable[[object, str], None]) -> Iterator[RealSignalK]:
    folder = installed()
    require(folder is not None, "signalk-server is not installed (tests/npm-packages.sh)")
    assert folder is not None
    server = RealSignalK(folder, tmp_path / "signalk", secure=True)
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
def test_the_real_server_grants_access_and_takes_obstacles_and_alarms(
    real: RealSignalK, opened: Open
) -> None:
    eventually(real.ready, 60)
    sink, events = opened(real)
    eventually(lambda: kinds(events)[-1:] == ["signalk_waiting"])
    (request,) = real.pending()
    assert request["description"] == "il2vseg bow"
    real.decide(request["clientId"], "approved")
    eventually(lambda: kinds(events)[-1:] == ["signalk_connected"])
    sink.write(seen(NEAR, FAR, alarm=True))
    eventually(lambda: real.value(f"{NEAREST}.distance") == 20.0)
    assert real.value(f"{NEAREST}.bearingRelative") == pytest.approx(0.17453, abs=1e-5)
    assert real.value(ALARM)["state"] == "alarm"
    assert real.value(ALARM)["message"] == "obstacle at 20 m, bearing +10°"
    assert real.value(ALARM)["method"] == ["visual", "sound"]

    def placed() -> Any:
        real.tell("navigation.position", {"latitude": 54.0, "longitude": 10.0})
        real.tell("navigation.headingTrue", math.radians(80.0))
        sink.write(seen(NEAR, alarm=True))
        return real.value(f"{NEAREST}.position")

    eventually(placed)
    assert placed()["longitude"] == pytest.approx(10.0 + 20 / 65578.0, abs=3e-7)
    sink.close()
    eventually(lambda: real.value(ALARM)["state"] == "normal")


@pytest.mark.slow
def test_the_real_server_is_killed_and_comes_back(real: RealSignalK, opened: Open) -> None:
    eventually(real.ready, 60)
    sink, events = opened(real)
    eventually(real.pending)
    real.decide(real.pending()[0]["clientId"], "approved")
    for round_ in range(2):
        eventually(lambda n=round_: kinds(events).count("signalk_connected") == n + 1, 60)  # type: ignore[misc]
        sink.write(seen(NEAR, alarm=True))
        eventually(lambda: real.value(ALARM)["state"] == "alarm")
        real.kill()
        eventually(lambda: kinds(events)[-1:] == ["signalk_lost"])
        real.start()
    eventually(lambda: kinds(events)[-1:] == ["signalk_connected"], 60)
    assert real.value(ALARM)["state"] == "alarm"
