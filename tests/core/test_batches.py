"""One bad member does not end a batch: it is counted and named; where nothing is left, that is an error."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.base.images import write_image
from il2vseg.calib.frames import representative_frames
from il2vseg.data import open_dataset
from il2vseg.export.cli import verification_frames

SIZE = (48, 64)


def frame(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("a page instead of a picture")


DAMAGES = [cut, emptied, text]


@pytest.mark.parametrize("damage", DAMAGES)
def test_frames_to_calibrate_on_survive_a_bad_one(
    tmp_path: Path, damage: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        write_image(tmp_path / f"{number}.png", frame(number))
    damage(tmp_path / "1.png")
    found = representative_frames(tmp_path, SIZE, 4)
    assert sorted(name for name, _ in found) == ["0", "2", "3"]
    np.testing.assert_array_equal(dict(found)["3"], frame(3))  # each name with its own picture
    assert "skipped 1 of 4 images" in capfd.readouterr().err


@pytest.mark.parametrize("damage", DAMAGES)
def test_frames_to_verify_on_survive_a_bad_one(
    tmp_path: Path, damage: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        write_image(tmp_path / f"{number}.png", frame(number))
    damage(tmp_path / "0.png")
    assert [name for name, _ in verification_frames(tmp_path, SIZE)] == ["1", "2"]
    assert "0.png" in capfd.readouterr().err


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.png").touch()
    with pytest.raises(UserError, match="none of 2 images"):
        representative_frames(tmp_path, SIZE, 4)
    with pytest.raises(UserError, match="none of 2 images"):
        list(verification_frames(tmp_path, SIZE))


def scored(root: Path) -> Path:
    for number in range(3):
        write_image(root / f"val/images/{number}.png", frame(number))
        write_image(root / f"val/masks/{number}m.png", np.full(SIZE, number, np.uint8))
    return root / "val"


def colours(split: Path) -> None:
    write_image(split / "masks/1m.png", frame(0))


def sixteen_bit(split: Path) -> None:
    cv2.imwrite(str(split / "masks/1m.png"), np.full(SIZE, 1, np.uint16))


def bad_mask(split: Path) -> None:
    cut(split / "masks/1m.png")


def bad_image(split: Path) -> None:
    cut(split / "images/1.png")


@pytest.mark.parametrize("damage", [colours, sixteen_bit, bad_mask, bad_image])
def test_evaluation_survives_a_bad_image_or_mask(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(scored(tmp_path))
    data = open_dataset("mastr1325", tmp_path, "val", labelled=True)
    assert [sample.name for sample in data] == ["0", "2"]
    (reason,) = data.skipped
    assert "1.png" in reason or "1m.png" in reason
    assert "skipped 1 of 3 images" in str(data.skipped_note())
