"""The water plane: ranges and bearings of what shows on it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from il2vseg.runtime.marine.water_plane import Camera, Line, WaterPlane

SIZE = (360, 640)


def project(
    camera: Camera, pitch: float, roll: float, distance: float, bearing: float
) -> tuple[float, float, Line]:
    """Project a point of the water and the horizon, by rotating world vectors: the slow and obvious way.

    World: x right, y down, z ahead; pitch raises the axis, roll turns the camera about it.
    """
    f = camera.focal(SIZE[1])
    cx, cy = (SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2
    p, r, b = (math.radians(a) for a in (pitch, roll, bearing))
    pitching = np.array([[1, 0, 0], [0, math.cos(p), math.sin(p)], [0, -math.sin(p), math.cos(p)]])
    rolling = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])

    def image(world: np.ndarray) -> tuple[float, float]:
        x, y, z = rolling @ pitching @ world
        return cx + f * x / z, cy + f * y / z

    u, v = image(np.array([distance * math.sin(b), camera.height, distance * math.cos(b)]))
    (x0, y0), (x1, y1) = (image(np.array([math.sin(a), 0.0, math.cos(a)])) for a in (-0.3, 0.3))
    slope = (y1 - y0) / (x1 - x0)
    return u, v, Line(y0 - slope * x0, y0 + slope * (SIZE[1] - 1 - x0))


@given(
    st.floats(0.5, 10),
    st.floats(30, 100),
    st.floats(-12, 12),
    st.floats(-15, 15),
    st.floats(3, 300),
    st.floats(-25, 25),
)
def test_range_and_bearing_invert_the_projection(
    height: float, view: float, pitch: float, roll: float, distance: float, bearing: float
) -> None:
    camera = Camera(height, view)
    u, v, line = project(camera, pitch, roll, distance, bearing)
    position = WaterPlane(camera, line, SIZE).locate(u, v)
    assert position.range == pytest.approx(distance, rel=1e-6)
    assert position.bearing == pytest.approx(bearing, abs=1e-6)


@given(st.floats(1, 5), st.floats(5, 200))
def test_the_error_bound_is_that_of_a_pixel(height: float, distance: float) -> None:
    camera = Camera(height, 60.0)
    u, v, line = project(camera, 0, 0, distance, 0)
    plane = WaterPlane(camera, line, SIZE)
    one = plane.locate(u, v).error
    nearer = plane.locate(u, v + 0.01).range
    assert one is not None
    assert nearer is not None
    assert (distance - nearer) / 0.01 == pytest.approx(one, rel=0.05)


def test_above_the_horizon_there_is_no_range() -> None:
    assert WaterPlane(Camera(2, 60), Line(180, 180), SIZE).locate(320, 170).range is None


def test_a_line_is_read_at_a_column() -> None:
    line = Line(10.0, 20.0)
    assert (line.at(0, 11), line.at(5, 11), line.at(10, 11)) == (10.0, 15.0, 20.0)
