"""Training on footage as it really is: mixed shapes, damaged clips, other footage, bounded features."""

import os
from pathlib import Path

import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.base.images import write_image
from il2vseg.data import open_dataset
from il2vseg.learning import room
from il2vseg.learning.room import make_room
from tests.footage import cut, numbered, write_clip


def test_the_commonest_shape_decides_and_the_rest_is_counted(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", numbered(3, (160, 90)))
    for i in range(1, 5):
        write_image(tmp_path / f"{i}.png", numbered(i))
    dataset = open_dataset("folder", tmp_path, "train")
    assert dataset.common_shape() == (90, 160)
    assert len(list(dataset)) == 5
    note = dataset.shape_note((90, 160))
    assert note is not None
    assert "1 of 5 frames have another aspect" in note
    assert "90x160" in note


def test_a_clip_counts_with_all_its_frames(tmp_path: Path) -> None:
    for i in range(4):
        write_image(tmp_path / f"{i}.png", numbered(3, (160, 90)))
    write_clip(tmp_path / "z.mp4", 9)
    assert open_dataset("folder", tmp_path, "train").common_shape() == (90, 160)


def test_shapes_that_differ_by_a_patch_are_one(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", numbered(3, (90, 160)))
    dataset = open_dataset("folder", tmp_path, "train")
    list(dataset)
    assert dataset.shape_note((252, 448)) is None
    assert dataset.shape_note((448, 252)) is not None


def test_an_unreadable_first_file_does_not_decide(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"no image")
    write_image(tmp_path / "1.png", numbered(3))
    assert open_dataset("folder", tmp_path, "train").common_shape() == (90, 160)


def test_a_truncated_clip_is_noted_with_the_frames_it_lacks(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", container_options={"movflags": "faststart"})
    (tmp_path / "f").mkdir()
    cut(whole, 0.7).rename(tmp_path / "f/a.mp4")
    dataset = open_dataset("folder", tmp_path / "f", "train")
    assert len(dataset) == 12
    read = len(list(dataset))
    assert 0 < read < 12
    assert dataset.lost == 12 - read
    note = dataset.skipped_note()
    assert note is not None
    assert f"skipped {12 - read} of 12 images" in note
    assert "ends after" in note


def test_frames_of_a_clip_have_the_same_numbers_however_few_are_wanted(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mkv", 12)
    every = {s.name: s.frame for s in open_dataset("folder", tmp_path, "train")}
    few = list(open_dataset("folder", tmp_path, "train", limit=3))
    assert [s.name for s in few] == ["a/000002", "a/000006", "a/000010"]
    for sample in few:
        np.testing.assert_array_equal(sample.frame, every[sample.name])


# --- features ----------------------------------------------------------------------------------------------


def _features(folder: Path, names: list[str], size: int, days_ago: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        path = folder / f"{name}.npy"
        path.write_bytes(bytes(size))
        used = path.stat().st_mtime - 86_400 * days_ago - i
        os.utime(path, (used, used))


def test_what_features_take_is_announced(tmp_path: Path) -> None:
    _features(tmp_path / "features/vit", ["a"], 3_000_000, 0)
    line = make_room(tmp_path / "features/vit", 50_000_000, 10**9)
    assert "0.047 GB" in line
    assert "holds 3 MB" in line


def test_the_features_used_longest_ago_go_first(tmp_path: Path) -> None:
    _features(tmp_path / "features/old", ["b", "a"], 1000, 9)  # a was used before b
    _features(tmp_path / "features/vit", ["c"], 1000, 2)
    make_room(tmp_path / "features/vit", 2000, 3000)
    assert sorted(p.stem for p in tmp_path.rglob("*.npy")) == ["b", "c"]


def test_features_used_today_stay_and_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    assert room.KEEP_S == 86_400.0
    _features(tmp_path / "features/old", ["a"], 2000, 0.5)
    with pytest.raises(UserError, match=r"more than --cache-limit 3e-06; raise it, or use fewer frames"):
        make_room(tmp_path / "features/vit", 2000, 3000)
    assert (tmp_path / "features/old/a.npy").exists()


def test_what_the_disk_does_not_hold_is_refused_before_it_is_computed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="are free; choose another --cache"):
        make_room(tmp_path / "features/vit", 10**15, 10**18)
