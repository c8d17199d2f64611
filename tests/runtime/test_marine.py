import json

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from il2vseg.base.images import Labels
from il2vseg.runtime.marine.scene import (
    Classes,
    MarineAnalyser,
    Obstacle,
    Scene,
    _whole_box,
    far_edge,
    find_obstacles,
    fit_horizon,
    water_body,
    water_edge,
)
from il2vseg.runtime.marine.water_plane import Camera

from .test_marine_plane import project

OBSTACLE, WATER, SKY = 0, 1, 2
CLASSES = Classes(WATER, OBSTACLE, SKY)
SIZE = (360, 640)


def open_sea(left: float = 150, right: float = 150) -> Labels:
    """Water below a straight horizon, sky above it."""
    rows = np.arange(SIZE[0])[:, None]
    line = left + (right - left) * np.arange(SIZE[1]) / (SIZE[1] - 1)
    return np.where(rows >= line, WATER, SKY).astype(np.uint8)


def test_classes_are_found_by_name() -> None:
    assert Classes.of(["Sky", "water ", "OBSTACLE"]) == Classes(1, 2, 0)
    assert Classes.of(["water", "obstacle"]) == Classes(0, 1, None)
    assert Classes.of(["road", "sky"]) is None


def test_the_water_edge_is_the_topmost_water_of_a_body() -> None:
    labels = open_sea()
    labels[20:24, 300:310] = WATER  # a mistake in the sky
    labels[200:260, 100:140] = OBSTACLE
    edge = water_edge(water_body(labels, WATER))
    assert (edge == 150).all()


def test_a_frame_without_water_has_no_edge() -> None:
    labels = np.full(SIZE, SKY, np.uint8)
    scene = MarineAnalyser(CLASSES)(labels)
    assert np.isnan(scene.water_edge).all()
    assert scene.horizon is None
    assert scene.obstacles == ()
    assert scene.to_dict()["water_edge"][0] == [0, None]


@given(st.integers(60, 300), st.integers(60, 300))
def test_the_far_edge_keeps_a_straight_line(left: int, right: int) -> None:
    edge = np.linspace(left, right, SIZE[1]).round().astype(np.int64)
    assert np.abs(far_edge(edge) - edge).max() <= 1.5


@given(
    st.floats(80, 250),
    st.floats(-40, 40),
    st.lists(st.tuples(st.integers(0, 600), st.integers(5, 60)), max_size=3),
)
@example(85, -0.25, [])  # two steps of a stair, which shrunk labels move
def test_the_horizon_is_found_behind_obstacles(
    middle: float, tilt: float, boats: list[tuple[int, int]]
) -> None:
    labels = open_sea(middle - tilt, middle + tilt)
    for left, width in boats:
        labels[int(middle) - 50 : int(middle) + 60, left : left + width] = OBSTACLE
    scene = MarineAnalyser(CLASSES)(labels)
    assert scene.horizon is not None
    assert scene.horizon.line.left == pytest.approx(middle - tilt, abs=1.2)
    assert scene.horizon.line.right == pytest.approx(middle + tilt, abs=1.2)


def test_what_lies_far_from_the_line_does_not_bend_it() -> None:
    """The last fit is over the columns up to three median distances, and a pixel, away."""
    edge = np.full(400, 100, np.int64)
    edge[::2] = 101  # half a pixel from the line, all of them
    edge[300:330] = 104  # outliers on one side, where they have most leverage
    labels = np.where(np.arange(200)[:, None] >= edge, WATER, SKY).astype(np.uint8)
    horizon = fit_horizon(labels, edge, SKY)
    assert horizon is not None
    assert horizon.line.left == pytest.approx(100.0, abs=0.05)
    assert horizon.line.right == pytest.approx(100.0, abs=0.05)
    assert horizon.residual == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("columns", "found"), [(99, False), (100, True)])
def test_a_quarter_of_the_columns_is_open_horizon_enough(columns: int, found: bool) -> None:
    labels = np.full((200, 400), OBSTACLE, np.uint8)
    labels[100:] = WATER
    labels[:100, :columns] = SKY
    edge = np.full(400, 100, np.int64)
    assert (fit_horizon(labels, edge, SKY) is not None) == found
    assert fit_horizon(labels, edge, None) is None


