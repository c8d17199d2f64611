"""il2vseg-run with --ignore-mask: the own bow is no obstacle, what is beside it still is."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from il2vseg.base.ignore import IgnoreMask
from il2vseg.base.images import Labels, read_labels, write_image
from il2vseg.runtime.cli import main
from il2vseg.runtime.marine.scene import Classes, MarineAnalyser, without_fringe
from il2vseg.runtime.result import class_fractions

BOW = "0.3,1 0.5,0.6 0.7,1"
OBSTACLE, WATER, SKY, IGNORED = 0, 1, 2, 255
ANALYSE = MarineAnalyser(Classes(WATER, OBSTACLE, SKY))


def sea() -> Labels:
    """Sky above water, the own bow in the middle below, called obstacle."""
    labels = np.full((360, 640), WATER, np.uint8)
    labels[:120] = SKY
    labels[own().pixels((360, 640))] = OBSTACLE
    return labels


def own() -> IgnoreMask:
    return IgnoreMask.parse(BOW)


def masked(labels: Labels) -> Labels:
    return np.where(own().pixels(labels.shape), np.uint8(IGNORED), labels)


def feet(labels: Labels) -> list[tuple[float, float]]:
    return sorted(o.foot for o in ANALYSE(labels).obstacles)


def test_the_own_bow_is_an_obstacle_only_without_the_mask() -> None:
    assert len(feet(sea())) == 1
    assert feet(masked(sea())) == []


def test_a_rim_of_the_bow_beside_the_mask_is_no_obstacle() -> None:
    labels = sea()
    grown = cv2.dilate((labels == OBSTACLE).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    labels[grown] = OBSTACLE
    assert feet(masked(labels)) == []


def test_the_fringe_is_a_fiftieth_of_the_height_on_every_side() -> None:
    labels = np.full((100, 60), WATER, np.uint8)
    labels[70:, 20:40] = IGNORED
    grown = np.full((100, 60), WATER, np.uint8)
    grown[68:, 18:42] = IGNORED
    np.testing.assert_array_equal(without_fringe(labels), grown)


@pytest.mark.parametrize("place", [(200, 80), (300, 100), (140, 320)])
def test_an_obstacle_beside_the_bow_is_found_as_before(place: tuple[int, int]) -> None:
    row, column = place
    labels = sea()
    labels[row : row + 20, column : column + 30] = OBSTACLE
    found = feet(masked(labels))
    assert found == [pytest.approx((column + 14.5, row + 20), abs=3)]


def test_an_obstacle_whose_foot_the_bow_hides_is_not_overlooked() -> None:
    labels = sea()
    labels[180:240, 310:330] = OBSTACLE  # down to the tip of the bow, and behind it
    assert len(feet(masked(labels))) == 1


def test_the_edge_of_the_water_is_that_above_the_bow() -> None:
    scene = ANALYSE(masked(sea()))
    assert scene.horizon is not None
    assert np.nanmax(np.abs(scene.water_edge - 120)) <= 1


def test_shares_are_those_of_what_is_not_left_out() -> None:
    labels = masked(sea())
    fractions = class_fractions(labels, 3)
    assert sum(fractions) == pytest.approx(1)
    assert fractions[OBSTACLE] == 0
    assert fractions[SKY] == pytest.approx((labels == SKY).sum() / (labels != IGNORED).sum())
    assert class_fractions(np.full((4, 4), IGNORED, np.uint8), 3) == [0, 0, 0]


@pytest.mark.parametrize("kind", ["picture", "corners"])
def test_a_run_leaves_the_own_deck_out(model: Path, tmp_path: Path, kind: str) -> None:
    frame = np.full((90, 120, 3), (200, 90, 20), np.uint8)  # water
    bow = own().pixels((90, 120))
    frame[cv2.erode(bow.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0] = 0  # dark: an obstacle
    write_image(tmp_path / "in/a.png", frame)
    mask = str(tmp_path / "bow.png") if kind == "picture" else BOW
    write_image(tmp_path / "bow.png", (255 * bow).astype(np.uint8))
    flags = ["--model", str(model), "--source", str(tmp_path / "in"), "--jsonl", str(tmp_path / "o.jsonl")]
    assert main([*flags, "--save-labels", str(tmp_path / "plain")]) == 0
    assert (read_labels(tmp_path / "plain/a.png") == OBSTACLE).mean() > 0.02
    assert main([*flags, "--save-labels", str(tmp_path / "out"), "--ignore-mask", mask]) == 0
    labels = read_labels(tmp_path / "out/a.png")
    np.testing.assert_array_equal(labels == IGNORED, bow)
    (record,) = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert record["marine"]["obstacles"] == []
    assert record["classes"]["water"] > 0.9


def test_a_mask_of_another_shape_ends_the_run_with_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "bow.png", (255 * own().pixels((90, 90))).astype(np.uint8))
    flags = ["--source", "synthetic:frames=2,size=48x64", "--ignore-mask", str(tmp_path / "bow.png")]
    assert main(["--model", str(model), *flags]) == 2
    assert "draw it on a frame of this camera" in capsys.readouterr().err
