"""A sink that speaks to a server of this folder, and a scene to tell it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from il2vseg.runtime.marine.scene import Obstacle, Scene
from il2vseg.runtime.marine.water_plane import Camera
from il2vseg.runtime.result import Result

from ..conftest import SIZE, make_result
from .server import FakeSignalK, SignalK

if TYPE_CHECKING:
    from il2vseg.runtime.sinks.signalk import SignalKSink

NEAR = Obstacle((30, 20, 4, 5), (32.0, 25.0), 10.0, 20.0, 0.4, True, 3, 0.5, 40.0, 1.5)
FAR = Obstacle((10, 15, 2, 2), (11.0, 17.0), -20.0, None)
ALARM = "notifications.navigation.obstacle.bow"
CAMERA = "notifications.sensors.camera.bow"
NEAREST = "environment.obstacles.bow.nearest"

Events = list[tuple[str, str]]
Open = Callable[..., tuple["SignalKSink", Events]]


def seen(
    *obstacles: Obstacle, alarm: bool = False, index: int = 0, yaw: float = 0.0, **fields: Any
) -> Result:
    camera = Camera(2.0, 60.0, yaw=yaw)
    scene = Scene(SIZE, np.full(SIZE[1], 20, np.float32), None, obstacles, alarm, camera)
    return make_result(index=index, scene=scene, **fields)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from il2vseg.runtime.sinks import signalk as sinks

    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IL2VSEG_SIGNALK_TOKEN", raising=False)
    monkeypatch.setattr(sinks, "_PAUSES_S", (0.02, 0.05))
    monkeypatch.setattr(sinks, "_ASK_S", 0.02)
    return tmp_path / "cache"


@pytest.fixture
def opened(cache: Path) -> Iterator[Open]:
    from il2vseg.runtime.sinks.signalk import SignalKSink

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
