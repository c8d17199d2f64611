from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame, write_image
from il2vseg.runtime.sources import SourceOptions, open_source
from il2vseg.runtime.sources.geometry import Geometry


class Events:
    def __init__(self) -> None:
        self.kinds: list[str] = []

    def __call__(self, kind: str, message: str, **data: Any) -> None:
        self.kinds.append(kind)


def images(folder: Path, frames: list[Frame], names: list[str]) -> Path:
    for frame, name in zip(frames, names, strict=False):
        write_image(folder / name, frame)
    return folder


def test_a_folder_yields_its_images_in_natural_order(tmp_path: Path, frames: list[Frame]) -> None:
    folder = images(tmp_path / "d", frames, ["f10.png", "f2.png", "sub/f1.png"])
    with open_source(folder) as source:
        captured = list(source)
    assert [c.name for c in captured] == ["f2", "f10", "sub/f1"]
    assert [c.index for c in captured] == [0, 1, 2]
    np.testing.assert_array_equal(captured[0].frame, frames[1])
    assert not source.live
    assert source.total == 3


def test_two_files_never_share_a_name(tmp_path: Path, frames: list[Frame]) -> None:
    folder = images(tmp_path / "d", frames, ["a.png", "a.jpg", "b.png"])
    assert [c.name for c in open_source(folder)] == ["a.jpg", "a.png", "b"]


def test_an_unreadable_image_is_skipped_and_counted(tmp_path: Path, frames: list[Frame]) -> None:
    folder = images(tmp_path / "d", frames, ["a.png", "b.png", "c.png"])
    (folder / "b.png").write_bytes(b"no image")
    events = Events()
    source = open_source(folder, report=events)
    assert [c.name for c in source] == ["a", "c"]
    assert source.skipped == 1
    assert events.kinds == ["frame_unreadable"]


def test_a_pattern_selects_files(tmp_path: Path, frames: list[Frame]) -> None:
    folder = images(tmp_path / "d", frames, ["a1.png", "a2.png", "b1.png"])
    assert [c.name for c in open_source(f"{folder}/a*.png")] == ["a1", "a2"]
    assert [c.name for c in open_source(f"{tmp_path}/*/b?.png")] == ["d/b1"]


def test_a_clip_yields_every_frame(clip: Path) -> None:
    source = open_source(clip)
    captured = list(source)
    assert source.fps == pytest.approx(10)
    assert source.total == len(captured) == 12
    assert [c.name for c in captured[:2]] == ["frame_000000", "frame_000001"]
    assert captured[0].frame.shape == (120, 160, 3)


