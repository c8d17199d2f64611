"""Every step from labels to a scene, on images small enough to work out by hand."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from il2vseg.base.images import Labels
from il2vseg.runtime.marine import scene as module
from il2vseg.runtime.marine.scene import (
    Classes,
    Horizon,
    MarineAnalyser,
    Obstacle,
    Scene,
    far_edge,
    find_obstacles,
    finer_edge,
    fit_horizon,
    roughness,
    water_body,
    water_edge,
    without_fringe,
)
from il2vseg.runtime.marine.water_plane import Camera, Line

OBSTACLE, WATER, SKY = 0, 1, 2
CLASSES = Classes(WATER, OBSTACLE, SKY)


def sea(height: int, width: int, edge: int) -> Labels:
    """Sky above row `edge`, water from it on."""
    labels = np.full((height, width), WATER, np.uint8)
    labels[:edge] = SKY
    return labels


# --- water ------------------------------------------------------------------------------------------------


def test_pieces_of_water_that_touch_at_a_corner_are_two() -> None:
    labels = np.full((20, 20), SKY, np.uint8)
    labels[10:12, 0:2] = WATER  # four pixels, a hundredth of the frame
    labels[12, 2] = WATER  # one, at its corner
    assert water_body(labels, WATER).sum() == 4


def test_the_edge_is_below_the_frame_where_there_is_no_water() -> None:
    body = np.zeros((6, 3), np.uint8)
    body[2:, 0] = body[5, 1] = 1
    assert water_edge(body).tolist() == [2, 5, 6]


@pytest.mark.parametrize(("height", "grown"), [(10, 1), (60, 1), (100, 2)])
def test_the_fringe_is_a_pixel_at_least(height: int, grown: int) -> None:
    labels = np.full((height, 30), WATER, np.uint8)
    labels[:, 15] = 255
    assert ((without_fringe(labels) == 255).sum(1) == 1 + 2 * grown).all()
    assert (without_fringe(labels[:, :10]) == WATER).all()


def test_a_row_of_the_shrunk_labels_is_looked_up_in_those_it_stands_for() -> None:
    labels = np.full((12, 6), SKY, np.uint8)
    for column, first in enumerate((2, 3, 4, 0, 1, 12)):
        labels[first:, column] = WATER
    edge = np.array([1, 1, 1, 0, 0, 4])  # of four rows: the centre of row 1 is row 4, that of row 0 is row 1
    assert finer_edge(labels, edge, 4, WATER).tolist() == [2, 3, 4, 0, 1, 12]
    labels[2, 1] = WATER  # the topmost of them counts
    assert finer_edge(labels, edge, 4, WATER).tolist() == [2, 2, 4, 0, 1, 12]
    assert finer_edge(labels[:10], np.array([1, 2, 2, 0, 0, 4]), 4, WATER).tolist() == [2, 4, 4, 0, 1, 10]


# --- the far edge -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "step", "half", "rank"), [(100, 1, 20, 16), (640, 4, 32, 26), (4, 1, 1, 1)]
)
def test_the_far_edge_is_the_two_fifths_quantile_over_two_fifths_of_the_width(
    monkeypatch: pytest.MonkeyPatch, width: int, step: int, half: int, rank: int
) -> None:
    monkeypatch.setattr(module, "_quantile_slope", lambda x, y: 0.0)
    edge = np.random.default_rng(0).integers(50, 150, width)
    seen = edge[::step].tolist()
    mirrored = seen[half:0:-1] + seen + seen[-2 : -half - 2 : -1]
    level = [sorted(mirrored[i : i + 2 * half + 1])[rank] for i in range(len(seen))]
    found = far_edge(edge)
    assert found[::step].tolist() == level
    assert len(found) == width
    if step == 4:
        assert found[2] == (level[0] + level[1]) / 2  # a straight line between


def test_the_far_edge_of_a_single_column_is_its_own() -> None:
    assert far_edge(np.array([7])).tolist() == [7.0]


def test_the_slope_is_that_of_the_lower_two_fifths() -> None:
    """Half of the points lie on one line and half on another: the two-fifths quantile is on the lower one."""
    x = np.arange(200)
    y = np.where(x % 2 == 0, 10 + 0.1 * x, 60 + 0.3 * x)
    assert module._quantile_slope(x, y) == pytest.approx(0.1, abs=0.005)
    assert module._quantile_slope(x, 0.25 * x + 3) == pytest.approx(0.25)
    assert module._quantile_slope(np.array([0]), np.array([5.0])) == 0.0


def test_a_line_of_least_weighted_squares() -> None:
    rng = np.random.default_rng(0)
    x, y, weights = np.arange(20), rng.normal(size=20), rng.uniform(0.1, 3, 20)
    expected = np.polyfit(x, y, 1, w=np.sqrt(weights))
    assert module._line(x, y, weights) == pytest.approx(expected)


# --- the horizon ------------------------------------------------------------------------------------------


def horizon_of(edge: NDArray[np.int64], height: int = 200) -> Horizon:
    labels = np.where(np.arange(height)[:, None] >= edge, WATER, SKY).astype(np.uint8)
    found = fit_horizon(labels, edge, SKY)
    assert found is not None
    return found


def fitted(edge: NDArray[np.int64], columns: NDArray[np.bool_]) -> Any:
    """Rows at both ends of the line of least squares through these columns."""
    slope, start = np.polyfit(np.flatnonzero(columns), edge[columns] - 0.5, 1)
    return pytest.approx((start, start + slope * (len(edge) - 1)), abs=1e-6)


@pytest.mark.parametrize(
    ("noise", "off", "inlier"),
    [
        (0, 1, True), (0, 2, False),  # all on the line: a pixel is allowed
        (1, 4, True), (1, 5, False),  # a pixel off it, half of them to either side: three are
        (2, 8, True), (2, 9, False),
    ],
)  # fmt: skip
def test_the_line_is_fitted_to_what_is_a_pixel_and_three_median_distances_near(
    noise: int, off: int, inlier: bool
) -> None:
    edge = np.full(400, 100, np.int64) + np.where(np.arange(400) % 2, noise, -noise)
    edge[380:] = 100 + off
    kept = np.full(400, True)
    kept[380:] = inlier
    line = horizon_of(edge).line
    assert (line.left, line.right) == fitted(edge, kept)


def test_only_columns_where_water_borders_sky_tell_the_horizon() -> None:
    edge = np.full(400, 100, np.int64)
    edge[:100] = 200  # no water, sky down to the last row
    edge[100:120] = 0  # water up to the top; what is above it is not the last row
    labels = np.where(np.arange(200)[:, None] >= edge, WATER, SKY).astype(np.uint8)
    labels[-1, 100:120] = SKY
    found = fit_horizon(labels, edge, SKY)
    assert found is not None
    assert (found.line.left, found.line.right, found.residual) == pytest.approx((99.5, 99.5, 0.0))
    top = fit_horizon(sea(5, 8, 1), np.ones(8, np.int64), SKY)
    assert top is not None
    assert (top.line.left, top.line.right) == pytest.approx((0.5, 0.5))


def test_two_columns_have_a_horizon_as_steep_as_they_are() -> None:
    line = horizon_of(np.array([3, 5]), 10).line
    assert (line.left, line.right) == pytest.approx((2.5, 4.5))


def test_the_residual_is_the_median_distance_of_all_columns() -> None:
    edge = np.full(400, 100, np.int64)
    edge[::2] += 3  # evenly: the line is between them
    assert horizon_of(edge).residual == pytest.approx(1.5, abs=0.01)


# --- obstacles --------------------------------------------------------------------------------------------


def obstacles(labels: Labels) -> list[Obstacle]:
    body = water_body(labels, WATER)
    return find_obstacles(labels, body, water_edge(body), CLASSES)


def test_box_and_foot_are_exact_to_the_pixel() -> None:
    labels = sea(100, 200, 40)
    labels[60:70, 50:60] = OBSTACLE
    labels[70:72, 53:56] = OBSTACLE  # the foot is that of the lowest row
    assert obstacles(labels) == [Obstacle((50, 60, 10, 12), (54.0, 72.0))]


@pytest.mark.parametrize(
    ("height", "rows", "found"),
    [(100, 2, False), (100, 3, True), (500, 4, False), (500, 5, True), (1000, 7, False), (1000, 8, True)],
)
def test_what_reaches_a_pixel_and_six_thousandths_below_the_far_edge_stands_in_the_water(
    height: int, rows: int, found: bool
) -> None:
    labels = sea(height, 1000, 40)
    labels[30 : 40 + rows, 400:500] = OBSTACLE
    body = water_body(labels, WATER)
    assert bool(find_obstacles(labels, body, np.full(1000, 40), CLASSES)) == found


def rough_shore(height: int, wave: float) -> Labels:
    """A shore before the sky whose foot, at row 80, goes up and down by so many rows every 40 columns."""
    foot = 80 + wave * np.sin(2 * np.pi * np.arange(640) / 40)
    labels = sea(height, 640, 60)
    labels[(np.arange(height)[:, None] >= 60) & (np.arange(height)[:, None] < foot)] = OBSTACLE
    return labels


def test_a_rough_shore_is_no_obstacle_and_what_floats_before_it_is() -> None:
    labels = rough_shore(360, 4.0)
    assert obstacles(labels) == []
    labels[80:95, 300:330] = OBSTACLE
    (found,) = obstacles(labels)
    assert found.foot == (314.5, 95.0)
    assert found.box[0] == 300
    assert found.box[2] == 30


def test_no_shore_is_so_rough_that_a_fortieth_of_the_height_does_not_count() -> None:
    labels = rough_shore(400, 30.0)
    edge = water_edge(water_body(labels, WATER))
    far = far_edge(edge)
    assert 3 * roughness(edge, far) == pytest.approx(13.8, abs=0.1)
    row = int(far[310]) + 14  # the margin is 2.4 and 10 rows
    labels[row : row + 2, 305:316] = OBSTACLE  # between two bulges of the shore
    assert any(o.foot == (310.0, row + 2.0) for o in obstacles(labels))


def test_the_roughness_of_a_shore_is_the_median_of_its_rows_above_the_far_edge() -> None:
    far = np.full(8, 10.0)
    assert roughness(np.array([10, 10, 9, 7, 6, 30, 40, 50]), far) == 3.0
    assert roughness(np.array([10, 12, 30]), far[:3]) == 0.0


@pytest.mark.parametrize(("gap", "found"), [(0, True), (1, True), (2, False)])
def test_a_row_between_foot_and_water_is_forgiven(gap: int, found: bool) -> None:
    labels = sea(100, 200, 40)
    labels[60:70, 50:60] = OBSTACLE
    labels[70 : 70 + gap, 45:65] = SKY
    assert bool(obstacles(labels)) == found


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_the_end_of_the_frame_hides_what_is_under_a_foot(rows: int) -> None:
    labels = sea(100, 200, 40)
    labels[80 : 101 - rows, 50:60] = OBSTACLE
    labels[101 - rows :, 45:65] = SKY
    assert bool(obstacles(labels)) == (rows < 3)


def test_pieces_that_touch_at_a_corner_are_one_obstacle() -> None:
    labels = sea(100, 200, 40)
    labels[60:65, 50:55] = labels[65:70, 55:60] = OBSTACLE
    assert [o.box for o in obstacles(labels)] == [(50, 60, 10, 10)]


@pytest.mark.parametrize(
    ("left", "right", "whole"),
    [
        (39, 70, (39, 20, 31, 70)),  # arms up to eleven columns beside it
        (50, 81, (50, 20, 31, 70)),
        (38, 70, None),  # twelve: it goes on, as a shore does
        (50, 82, None),
    ],
)
def test_what_rises_above_the_far_edge_belongs_to_it_up_to_half_its_width_aside(
    left: int, right: int, whole: tuple[int, int, int, int] | None
) -> None:
    solid = np.zeros((100, 200), np.bool_)
    solid[20:90, 50:70] = True
    solid[20:25, left:right] = True
    solid[10:15, :] = True  # beyond a gap: the shore behind
    part = (50, 60, 20, 30)
    assert module._whole_box(solid, part) == (whole or part)


def test_a_box_whose_columns_are_solid_to_the_top_is_grown_to_it() -> None:
    solid = np.zeros((100, 200), np.bool_)
    solid[:90, 50] = True
    assert module._whole_box(solid, (50, 60, 1, 30)) == (50, 0, 1, 90)
    solid[5, 52] = True  # two columns aside
    assert module._whole_box(solid, (50, 60, 1, 30)) == (50, 60, 1, 30)
    solid[5, 52], solid[5, 51] = False, True
    assert module._whole_box(solid, (50, 60, 1, 30)) == (50, 0, 2, 90)


# --- the frame --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "shrunk"),
    [
        ((360, 480), (360, 480)), ((960, 200), (960, 200)), ((360, 640), (270, 480)),
        ((200, 960), (100, 480)), ((1, 1920), (1, 480)),
    ],
)  # fmt: skip
def test_the_analysis_looks_at_480_columns_at_most(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], shrunk: tuple[int, int]
) -> None:
    seen: list[tuple[int, ...]] = []

    def body(labels: Labels, water: int) -> NDArray[np.uint8]:
        seen.append(labels.shape)
        return water_body(labels, water)

    monkeypatch.setattr(module, "water_body", body)
    scene = MarineAnalyser(CLASSES)(np.full(size, WATER, np.uint8))
    assert seen == [shrunk]
    assert scene.size == size
    assert scene.water_edge.tolist() == [0.0] * size[1]
    assert scene.water_edge.dtype == np.float32


def test_every_column_of_a_large_frame_has_the_edge_of_the_shrunk_one_that_it_lies_in() -> None:
    labels = sea(400, 960, 100)
    labels[:, 480:482] = SKY
    edge = MarineAnalyser(CLASSES)(labels).water_edge
    assert np.flatnonzero(np.isnan(edge)).tolist() == [480, 481]
    assert set(edge[~np.isnan(edge)].tolist()) == {100.0}


def test_an_obstacle_is_scaled_to_the_frame() -> None:
    small = Obstacle((3, 5, 7, 10), (1.5, 2.5))
    assert module._scaled(small, 2.5) == Obstacle((8, 12, 18, 25), (3.75, 6.25))
    labels = sea(400, 960, 100)
    labels[200:240, 300:320] = OBSTACLE
    (found,) = MarineAnalyser(CLASSES)(labels).obstacles
    assert (found.box, found.foot) == ((300, 200, 20, 40), (309.0, 240.0))


def test_without_water_nothing_stands_in_it() -> None:
    labels = np.full((100, 200), SKY, np.uint8)
    labels[80:90, 50:60] = OBSTACLE
    assert MarineAnalyser(CLASSES)(labels).obstacles == ()


def test_the_edge_of_the_danger_zone_belongs_to_it() -> None:
    labels = sea(100, 200, 40)
    labels[60:70, 50:60] = OBSTACLE
    camera = Camera(2.0, 60.0)
    plain = MarineAnalyser(CLASSES, camera)(labels)
    (obstacle,) = plain.obstacles
    # Row 70 is 30.5 below the horizon, and the focal length is 173.2 pixels.
    assert obstacle.range_m == pytest.approx(2.0 * 173.2 / 30.5, rel=0.05)
    assert obstacle.range_m is not None
    assert (obstacle.danger, plain.alarm, plain.camera) == (False, False, camera)
    for limit, danger in ((obstacle.range_m, True), (obstacle.range_m - 1e-6, False)):
        scene = MarineAnalyser(CLASSES, camera, limit)(labels)
        assert (scene.obstacles[0].danger, scene.alarm) == (danger, danger)


def test_without_a_horizon_a_bearing_is_that_of_the_column() -> None:
    labels = sea(100, 200, 40)
    labels[:40] = OBSTACLE
    labels[60:70, 150:160] = OBSTACLE
    (obstacle,) = MarineAnalyser(CLASSES, Camera(2.0, 60.0), 1000.0)(labels).obstacles
    expected = np.degrees(np.arctan((154.5 - 99.5) / 173.20508))
    assert obstacle.bearing_deg == pytest.approx(expected, abs=1e-4)
    assert (obstacle.range_m, obstacle.danger) == (None, False)


def test_of_two_without_a_range_the_lower_one_comes_first() -> None:
    labels = sea(100, 200, 40)
    labels[50:55, 20:30] = labels[60:65, 80:90] = labels[55:60, 150:160] = OBSTACLE
    assert [o.box[0] for o in MarineAnalyser(CLASSES)(labels).obstacles] == [80, 150, 20]


def test_a_scene_tells_its_horizon_to_the_hundredth_and_its_edge_column_by_column() -> None:
    edge = np.array([1.0, 2.0, np.nan, 4.0, 5.0], np.float32)
    values = Scene((9, 5), edge, Horizon(Line(1.128, 2.128), 0.128), ()).to_dict(3)
    assert values == {
        "size": [9, 5],
        "water_edge": [[0, 1.0], [2, None], [4, 5.0]],
        "horizon": {"left": 1.13, "right": 2.13, "residual": 0.13},
        "obstacles": [],
        "alarm": False,
    }