def test_the_horizon_lies_between_the_last_row_of_sky_and_the_first_of_water() -> None:
    labels = np.full((200, 400), SKY, np.uint8)
    labels[100:] = WATER
    horizon = fit_horizon(labels, np.full(400, 100, np.int64), SKY)
    assert horizon is not None
    assert horizon.line.left == pytest.approx(99.5)
    assert horizon.line.right == pytest.approx(99.5)


@pytest.mark.parametrize(("height", "kept"), [(3, False), (4, True)])
def test_water_is_a_hundredth_of_the_frame_at_least(height: int, kept: bool) -> None:
    labels = np.full((100, 400), SKY, np.uint8)
    labels[90 : 90 + height, :100] = WATER  # 300 or 400 of 40000 pixels
    assert water_body(labels, WATER).any() == kept


def test_a_shore_line_is_no_horizon() -> None:
    labels = open_sea()
    labels[100:150] = OBSTACLE
    assert MarineAnalyser(CLASSES)(labels).horizon is None


def test_an_obstacle_in_open_water_gets_its_box_and_foot() -> None:
    labels = open_sea()
    labels[140:200, 300:340] = OBSTACLE
    (obstacle,) = MarineAnalyser(CLASSES)(labels).obstacles
    assert obstacle.box == pytest.approx((300, 140, 40, 60), abs=2)
    assert obstacle.foot == pytest.approx((319.5, 200.0), abs=1.5)
    assert obstacle.bearing_deg is None
    assert obstacle.range_m is None


def test_a_boat_before_the_shore_is_found_and_the_shore_is_not() -> None:
    labels = open_sea()
    labels[100:155] = OBSTACLE  # shore across the whole frame
    labels[130:190, 200:260] = OBSTACLE  # the boat merges with it
    (obstacle,) = MarineAnalyser(CLASSES)(labels).obstacles
    left, top, width, height = obstacle.box
    assert (left, width) == pytest.approx((200, 60), abs=2)
    assert top + height == pytest.approx(190, abs=2)
    assert top >= 153


def test_a_boat_before_a_shore_that_goes_on_to_one_side_is_not_the_shore() -> None:
    for columns in (slice(220, None), slice(None, 240)):
        labels = open_sea()
        labels[100:155, columns] = OBSTACLE
        labels[130:190, 200:260] = OBSTACLE
        (obstacle,) = MarineAnalyser(CLASSES)(labels).obstacles
        assert obstacle.box[0] == pytest.approx(200, abs=2)
        assert obstacle.box[1] >= 140
        assert obstacle.box[2] == pytest.approx(60, abs=2)


def test_two_boats_get_a_box_each() -> None:
    labels = open_sea()
    labels[120:200, 100:140] = OBSTACLE
    labels[130:210, 300:340] = OBSTACLE
    boxes = sorted(o.box for o in MarineAnalyser(CLASSES)(labels).obstacles)
    assert len(boxes) == 2
    assert boxes[0] == pytest.approx((100, 120, 40, 80), abs=2)
    assert boxes[1] == pytest.approx((300, 130, 40, 80), abs=2)


@pytest.mark.parametrize("left", [1, 619])
def test_a_boat_at_the_side_of_the_frame_is_no_shore(left: int) -> None:
    solid = np.zeros(SIZE, np.bool_)
    solid[120:200, left : left + 20] = True
    assert _whole_box(solid, (left, 170, 20, 30)) == (left, 120, 20, 80)


def test_a_shore_is_no_horizon_whatever_its_number() -> None:
    labels = np.full(SIZE, 2, np.uint8)
    labels[:150] = 1
    assert fit_horizon(labels, np.full(SIZE[1], 150), 0) is None
    labels[:150] = 0
    assert fit_horizon(labels, np.full(SIZE[1], 150), 0) is not None


def test_water_up_to_the_top_begins_there_in_a_large_frame_too() -> None:
    labels = np.full((720, 1280), WATER, np.uint8)
    assert (MarineAnalyser(CLASSES)(labels).water_edge == 0).all()


def test_the_foot_of_a_piece_is_its_own() -> None:
    """A crane over a buoy: the buoy stands in the crane's box and is as low."""
    labels = open_sea()
    labels[200:206, 100:200] = OBSTACLE
    labels[200:260, 100:112] = OBSTACLE
    labels[230:260, 150:180] = OBSTACLE
    feet = sorted(o.foot[0] for o in MarineAnalyser(CLASSES)(labels).obstacles)
    assert feet == pytest.approx([105.5, 164.5], abs=2)


