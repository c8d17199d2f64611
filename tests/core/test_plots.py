"""Pictures are written whole, with the right colours in the right places."""

from pathlib import Path

import cv2
import numpy as np

from il2vseg.evaluation.plots import SheetRow, colorize, confusion_matrix, iou_bars, sheet

PALETTE = ((255, 0, 0), (0, 255, 0))


def test_colorize_paints_classes_ignored_and_unknown_pixels_apart() -> None:
    picture = colorize(np.array([[0, 1, 255, 7]], np.uint8), PALETTE)
    assert picture.tolist() == [[[0, 0, 255], [0, 255, 0], [255, 255, 255], [40, 40, 40]]]


def test_the_sheet_shows_image_prediction_and_truth_side_by_side(tmp_path: Path) -> None:
    frame = np.full((60, 80, 3), 100, np.uint8)
    labels = np.zeros((30, 40), np.uint8)
    rows = [SheetRow("a", frame, labels, 1 - labels), SheetRow("b", frame, labels, None)]
    sheet(tmp_path / "sheet.png", rows, ("red", "green"), PALETTE, width=160)
    picture = cv2.imread(str(tmp_path / "sheet.png"))
    assert picture.shape[1] == 3 * 160 + 2 * 4
    y = picture.shape[0] - 2 * 124 + 60  # the middle of the first row
    assert [picture[y, x].tolist() for x in (80, 240, 400)] == [[100] * 3, [0, 0, 255], [0, 255, 0]]


def test_a_legend_of_many_classes_fits_the_sheet(tmp_path: Path) -> None:
    names = [f"class number {i}" for i in range(27)]
    row = SheetRow("a", np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.uint8))
    sheet(tmp_path / "sheet.png", [row], names, [(i, i, i) for i in range(27)])
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[1] == 2 * 320 + 4


def test_charts_are_written_for_any_number_of_classes_and_missing_values(tmp_path: Path) -> None:
    iou_bars(tmp_path / "a.png", ["x", "y"], {"one": [50.0, None], "many": [60.0, None]}, "title")
    iou_bars(tmp_path / "b.png", ["x"], {"one": [100.0]}, "title")
    confusion_matrix(
        tmp_path / "c.png", np.array([[5, 0], [0, 0], [1, 0]]), ["0", "1", "2"], ["x", "y"], "title"
    )
    for name in "abc":
        assert cv2.imread(str(tmp_path / f"{name}.png")) is not None
    assert len(list(tmp_path.iterdir())) == 3
