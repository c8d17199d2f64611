"""Obstacles: which pieces stand in water, which are found, which are false alarms."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from il2vseg.base.errors import UserError
from il2vseg.data import Dataset, open_dataset
from il2vseg.data.classes import Classes
from il2vseg.data.dataset import Sample
from il2vseg.data.synthetic.camera import canvas_of, pose_of, range_at, roll_matrix
from il2vseg.data.synthetic.drawing import draw
from il2vseg.data.synthetic.scene import Vessel, scene_of
from il2vseg.evaluate import EvaluateConfig, evaluate, false_alarms, main, obstacle_score, zone_of
from il2vseg.evaluation.danger import DangerZone
from il2vseg.evaluation.obstacles import ObstacleScore, standing_pieces, table, write_mistakes
from il2vseg.runtime.marine.water_plane import Camera

OBSTACLE, WATER, SKY, IGNORE = 0, 1, 2, 255


def sea(height: int = 360, width: int = 640, edge: int = 120) -> np.ndarray:
    labels = np.full((height, width), WATER, np.uint8)
    labels[:edge] = SKY
    return labels


def score(predicted: np.ndarray, truth: np.ndarray | None) -> dict:
    total = ObstacleScore(OBSTACLE, WATER)
    total.update("frame", np.zeros((*predicted.shape, 3), np.uint8), predicted, truth)
    return total.counts.to_json()


def slow_pieces(labels: np.ndarray) -> set[frozenset[tuple[int, int]]]:
    """The definition, pixel by pixel: flood fill, then the lowest pixel of every column."""
    height, width = labels.shape
    reach = max(1, round(0.012 * height))
    todo = {(y, x) for y, x in zip(*np.nonzero(labels == OBSTACLE), strict=True)}
    found = set()
    while todo:
        stack, piece = [todo.pop()], set()
        while stack:
            y, x = stack.pop()
            piece.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & todo
            todo -= near
            stack += near
        xs = {x for _, x in piece}
        area = len(piece) * 640 * 360 / labels.size
        if area < 18 or len(piece) > 0.1 * labels.size or max(xs) - min(xs) + 1 > 0.5 * width:
            continue
        if 0 in xs or width - 1 in xs:
            continue
        votes = []
        for x in xs:
            y = max(y for y, other in piece if other == x)
            if y == height - 1:
                continue
            below = y + 1
            while below < height and below < y + reach and labels[below, x] == IGNORE:
                below += 1
            votes.append(below < height and labels[below, x] == WATER)
        if votes and sum(votes) / len(votes) >= 0.5:
            found.add(frozenset(piece))
    return found


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30)
def test_pieces_equal_those_of_a_slow_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.choice([OBSTACLE, WATER, SKY, IGNORE], p=[0.25, 0.5, 0.15, 0.1], size=(12, 16))
    labels = np.kron(coarse, np.ones((3, 3))).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.03] = IGNORE
    none = np.zeros(labels.shape, bool)
    pieces = standing_pieces(labels, none, OBSTACLE, WATER)
    boxes = sorted(p.box for p in pieces)
    expected = []
    for piece in slow_pieces(labels):
        ys, xs = zip(*piece, strict=True)
        expected.append((min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1))
    assert boxes == sorted(expected)


def test_half_of_the_pixels_find_a_piece_and_size_tells_small_from_large() -> None:
    truth = sea()
    truth[200:215, 100:120] = OBSTACLE  # 300 pixels: large
    truth[250:260, 300:310] = OBSTACLE  # 100 pixels: small
    predicted = truth.copy()
    predicted[200:207, 100:120] = WATER  # 160 of 300 are left
    predicted[250:256, 300:310] = WATER  # 40 of 100 are left
    found = score(predicted, truth)
    assert (found["large"]["pieces"], found["large"]["found"]) == (1, 1)
    assert (found["small"]["pieces"], found["small"]["found"]) == (1, 0)
    assert found["all"]["recall"] == 50


def test_land_sky_and_the_smallest_specks_are_no_pieces() -> None:
    truth = sea()
    truth[60:130, :] = OBSTACLE  # the far bank
    truth[150:160, 0:30] = OBSTACLE  # what comes in from the side
    truth[20:40, 300:340] = OBSTACLE  # a balloon: no water below
    truth[60:140, 500:540] = OBSTACLE  # a boat before the bank is one piece with it
    truth[300:304, 300:304] = OBSTACLE  # 16 pixels
    assert score(truth, truth)["all"]["pieces"] == 0


def test_a_predicted_piece_is_a_false_alarm_unless_a_quarter_of_it_is_true() -> None:
    truth = sea()
    truth[200:210, 100:120] = OBSTACLE
    predicted = sea()
    predicted[195:215, 95:125] = OBSTACLE  # a generous piece around the true one: 200 of 600
    predicted[300:320, 400:420] = OBSTACLE
    result = score(predicted, truth)["all"]
    assert (result["predicted"], result["false_alarms"]) == (2, 1)
    assert result["precision"] == 50


def test_ignored_pixels_make_no_false_alarm() -> None:
    truth = sea()
    truth[295:325, 395:425] = IGNORE
    predicted = sea()
    predicted[300:320, 400:420] = OBSTACLE
    assert score(predicted, truth)["all"]["false_alarms"] == 0
    assert score(predicted, None)["all"]["false_alarms"] == 1


def test_sizes_are_those_of_640x360_in_any_frame() -> None:
    truth = sea(720, 1280, 240)
    truth[400:430, 200:240] = OBSTACLE  # 1200 pixels, 300 of 640x360
    assert score(truth, truth)["large"]["found"] == 1
    truth[400:401, 200:240] = WATER
    assert score(truth, truth)["small"]["found"] == 1


def test_the_sheet_shows_the_worst_frames(tmp_path: Path) -> None:
    total = ObstacleScore(OBSTACLE, WATER)
    for i in range(30):
        truth = sea()
        truth[200 : 205 + i, 100:120] = OBSTACLE
        total.update(f"frame {i}", np.zeros((360, 640, 3), np.uint8), sea(), truth)
    assert [m.name for m in total.mistakes[:2]] == ["frame 29", "frame 28"]
    assert len(total.mistakes) == 24
    write_mistakes(tmp_path / "sheet.jpg", total.mistakes)
    assert (tmp_path / "sheet.jpg").stat().st_size > 0


def test_obstacles_stand_on_water_or_road_and_other_classes_are_refused() -> None:
    assert obstacle_score(["road", "sky", "water", "obstacle"]).ground == 2
    assert obstacle_score(["sky", "road", "obstacle"]).ground == 1
    with pytest.raises(UserError, match="no class is called water or road"):
        obstacle_score(["obstacle", "pavement"])
    with pytest.raises(UserError, match="no class is called obstacle"):
        obstacle_score(["road", "water"])


def test_people_on_a_road_are_pieces_as_swans_on_water_are() -> None:
    truth = np.full((90, 160), 2, np.uint8)
    truth[40:] = 1
    truth[50:70, 60:66] = 0
    score = obstacle_score(["obstacle", "road", "building"])
    score.update("street", np.zeros((90, 160, 3), np.uint8), np.where(truth == 0, 1, truth), truth)
    assert score.counts.to_json()["all"]["pieces"] == 1
    assert score.counts.to_json()["all"]["found"] == 0


def test_the_command_counts_false_alarms_on_footage_without_masks(tmp_path: Path, capsys) -> None:
    model = Path(__file__).parents[2] / "runtime" / "bundled" / "marine-lite"
    import cv2

    from il2vseg.data.synthetic import render

    cv2.imwrite(str(tmp_path / "a.png"), render(0, 0)[0])
    out = tmp_path / "numbers.json"
    flags = ["--model", str(model), "--dataset", "folder", "--root", str(tmp_path), "--obstacles"]
    flags += ["--danger-zone", "15", "--camera-height", "2", "--fov", "60", "--pitch", "-3"]
    assert main([*flags, "--json", str(out)]) == 0
    counts = json.loads(out.read_text())["obstacles"]
    assert counts["frames"] == 1
    assert counts["all"]["false_alarms"] == counts["all"]["predicted"]
    assert (counts["near"]["within_m"], counts["near"]["frames"]) == (15, 1)
    printed = capsys.readouterr().out
    assert "false alarms" in printed
    assert "within 15 m" in printed


NAMES = ("obstacle", "water", "sky")
CAMERA = Camera(1.5, 90.0)
"""Focal length 320 pixels of 640x360: row v below a level horizon is 480 / (v - 179.5) metres ahead."""

NEAR, FAR = 480 / 32.5, 480 / 31.5
"""Metres to rows 212 and 211: 14.8 and 15.2."""


def with_piece(labels: np.ndarray, foot: int, left: int = 310) -> np.ndarray:
    """Labels with a piece of 19 columns, straight ahead, and 10 rows that ends above row `foot`."""
    labels = labels.copy()
    labels[foot - 10 : foot, left : left + 19] = OBSTACLE
    return labels


def in_zone(predicted: np.ndarray, truth: np.ndarray, zone: DangerZone) -> dict:
    score = obstacle_score(NAMES, zone=zone)
    frame = np.zeros((360, 640, 3), np.uint8)
    score.update("a", frame, predicted, truth, range_at=zone.range_at(truth, NAMES, frame.shape))
    return score.counts.to_json()


def test_the_range_of_a_foot_is_that_of_the_water_below_the_true_horizon() -> None:
    level = sea(edge=180)
    metres = DangerZone(15, CAMERA).range_at(level, NAMES, (360, 640, 3))
    assert metres is not None
    assert metres(319.5, 212) == pytest.approx(NEAR)
    assert metres(319.5, 211) == pytest.approx(FAR)
    assert metres(319.5, 170) is None  # above the horizon
    squeezed = DangerZone(15, CAMERA).range_at(level[::2], NAMES, (360, 640, 3))
    assert squeezed is not None
    assert squeezed(319.5, 106) == pytest.approx(NEAR)


def test_the_zone_counts_what_has_its_foot_in_it() -> None:
    zone, empty = DangerZone(15, CAMERA), sea(edge=180)
    truth = with_piece(with_piece(empty, 212), 200, left=500)
    predicted = with_piece(with_piece(with_piece(empty, 200, left=500), 300), 195, left=100)
    found = in_zone(predicted, truth, zone)
    near = found["near"]
    assert (near["frames"], near["pieces"], near["found"], near["recall"]) == (1, 1, 0, 0)
    assert (near["predicted"], near["false_alarms"], near["false_alarms_per_frame"]) == (1, 1, 1)
    assert (found["all"]["pieces"], found["all"]["found"], found["all"]["false_alarms"]) == (2, 1, 2)
    assert in_zone(truth, truth, zone)["near"]["found"] == 1
    assert in_zone(empty, with_piece(empty, 211), zone)["near"]["pieces"] == 0


@pytest.mark.parametrize(("metres", "pieces"), [(15.0, 1), (15.001, 0), (None, 0)])
def test_the_edge_of_the_zone_belongs_to_it(metres: float | None, pieces: int) -> None:
    score = obstacle_score(NAMES, zone=DangerZone(15))
    truth = with_piece(sea(), 212)
    score.update("a", np.zeros((360, 640, 3), np.uint8), truth, truth, range_at=lambda column, row: metres)
    assert score.counts.to_json()["near"]["pieces"] == pieces


def test_without_horizon_the_pitch_decides_and_without_both_there_is_no_range() -> None:
    level, hidden = with_piece(sea(edge=180), 212), with_piece(sea(edge=0), 212)
    unknown = in_zone(hidden, hidden, DangerZone(15, CAMERA))
    assert unknown["all"]["pieces"] == 1
    near = unknown["near"]
    assert (near["frames"], near["pieces"], near["predicted"], near["recall"]) == (0, 0, 0, None)
    assert near["false_alarms_per_frame"] is None
    assert in_zone(hidden, hidden, DangerZone(15, replace(CAMERA, pitch=0.0)))["near"]["pieces"] == 1
    assert in_zone(hidden, hidden, DangerZone(15, replace(CAMERA, pitch=3.0)))["near"]["pieces"] == 0
    assert in_zone(level, level, DangerZone(15, replace(CAMERA, pitch=3.0)))["near"]["pieces"] == 1


class Seer:
    """A model that sees the horizon too high, and a piece at 18.8 m that would then be at 5.1."""

    size, grid, alpha, class_names = (360, 640), (9, 16), 0.0, NAMES

    def predict(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = np.repeat(with_piece(sea(edge=120), 205)[None], len(frames), 0)
        return torch.from_numpy(seen), torch.zeros((len(frames), 3, 9, 16))


class OneFrame:
    """A part of a data set: a frame at 12 seconds and its mask."""

    name, count = "a", 1

    def read(self, wanted: Sequence[int]) -> Iterator[Sample]:
        labels = with_piece(sea(edge=180), 205)
        yield Sample("a", np.zeros((360, 640, 3), np.uint8), labels, 12.0)


def test_masks_give_the_horizon_and_where_there_are_none_the_model() -> None:
    data, zone = Dataset("one", Classes(NAMES, ((0, 0, 0),) * 3), [OneFrame()]), DangerZone(15, CAMERA)
    report = evaluate(Seer(), data, obstacles=True, zone=zone)  # type: ignore[arg-type]
    assert report.obstacles is not None
    masked = report.obstacles.counts.to_json()
    assert (masked["all"]["found"], masked["near"]["frames"], masked["near"]["pieces"]) == (1, 1, 0)
    unmasked = false_alarms(Seer(), data, zone=zone).counts.to_json()["near"]  # type: ignore[arg-type]
    assert (unmasked["frames"], unmasked["false_alarms"]) == (1, 1)
    assert unmasked["followed_false_alarms_per_frame"] == 0


def test_without_a_zone_nothing_tells_of_one() -> None:
    counts = ObstacleScore(OBSTACLE, WATER).counts
    assert list(counts.to_json()) == ["frames", "all", "small", "large"]
    plain = table(counts, "t")
    assert (plain.row_count, plain.caption) == (3, None)
    zoned = ObstacleScore(OBSTACLE, WATER, zone=DangerZone(15)).counts
    assert list(zoned.to_json()) == ["frames", "all", "small", "large", "near"]
    assert list(table(zoned, "t").columns[0].cells)[-1] == "within 15 m"
    assert table(zoned, "t").caption == "ranges are known in 0 of 0 frames"


def test_the_flags_say_how_the_camera_is_mounted() -> None:
    flags = {"dataset": "folder", "obstacles": True, "camera_height": 2.0, "fov": 60.0, "pitch": -3.0}
    assert zone_of(EvaluateConfig(**flags, danger_zone=15.0)) == DangerZone(15, Camera(2, 60, -3))
    assert zone_of(EvaluateConfig(danger_zone=20.0)) == DangerZone(20)
    assert zone_of(EvaluateConfig()) is None


@pytest.mark.parametrize("seed", [20_000, 20_003, 20_007])
def test_the_range_in_a_rendered_scene_is_the_distance_of_what_was_drawn(seed: int) -> None:
    scene, size, frame = scene_of(seed), (360, 640), 34
    canvas = canvas_of(size)
    pose = pose_of(scene, frame, canvas)
    roll = roll_matrix(pose, canvas)
    x = (canvas.columns - 1) / 2 + canvas.focal * 4 / 12  # 12 m ahead and 4 to starboard
    y = pose.horizon + canvas.focal * scene.eye / 12
    column, row = np.linalg.solve(roll[:, :2], (x, y) - roll[:, 2])
    assert range_at(seed, frame, size, column, row) == pytest.approx(np.hypot(12, 4))
    assert range_at(seed, frame, size, column, row - 300) is None
    black, ahead = (0.0, 0.0, 0.0), 12 * pose.yaw + pose.travel
    buoy = Vessel("can", 12.0, ahead, 0.0, 0.5, black, black, 0.0)
    labels = draw(replace(scene, vessels=(buoy,)), None, seed, frame, size)[1]
    piece = max(standing_pieces(labels, labels == OBSTACLE, OBSTACLE, WATER), key=lambda p: p.foot[1])
    assert range_at(seed, frame, size, *piece.foot) == pytest.approx(12, rel=0.06)  # it heaves


def test_rendered_scenes_know_their_ranges() -> None:
    for split in ("val", "obstacles"):
        data = open_dataset("synthetic", None, split, labelled=True, limit=2)
        assert [s.range_at is not None and s.range_at(320, 350) is not None for s in data] == [True, True]
    report = evaluate(Seer(), data, obstacles=True, zone=DangerZone(15))  # type: ignore[arg-type]
    assert report.obstacles is not None
    assert report.obstacles.counts.to_json()["near"]["frames"] == 2
    cropped = open_dataset("synthetic", None, "val", labelled=True, limit=1, crop="center")
    assert [s.range_at for s in cropped] == [None]