def test_a_folder_of_clips_plays_them_all(tmp_path: Path, clip: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(clip.read_bytes())
    (tmp_path / "broken.mp4").write_bytes(b"no clip")
    source = open_source(tmp_path)
    captured = list(source)
    assert len(captured) == 24
    assert captured[12].name == "b/frame_000000"
    assert [c.index for c in captured] == list(range(24))
    assert source.skipped == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing", "no such file"), ("empty", "no images and no clips"), ("text.txt", "not a readable clip")],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(UserError, match=message):
        open_source(tmp_path / name)


def test_synthetic_scenes_are_a_recording_when_they_have_an_end() -> None:
    source = open_source("synthetic:seed=3,frames=3,loop=2,size=64x96")
    captured = list(source)
    assert not source.live
    assert [c.frame.shape for c in captured] == [(64, 96, 3)] * 3
    np.testing.assert_array_equal(captured[0].frame, captured[2].frame)
    assert open_source("synthetic:").live


@pytest.mark.parametrize("option", ["speed=3", "frames=x", "size=10", "size=4x4", "frames=0"])
def test_a_wrong_synthetic_option_is_refused(option: str) -> None:
    with pytest.raises(UserError, match="synthetic:"):
        open_source(f"synthetic:{option}")


def test_frames_are_turned_then_cropped(tmp_path: Path, frames: list[Frame]) -> None:
    folder = images(tmp_path / "d", frames[:1], ["a.png"])
    options = SourceOptions(geometry=Geometry(rotate=90, crop=(5, 10, 20, 30)))
    (captured,) = open_source(folder, options)
    expected = cv2.rotate(frames[0], cv2.ROTATE_90_CLOCKWISE)[10:40, 5:25]
    np.testing.assert_array_equal(captured.frame, expected)


def test_a_crop_outside_the_frame_is_refused(tmp_path: Path, frames: list[Frame]) -> None:
    folder = images(tmp_path / "d", frames[:1], ["a.png"])
    source = open_source(folder, SourceOptions(geometry=Geometry(crop=(100, 0, 100, 10))))
    with pytest.raises(UserError, match=r"does not lie inside the frame of 120x90"):
        source.read()


def _calibration(path: Path, distortion: list[float]) -> Path:
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.write("image_width", 240)
    storage.write("image_height", 180)
    storage.write("camera_matrix", np.array([[200.0, 0, 119.5], [0, 200, 89.5], [0, 0, 1]]))
    storage.write("distortion_coefficients", np.array([distortion]))
    storage.release()
    return path


def test_a_lens_without_distortion_changes_nothing(tmp_path: Path, frames: list[Frame]) -> None:
    folder = images(tmp_path / "d", frames[:1], ["a.png"])
    lens = _calibration(tmp_path / "lens.yaml", [0.0] * 5)
    (captured,) = open_source(folder, SourceOptions(geometry=Geometry(calibration=lens)))
    np.testing.assert_array_equal(captured.frame, frames[0])


def test_undistortion_straightens_a_line(tmp_path: Path) -> None:
    # Draw where a lens with barrel distortion shows the straight line y = 20 of a 120x90 frame.
    k1 = -0.3
    matrix = np.array([[100.0, 0, 59.5], [0, 100, 44.5], [0, 0, 1]])
    straight = np.stack([(np.arange(0, 120) - 59.5) / 100, np.full(120, (20 - 44.5) / 100), np.ones(120)], 1)
    curved, _ = cv2.projectPoints(straight, np.zeros(3), np.zeros(3), matrix, np.array([k1, 0, 0, 0, 0]))
    image = np.zeros((90, 120, 3), np.uint8)
    cv2.polylines(image, [np.round(curved * 16).astype(np.int32)], False, (255, 255, 255), 2, cv2.LINE_AA, 4)
    write_image(tmp_path / "d/a.png", image)
    lens = _calibration(tmp_path / "lens.yaml", [k1, 0, 0, 0, 0])
    (captured,) = open_source(tmp_path / "d", SourceOptions(geometry=Geometry(calibration=lens)))
    weight = captured.frame[:, 10:110, 0].astype(float)
    rows = (weight * np.arange(90)[:, None]).sum(0) / weight.sum(0)
    assert np.ptp((image[:, 10:110, 0] * np.arange(90.0)[:, None]).sum(0) / image[:, 10:110, 0].sum(0)) > 1
    assert np.ptp(rows) < 0.6


def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path, frames: list[Frame]) -> None:
    folder = images(tmp_path / "d", frames[:1], ["a.png"])
    (tmp_path / "lens.yaml").write_text("hello: world\n")
    for name, message in (("lens.yaml", "alibration|camera_matrix"), ("none.yaml", "no such calibration")):
        with pytest.raises(UserError, match=message):
            open_source(folder, SourceOptions(geometry=Geometry(calibration=tmp_path / name)))


def test_a_damaged_clip_plays_what_can_be_decoded(tmp_path: Path, clip: Path) -> None:
    data = bytearray(clip.read_bytes())
    damaged = tmp_path / "damaged.mp4"
    middle = len(data) // 3
    data[middle : middle + 400] = bytes(400)
    damaged.write_bytes(data)
    captured = list(open_source(damaged))
    assert 3 <= len(captured) <= 12
    assert all(c.frame.shape == (120, 160, 3) for c in captured)
