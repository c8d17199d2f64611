"""Obstacles: which pieces stand in water, which are found, which are false alarms."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from il2vseg.base.errors import UserError
from il2vseg.evaluate import main, obstacle_score
from il2vseg.evaluation.obstacles import ObstacleScore, standing_pieces, write_mistakes

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
    assert main([*flags, "--json", str(out)]) == 0
    counts = json.loads(out.read_text())["obstacles"]
    assert counts["frames"] == 1
    assert counts["all"]["false_alarms"] == counts["all"]["predicted"]
    assert "false alarms" in capsys.readouterr().out
