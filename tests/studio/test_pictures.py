"""Exemplars at equal steps of a cluster's pixels, and crops that hold what they show."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from il2vseg.base.images import decode_frame
from il2vseg.studio.pictures import crop_box, exemplar, exemplar_frames, exemplar_sheet, heat


def test_every_exemplar_stands_for_an_equal_part_of_the_pixels() -> None:
    assert exemplar_frames(np.array([0, 10, 0, 10, 10, 0]), 3) == [1, 3, 4]
    assert exemplar_frames(np.array([1, 1, 1000, 1]), 6) == [2]
    assert exemplar_frames(np.array([50, 1, 1, 1, 1, 50]), 2) == [0, 5]
    assert exemplar_frames(np.zeros(4, np.int64)) == []


@given(st.integers(0, 8), st.integers(0, 15), st.integers(1, 9), st.integers(1, 16))
def test_a_crop_lies_in_the_frame_and_holds_its_piece_middle(row: int, column: int, h: int, w: int) -> None:
    mask = np.zeros((9, 16), bool)
    mask[row : row + h, column : column + w] = True
    top, left, bottom, right = crop_box(mask, (180, 320))
    assert 0 <= top < bottom <= 180
    assert 0 <= left < right <= 320
    assert mask[top * 9 // 180 : -(-bottom * 9 // 180), left * 16 // 320 : -(-right * 16 // 320)].any()
    assert abs((right - left) / (bottom - top) - 4 / 3) < 0.03


def test_an_exemplar_is_bright_on_the_cluster_and_dim_elsewhere() -> None:
    frame, mask = np.full((180, 320, 3), 200, np.uint8), np.zeros((9, 16), bool)
    mask[4:6, 6:10] = True
    picture = exemplar(frame, mask)
    assert picture.shape == (120, 160, 3)
    assert picture[60, 80].tolist() == [200] * 3
    assert picture[5, 5].tolist() == [80] * 3


def test_a_sheet_has_three_columns_and_two_rows() -> None:
    frame, mask = np.full((180, 320, 3), 200, np.uint8), np.ones((9, 16), bool)
    sheet = decode_frame(exemplar_sheet([3, 4], lambda index: frame, lambda index: mask))
    assert sheet.shape == (240, 480, 3)
    assert sheet[60, 240].min() > 150
    assert sheet[180, 80].max() < 60


def test_heat_is_bright_where_the_cluster_lies() -> None:
    cells = np.zeros((5, 9, 16), bool)
    cells[:, 8] = True
    picture = decode_frame(heat(cells))
    assert picture.shape == (72, 128, 3)
    assert int(picture[70, 64].sum()) > 10 * int(picture[5, 64].sum() + 1)
    assert decode_frame(heat(np.zeros((5, 9, 16), bool))).max() < 20
