"""A rendered approach to a post in the water, from the picture to what an autopilot is told.

The labels are the renderer's exact masks: what is tested is all that follows a model.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from il2vseg.base.images import Frame, Labels
from il2vseg.data.synthetic.camera import FOCAL
from il2vseg.data.synthetic.drawing import draw
from il2vseg.data.synthetic.scene import Vessel, scene_of
from il2vseg.runtime.assembly import marine_layer
from il2vseg.runtime.config import RunConfig
from il2vseg.runtime.events import EventLog
from il2vseg.runtime.marine.tracks import Tracker
from il2vseg.runtime.pipeline import Pipeline
from il2vseg.runtime.result import Result
from il2vseg.runtime.sources.base import Captured, Source

from .conftest import CLASSES, needs

SIZE = (360, 640)
BEARING = 6.0
DISTANCES = np.arange(40.0, 7.0, -2.0)
STEP_S = 1.0  # two metres per second


def approach(seed: int) -> tuple[list[tuple[Frame, Labels]], RunConfig]:
    """Frames and exact masks of a post that comes nearer, and the mounting of the camera that sees it."""
    scene = replace(scene_of(seed), phases=(0.0,) * 6, speed=0.0, nearest=80.0)
    views = []
    for distance in DISTANCES:
        aside = distance * math.tan(math.radians(BEARING))
        post = Vessel("post", float(distance), float(aside), 0.0, 1.6, (40, 60, 220), (240, 240, 240), 0.0)
        views.append(draw(replace(scene, vessels=(post,)), None, seed, 0, SIZE))
    pitch = math.degrees(math.atan((scene.level * SIZE[0] - (SIZE[0] - 1) / 2) / (FOCAL * SIZE[1])))
    view = 2 * math.degrees(math.atan(0.5 / FOCAL))
    mounting = RunConfig(source=("x",), camera_height=scene.eye, fov=view, pitch=pitch, danger_zone=15.0)
    return views, mounting


class Views(Source):
    def __init__(self, frames: list[Frame]) -> None:
        self._frames: Iterator[tuple[int, Frame]] = enumerate(frames)

    def read(self) -> Captured | None:
        for i, frame in self._frames:
            return Captured(frame, i, f"frame_{i:06d}", unix=1000.0 + i * STEP_S, timeline_s=i * STEP_S)
        return None


@pytest.mark.parametrize("seed", [1, 7])
def test_an_autopilot_is_told_the_true_distance(seed: int) -> None:
    needs("pymavlink", "mavlink")
    import socket

    from il2vseg.runtime.sinks.mavlink import MavlinkSink

    from . import servers
    from .test_mavlink import Autopilot

    views, config = approach(seed)
    masks = {id(frame): labels for frame, labels in views}
    events = EventLog()

    def engine(frame: Frame) -> Result:
        return Result(Captured(frame, 0, "x"), masks[id(frame)], np.ones((3, 1, 1), np.float32), CLASSES)

    pilot = Autopilot(f"udpin:127.0.0.1:{servers.free_port(socket.SOCK_DGRAM)}")
    sink = MavlinkSink(f"udp:127.0.0.1:{pilot.line.port.getsockname()[1]}", events.emit)
    pilot.hear("HEARTBEAT")
    ticks = iter(range(1_000_000))
    sink._clock = lambda: float(next(ticks))  # every frame is due
    manifest = cast(Any, SimpleNamespace(class_names=("obstacle", "water", "sky")))
    analyse, follow = marine_layer(config, manifest, events), Tracker(config.danger_zone, events.emit)
    pipeline = Pipeline(
        Views([frame for frame, _ in views]), engine, [sink], events, analyse=analyse, follow=follow
    )
    pipeline.run()
    told = pilot.hear("OBSTACLE_DISTANCE", len(DISTANCES))
    texts = [t.text for t in pilot.hear("STATUSTEXT", 2)]
    pilot.line.close()
    by_time = {message.time_usec: message for message in told}
    focal, height = FOCAL * SIZE[1], config.camera_height or 0.0
    for i, distance in enumerate(DISTANCES):
        message = by_time[int(1e6 * (1000 + i * STEP_S))]
        sectors = np.array(message.distances, float)
        nearest = int(np.argmin(sectors))
        bearing = message.angle_offset + nearest * message.increment_f
        # The renderer draws a post 2 % of its height deeper than the waterline.
        truth = distance / math.cos(math.radians(BEARING)) * height / (height + 0.02 * 1.6)
        # What one pixel of the foot is worth; and the renderer shifts the picture where a camera would turn.
        error, turn = truth**2 / (focal * height), 0.02 * truth
        assert sectors[nearest] / 100 == pytest.approx(truth, abs=2 * error + turn), distance
        assert bearing == pytest.approx(BEARING, abs=1.0)
        # All else is shore or free water, farther away; where no water is seen, nothing is claimed.
        assert (np.delete(sectors, range(nearest - 3, nearest + 4)) > 4000).all()
    course = [t for t in texts if "comes within" in t]
    assert course, texts
    alarm = [t for t in texts if "obstacle at" in t]
    assert len(alarm) == 1