@pytest.mark.parametrize(("height", "width", "found"), [(2, 4, True), (1, 7, False)])
def test_an_obstacle_is_eight_of_a_hundred_thousand_pixels_at_least(
    height: int, width: int, found: bool
) -> None:
    labels = np.full((200, 500), WATER, np.uint8)
    labels[:50] = SKY
    labels[150 : 150 + height, 100 : 100 + width] = OBSTACLE
    edge = np.full(500, 50, np.int64)
    assert bool(find_obstacles(labels, water_body(labels, WATER), edge, CLASSES)) == found


@pytest.mark.parametrize(("bottom", "found"), [(104, False), (107, True)])
def test_an_obstacle_reaches_clearly_below_the_far_edge(bottom: int, found: bool) -> None:
    """By more than 0.006 of the height: three rows of five hundred."""
    labels = np.full((500, 1000), WATER, np.uint8)
    labels[:100] = SKY
    labels[80:bottom, 400:420] = OBSTACLE
    body = water_body(labels, WATER)
    assert bool(find_obstacles(labels, body, water_edge(body), CLASSES)) == found


def test_the_far_edge_runs_behind_boats_on_half_of_the_columns() -> None:
    edge = np.full(640, 100, np.int64)
    edge[np.arange(640) // 16 % 2 == 0] = 140
    assert np.abs(far_edge(edge) - 100).max() <= 1.5


def test_a_single_column_has_a_level_horizon() -> None:
    labels = np.array([[SKY]] * 5 + [[WATER]] * 5, np.uint8)
    horizon = fit_horizon(labels, np.array([5]), SKY)
    assert horizon is not None
    assert (horizon.line.left, horizon.line.right) == (4.5, 4.5)


def test_what_floats_on_a_mistake_of_the_labels_is_no_obstacle_and_hides_none() -> None:
    labels = open_sea()
    labels[180:200, 100:130] = OBSTACLE
    labels[200:230, 90:140] = SKY  # under it there is no water
    labels[210:240, 400:430] = OBSTACLE
    (obstacle,) = MarineAnalyser(CLASSES)(labels).obstacles
    assert obstacle.box == pytest.approx((400, 210, 30, 30), abs=2)


def test_specks_are_no_obstacles() -> None:
    labels = open_sea()
    labels[200:202, 300:304] = OBSTACLE
    assert MarineAnalyser(CLASSES)(labels).obstacles == ()


@pytest.mark.parametrize("factor", [2, 3])
def test_large_frames_give_the_same_scene(factor: int) -> None:
    labels = open_sea(140, 160)
    labels[180:220, 300:340] = OBSTACLE
    camera = Camera(2.0, 60.0)
    small = MarineAnalyser(CLASSES, camera)(labels)
    large = MarineAnalyser(CLASSES, camera)(
        cv2.resize(labels, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    )
    assert large.size == (360 * factor, 640 * factor)
    scaled = [factor * v for v in small.obstacles[0].box]
    assert large.obstacles[0].box == pytest.approx(scaled, abs=2 * factor)
    assert large.obstacles[0].range_m == pytest.approx(small.obstacles[0].range_m, rel=0.05)
    assert len(large.water_edge) == 640 * factor


@given(st.floats(1, 350), st.floats(-10, 10), st.sampled_from([(360, 640), (400, 900), (1080, 1920)]))
@settings(max_examples=20)
def test_the_water_edge_of_a_large_frame_is_exact_to_the_row(
    middle: float, tilt: float, size: tuple[int, int]
) -> None:
    line = np.linspace(middle - tilt, middle + tilt, size[1])
    labels = np.where(np.arange(size[0])[:, None] >= line, WATER, SKY).astype(np.uint8)
    expected = water_edge(water_body(labels, WATER))
    # A column of the shrunk labels stands for its neighbours, and the line falls less than a row to them.
    found = np.nan_to_num(MarineAnalyser(CLASSES)(labels).water_edge, nan=size[0])
    assert np.abs(found - expected).max() <= 1


# --- ranges -----------------------------------------------------------------------------------------------


def test_the_mounting_stands_in_for_a_hidden_horizon() -> None:
    camera = Camera(2.0, 60.0, pitch=-3.0)
    u, v, line = project(camera, -3.0, 0.0, 25.0, 5.0)
    level = camera.level_horizon(SIZE)
    assert level is not None
    assert level.left == pytest.approx(line.left, abs=1e-6)
    labels = open_sea()
    labels[:150] = OBSTACLE  # a shore: no horizon
    row, column = round(v), round(u)
    labels[row - 20 : row, column - 5 : column + 6] = OBSTACLE
    (obstacle,) = MarineAnalyser(CLASSES, camera)(labels).obstacles
    assert obstacle.range_m == pytest.approx(25.0, abs=2 * (obstacle.range_error_m or 0))
    assert obstacle.bearing_deg == pytest.approx(5.0, abs=0.3)
    (without,) = MarineAnalyser(CLASSES, Camera(2.0, 60.0))(labels).obstacles
    assert without.range_m is None
    assert (without.box, without.foot) == (obstacle.box, obstacle.foot)
    assert without.bearing_deg == pytest.approx(5.0, abs=0.3)


def test_the_nearest_obstacle_comes_first_and_the_zone_is_watched() -> None:
    labels = open_sea()
    labels[150:160, 100:120] = OBSTACLE
    labels[200:260, 400:420] = OBSTACLE
    scene = MarineAnalyser(CLASSES, Camera(2.0, 60.0), danger_m=20.0)(labels)
    near, far = scene.obstacles
    assert near.range_m is not None
    assert far.range_m is not None
    assert near.range_m < 20 < far.range_m
    assert (near.danger, far.danger, scene.alarm) == (True, False, True)


def test_what_has_no_range_comes_last() -> None:
    labels = open_sea()
    labels[:150] = OBSTACLE  # no horizon: that of the mounting is at row 219
    labels[180:190, 100:120] = OBSTACLE
    labels[225:230, 300:320] = OBSTACLE
    labels[255:260, 500:520] = OBSTACLE
    scene = MarineAnalyser(CLASSES, Camera(2.0, 60.0, pitch=4.0))(labels)
    ranges = [o.range_m for o in scene.obstacles]
    assert [o.box[0] for o in scene.obstacles] == [500, 300, 100]
    assert ranges[2] is None
    assert ranges[0] is not None
    assert ranges[1] is not None
    assert ranges[0] < ranges[1]


def test_a_scene_as_json_values() -> None:
    labels = open_sea(150, 156)
    labels[200:260, 400:420] = OBSTACLE
    scene = MarineAnalyser(CLASSES, Camera(2.0, 60.0), danger_m=20.0)(labels)
    values = scene.to_dict(samples=3)
    assert list(values) == ["size", "water_edge", "horizon", "obstacles", "alarm"]
    assert values["size"] == [360, 640]
    assert [x for x, _ in values["water_edge"]] == [0, 320, 639]
    assert values["water_edge"][0][1] == 150.0
    assert values["horizon"]["left"] == pytest.approx(149.5, abs=1)
    assert values["horizon"]["right"] == pytest.approx(155.5, abs=1)
    assert 0 <= values["horizon"]["residual"] < 1
    (obstacle,) = values["obstacles"]
    assert obstacle["foot"] == pytest.approx([409.5, 260.0], abs=1.5)
    assert obstacle["danger"]
    assert values["alarm"]
    assert (obstacle["track"], obstacle["closing_mps"], obstacle["nearest_s"]) == (None, None, None)
    assert json.loads(json.dumps(values)) == values
    assert len(scene.to_dict()["water_edge"]) == 32


def test_numbers_in_json_are_rounded_to_what_is_known() -> None:
    known = Obstacle(
        (1, 2, 3, 4),
        (5.06, 6.14),
        7.128,
        8.128,
        9.128,
        True,
        10,
        closing_mps=1.128,
        nearest_s=2.16,
        nearest_m=3.16,
        speed_mps=4.128,
        course_deg=5.16,
    )
    scene = Scene(SIZE, np.zeros(640, np.float32), None, (known,), True)
    assert scene.to_dict()["obstacles"] == [
        {
            "box": [1, 2, 3, 4], "foot": [5.1, 6.1], "bearing_deg": 7.13, "range_m": 8.13,
            "range_error_m": 9.13, "danger": True, "track": 10, "closing_mps": 1.13, "nearest_s": 2.2,
            "nearest_m": 3.2, "speed_mps": 4.13, "course_deg": 5.2,
        }
    ]  # fmt: skip
