"""A Signal K server vanishes and comes back; the real one, too."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from il2vseg.base.errors import UserError
from tests.waiting import eventually

from ..conftest import needs

needs("websockets", "signalk")
needs("starlette", "web")
needs("uvicorn", "web")


from il2vseg.runtime.sinks import signalk as sinks  # noqa: E402
from il2vseg.runtime.sinks.signalk import Server  # noqa: E402

from .conftest import ALARM, CAMERA, FAR, NEAR, NEAREST, Events, Open, kinds, seen  # noqa: E402
from .server import FakeSignalK, RealSignalK, installed  # noqa: E402


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
    from ..servers import MjpegServer

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
