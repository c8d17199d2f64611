"""A scene with two obstacles, and the message types as another decoder reads them."""

from typing import Any

import numpy as np
import pytest

from il2vseg.runtime.marine.scene import Obstacle, Scene
from il2vseg.runtime.marine.water_plane import Camera
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.ros2.types import DEFINITIONS

from ..conftest import SIZE, make_result, needs

OBSTACLES = (
    Obstacle((10, 20, 8, 6), (14.0, 26.0), 30.0, 20.0, 0.5, track=7),
    Obstacle((40, 18, 3, 4), (41.0, 22.0)),
)
CAMERA = Camera(2.0, 60.0)


def seen(index: int = 0, *, alarm: bool = False, camera: Camera | None = CAMERA, **fields: Any) -> Result:
    scene = Scene(SIZE, np.full(SIZE[1], 20.0, np.float32), None, OBSTACLES, alarm, camera)
    labels = np.zeros(SIZE, np.uint8)
    labels[:, 5:] = 2
    return make_result(labels=labels, index=index, scene=scene, fps=9.5, dropped=3, **fields)


@pytest.fixture
def store() -> Any:
    """The message types as rosbags reads our definitions."""
    needs("rosbags", "dev")
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store, found = get_typestore(Stores.EMPTY), {}
    for kind, text in DEFINITIONS.items():
        found.update(get_types_from_msg(text, kind))
    store.register(found)
    return store
