"""Distances by direction: what is near, free and unknown, and where."""

import math

import numpy as np
import pytest

from il2vseg.runtime.marine.scene import Classes, Horizon, MarineAnalyser, Obstacle, Scene
from il2vseg.runtime.marine.sectors import Sectors, sectors
from il2vseg.runtime.marine.water_plane import Camera, Line

SIZE = (360, 640)
CAMERA = Camera(2.0, 60.0)
FOCAL = 320 / math.tan(math.radians(30))
SEA = Horizon(Line(150.0, 150.0), 0.0)


def row(metres: float) -> float:
    """Row of the water at a distance straight ahead."""
    return 150 + FOCAL * 2.0 / metres


def scene(
    *obstacles: Obstacle, edge: float = 150.0, horizon: Horizon | None = SEA, camera: Camera | None = CAMERA
) -> Scene:
    return Scene(SIZE, np.full(640, edge, np.float32), horizon, obstacles, camera=camera)


def found(scene: Scene, reach: float = 100.0) -> Sectors:
    result = sectors(scene, reach)
    assert result is not None
    return result


def buoy(bearing: float, metres: float | None, width: int = 8) -> Obstacle:
    u = 319.5 + FOCAL * math.tan(math.radians(bearing))
    v = row(metres or 20.0)
    return Obstacle((round(u) - width // 2, round(v) - 20, width, 20), (u, v), bearing, metres, 0.1)


def index(bearing: float, yaw: float = 0.0) -> int:
    return int((bearing - yaw + 30) // (60 / 72))


def test_the_field_of_view_is_divided_into_72_from_left_to_right() -> None:
    all_free = found(scene())
    assert len(all_free.metres) == 72
    assert all_free.step_deg == pytest.approx(60 / 72)
    assert all_free.first_deg == pytest.approx(-30 + 60 / 144)
    assert all_free.metres.tolist() == [math.inf] * 72


def test_a_camera_that_looks_aside_turns_all_of_them() -> None:
    turned = found(scene(buoy(10.0, 30.0), camera=Camera(2.0, 60.0, yaw=90.0)))
    assert turned.first_deg == pytest.approx(60 + 60 / 144)
    nearest = int(np.argmin(turned.metres))
    assert turned.first_deg + nearest * turned.step_deg == pytest.approx(100.0, abs=0.9)


@pytest.mark.parametrize("bearing", [-29.0, -12.0, 0.2, 20.0, 29.5])
def test_a_buoy_is_where_it_is_and_the_rest_is_free(bearing: float) -> None:
    metres = found(scene(buoy(bearing, 30.0))).metres
    assert metres[index(bearing)] == 30.0
    near = np.flatnonzero(metres == 30.0)
    assert near.max() - near.min() <= 2
    assert np.isinf(np.delete(metres, near)).all()


def test_the_nearer_of_two_counts_and_what_is_wide_covers_what_it_hides() -> None:
    metres = found(scene(buoy(5.0, 40.0), buoy(5.0, 25.0, width=120))).metres
    covered = np.flatnonzero(metres == 25.0)
    assert len(covered) in (15, 16)  # 120 pixels are 12.3 degrees there
    assert not (metres == 40.0).any()


def test_what_has_no_range_is_unknown_and_not_free() -> None:
    metres = found(scene(buoy(5.0, None), buoy(5.0, 50.0, width=2))).metres
    assert metres[index(5.0)] == 50.0  # something known is better than nothing
    alone = found(scene(buoy(5.0, None))).metres
    assert math.isnan(alone[index(5.0)])
    assert math.isinf(alone[index(-20.0)])


def test_the_water_ends_at_a_shore() -> None:
    metres = found(scene(edge=row(40.0))).metres
    assert metres[36] == pytest.approx(40.0, rel=0.01)
    assert metres[0] == pytest.approx(40.0 / math.cos(math.radians(29.6)), rel=0.01)


def test_a_roll_is_taken_out() -> None:
    """A shore at 40 m, seen by a boat that leans by 6 degrees."""
    slope = math.tan(math.radians(6))
    line = Line(150 - 320 * slope, 150 + 320 * slope)
    columns = np.arange(640)
    edge = (line.left + slope * columns + FOCAL * 2.0 / 40.0 / math.cos(math.radians(6))).astype(np.float32)
    metres = found(Scene(SIZE, edge, Horizon(line, 0.0), (), camera=CAMERA)).metres
    assert metres[36] == pytest.approx(40.0, rel=0.02)


def test_no_water_and_no_horizon_are_unknown() -> None:
    assert np.isnan(found(scene(edge=math.nan)).metres).all()
    assert np.isnan(found(scene(buoy(0, None), horizon=None)).metres).all()
    mounted = found(scene(horizon=None, camera=Camera(2.0, 60.0, pitch=0.0), edge=200.0)).metres
    assert np.isfinite(mounted).all()


def test_a_column_without_water_among_others_is_no_gap() -> None:
    edge = np.full(640, row(40.0), np.float32)
    edge[300] = math.nan
    metres = found(Scene(SIZE, edge, SEA, (), camera=CAMERA)).metres
    assert np.isfinite(metres).all()


@pytest.mark.parametrize(
    ("fifths", "expected"),
    [
        ("nffff", math.inf),  # one wrong column
        ("nnfff", 40.0),  # a shore in a part of it
        ("--fff", math.inf),
        ("---ff", math.nan),  # mostly hidden is not free
        ("---nn", 40.0),
    ],
)
def test_a_sector_is_as_far_as_its_lower_quartile(fifths: str, expected: float) -> None:
    """A sector of 60 degrees, seen in five places: n is a shore at 40 m, f is free, - is hidden."""
    values = {"n": row(40.0), "f": 150.0, "-": math.nan}
    bearings = np.degrees(np.arctan((np.arange(640) - 319.5) / FOCAL))
    fifth = np.clip(5 * (bearings / 60 + 0.5), 0, 4.9).astype(int)
    edge = np.array([values[fifths[i]] for i in fifth], np.float32)
    one = sectors(Scene(SIZE, edge, SEA, (), camera=CAMERA), 100.0, count=1)
    assert one is not None
    assert float(one.metres[0]) == pytest.approx(expected, rel=0.1, nan_ok=True)


def test_without_a_mounting_there_is_nothing() -> None:
    assert sectors(scene(camera=None), 100.0) is None


def test_nothing_is_measured_where_a_pixel_is_worth_a_quarter_of_the_range() -> None:
    low = Camera(0.5, 60.0)
    result = found(scene(camera=low), reach=500.0)
    assert result.reach_m == pytest.approx(0.25 * FOCAL * 0.5)
    assert result.error(result.reach_m) == pytest.approx(0.25 * result.reach_m)
    assert found(scene(), reach=50.0).reach_m == 50.0
    assert math.isinf(found(scene(buoy(0, 60.0)), reach=50.0).metres[index(0)])


def test_the_analyser_says_how_its_camera_is_mounted() -> None:
    labels = np.full(SIZE, 2, np.uint8)
    labels[150:] = 1
    assert MarineAnalyser(Classes(1, 0, 2), CAMERA)(labels).camera == CAMERA
    assert MarineAnalyser(Classes(1, 0, 2))(labels).camera is None


def test_directions_are_those_on_the_water_when_the_boat_leans() -> None:
    """A quay at 8 m ends straight ahead; the boat leans by 10 degrees: 24 columns beside the middle."""
    slope = math.tan(math.radians(10))
    line = Line(150 - 320 * slope, 150 + 320 * slope)
    plane = CAMERA.plane(line, SIZE)
    assert plane is not None
    edge = np.empty(640, np.float32)
    for column in range(640):
        above = line.at(column, 640)
        rows = np.linspace(above + 1, above + 300, 600)
        bearings, ranges = plane.locate_all(np.full(600, float(column)), rows)
        quay = int(np.argmin(abs(ranges - 8.0)))
        edge[column] = rows[quay] if bearings[quay] < 0 else above - 1
    metres = found(Scene(SIZE, edge, Horizon(line, 0.0), (), camera=CAMERA)).metres
    assert metres[34] == pytest.approx(8.0, rel=0.02)
    assert math.isinf(metres[37])
