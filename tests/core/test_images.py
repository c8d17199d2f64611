from fractions import Fraction
from math import ceil, floor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from il2vseg.base.errors import UserError
from il2vseg.base.images import read_frame, read_labels, resize_frame, resize_labels, write_image

shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def test_frame_and_labels_survive_png(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (5, 7, 3), np.uint8)
    write_image(tmp_path / "frame.png", frame)
    write_image(tmp_path / "labels.png", frame[..., 0])
    assert np.array_equal(read_frame(tmp_path / "frame.png"), frame)
    assert np.array_equal(read_labels(tmp_path / "labels.png"), frame[..., 0])


def test_grey_image_becomes_a_frame(tmp_path: Path) -> None:
    write_image(tmp_path / "grey.png", np.full((4, 4), 9, np.uint8))
    assert read_frame(tmp_path / "grey.png").shape == (4, 4, 3)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_file_that_is_no_image(content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "broken.png"
    file.write_bytes(content)
    for read in (read_frame, read_labels):
        with pytest.raises(UserError, match=r"broken\.png: not a readable image"):
            read(file)


def test_missing_file_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"absent\.png: No such file"):
        read_frame(tmp_path / "absent.png")
    assert capfd.readouterr().err == ""


def test_colour_image_is_no_label_image(tmp_path: Path) -> None:
    write_image(tmp_path / "colour.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match="one 8-bit channel"):
        read_labels(tmp_path / "colour.png")


def test_sixteen_bit_image_is_a_frame_but_no_label_image(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((4, 4), 257 * 128, np.uint16))
    assert read_frame(tmp_path / "deep.png")[0, 0].tolist() == [128, 128, 128]
    with pytest.raises(UserError, match="one 8-bit channel"):
        read_labels(tmp_path / "deep.png")


@pytest.mark.parametrize("name", ["a.nonsense", "a"])
def test_unknown_format_writes_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        write_image(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    assert not list(tmp_path.iterdir())


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))), shapes)
def test_resized_frame_has_the_size_and_stays_in_range(frame: np.ndarray, size: tuple[int, int]) -> None:
    resized = resize_frame(frame, size)
    assert resized.shape == (*size, 3)
    assert resized.dtype == np.uint8
    assert frame.min() <= resized.min()
    assert resized.max() <= frame.max()


@given(arrays.arrays(np.uint8, shapes), shapes)
def test_resized_labels_are_nearest_neighbours(labels: np.ndarray, size: tuple[int, int]) -> None:
    def nearest(count: int, of: int) -> list[tuple[int, int]]:
        """For every target pixel the source pixel at its centre: two where it is on their border."""
        centres = [Fraction(2 * i + 1, 2) * of / count for i in range(count)]
        return [(ceil(c) - 1, min(floor(c), of - 1)) for c in centres]

    resized = resize_labels(labels, size)
    assert resized.shape == size
    for i, rows in enumerate(nearest(size[0], labels.shape[0])):
        for j, columns in enumerate(nearest(size[1], labels.shape[1])):
            assert resized[i, j] in labels[np.ix_(rows, columns)]


def test_shrinking_averages() -> None:
    board = np.indices((64, 64)).sum(0) % 2 * 255
    small = resize_frame(np.repeat(board.astype(np.uint8)[..., None], 3, 2), (8, 8))
    assert np.abs(small.astype(int) - 128).max() <= 1
