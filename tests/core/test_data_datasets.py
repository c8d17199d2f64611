"""Opening data sets: layouts, order, thinning, what is skipped and what is refused."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from il2vseg.base.errors import UserError
from il2vseg.data import IGNORE, open_dataset, synthetic
from il2vseg.data.dataset import spread


def paint(path: Path, value: int = 0, size: tuple[int, int] = (8, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))


def mask(path: Path, values: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.array(values, np.uint8))


def marine_split(root: Path, split: str = "val", count: int = 3) -> Path:
    for i in range(1, count + 1):
        paint(root / split / "images" / f"f_{i}.jpg")
        mask(root / split / "masks" / f"f_{i}m.png", [[0, 1], [2, 4]])
    return root


def test_folder_reads_nested_images_and_clips_in_natural_order(tmp_path: Path) -> None:
    for name in ("b/frame_10.png", "b/frame_2.png", "a.jpg"):
        paint(tmp_path / name)
    synthetic.write_clip(tmp_path / "c.mp4", frames=3, size=(32, 48))
    (tmp_path / "notes.txt").write_text("no image")
    samples = list(open_dataset("folder", tmp_path, "train"))
    assert [s.name for s in samples] == [
        "a", "b/frame_2", "b/frame_10", "c/000000", "c/000001", "c/000002",
    ]  # fmt: skip
    assert all(s.labels is None for s in samples)


def test_folder_takes_a_single_clip_and_thins_it_evenly(tmp_path: Path) -> None:
    clip = tmp_path / "long.mp4"
    synthetic.write_clip(clip, frames=40, size=(32, 48))
    dataset = open_dataset("folder", clip, "train", limit=4)
    assert len(dataset) == 4
    assert [s.name for s in dataset] == ["long/000005", "long/000015", "long/000025", "long/000035"]
    assert [s.name for s in dataset] == [s.name for s in dataset]


def test_some_samples_are_read_without_the_others(tmp_path: Path) -> None:
    for i in range(4):
        paint(tmp_path / f"a{i}.png")
    synthetic.write_clip(tmp_path / "c.mp4", frames=9, size=(32, 48))
    whole = open_dataset("folder", tmp_path, "train", limit=7)
    (tmp_path / "a0.png").write_bytes(b"no picture")  # of those that are not wanted
    some = whole.only([2, 4, 6])
    names = [s.name for s in whole]
    assert len(names) == 6
    assert [s.name for s in some] == [names[1], names[3], names[5]]
    assert (len(some), some.skipped, len(whole.skipped)) == (3, [], 1)


@given(total=st.integers(1, 5000), limit=st.integers(1, 5000))
def test_thinning_is_even_and_never_repeats(total: int, limit: int) -> None:
    chosen = spread(total, limit)
    assert len(chosen) == min(total, limit)
    assert len(set(chosen)) == len(chosen)
    assert 0 <= chosen[0] <= chosen[-1] < total
    gaps = np.diff([chosen[0] - total, *chosen, chosen[0] + total])[1:-1]
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


def test_unreadable_files_among_good_ones_are_skipped_and_counted(tmp_path: Path) -> None:
    paint(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"not a picture")
    (tmp_path / "3.mp4").write_bytes(b"not a clip")
    paint(tmp_path / "4.png")
    dataset = open_dataset("folder", tmp_path, "train")
    for _ in range(2):
        assert [s.name for s in dataset] == ["1", "4"]
        assert len(dataset.skipped) == 2
    assert "2.png" in dataset.skipped[0]
    note = dataset.skipped_note()
    assert note is not None
    assert "skipped 2 of 4" in note


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of 1"):
        list(open_dataset("folder", tmp_path, "train"))


def test_masks_are_not_even_looked_at_unless_asked_for(tmp_path: Path) -> None:
    root = marine_split(tmp_path)
    shutil.rmtree(root / "val" / "masks")
    assert [s.labels for s in open_dataset("intcatch", root, "val")] == [None] * 3


@pytest.mark.parametrize("name", ["intcatch", "mastr1325"])
def test_marine_masks_become_class_ids(tmp_path: Path, name: str) -> None:
    dataset = open_dataset(name, marine_split(tmp_path), "val", labelled=True)
    assert dataset.class_names == ("obstacle", "water", "sky")
    assert next(iter(dataset)).labels.tolist() == [[0, 1], [2, IGNORE]]


def test_water_splits_have_two_classes(tmp_path: Path) -> None:
    paint(tmp_path / "val_water" / "images" / "a.jpg")
    mask(tmp_path / "val_water" / "masks" / "am.png", [[0, 1]])
    dataset = open_dataset("intcatch", tmp_path, "val_water", labelled=True)
    assert dataset.class_names == ("not water", "water")
    assert next(iter(dataset)).labels.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("images", "masks"), [("", ""), ("images", "masks"), ("MaSTr1325_images_512x384", "m")]
)
def test_mastr1325_reads_the_release_as_it_unpacks(tmp_path: Path, images: str, masks: str) -> None:
    for i in range(1, 11):
        paint(tmp_path / images / f"{i:04d}.jpg")
        mask(tmp_path / masks / f"{i:04d}m.png", [[0, 1, 2, 4]])
    names = {
        s: [x.name[-4:] for x in open_dataset("mastr1325", tmp_path, s, labelled=True)]
        for s in ("train", "val")
    }
    assert names == {"train": [f"{i:04d}" for i in range(1, 9)], "val": ["0009", "0010"]}
    assert len(open_dataset("mastr1325", tmp_path, "all", labelled=True)) == 10
    (tmp_path / "mine.txt").write_text("0003.jpg\n0001\n")
    assert [s.name[-4:] for s in open_dataset("mastr1325", tmp_path, "mine")] == ["0003", "0001"]
    with pytest.raises(UserError, match="all, train, val"):
        open_dataset("mastr1325", tmp_path, "nowhere")


def test_camvid_ignores_the_twelfth_value(tmp_path: Path) -> None:
    paint(tmp_path / "val" / "images" / "a.jpg")
    mask(tmp_path / "val" / "masks" / "a.png", [[0, 10, 11]])
    assert next(iter(open_dataset("camvid", tmp_path, "val", labelled=True))).labels.tolist() == [
        [0, 10, IGNORE]
    ]


def test_camvid7_has_people_as_obstacles_and_neither_poles_nor_signs(tmp_path: Path) -> None:
    paint(tmp_path / "val" / "images" / "a.jpg", size=(1, 12))
    mask(tmp_path / "val" / "masks" / "a.png", [list(range(12))])
    dataset = open_dataset("camvid7", tmp_path, "val", labelled=True)
    values = next(iter(dataset)).labels[0].tolist()
    named = [None if v == IGNORE else dataset.class_names[v] for v in values]
    assert named == [
        "sky", "building", None, "road", "pavement", "tree",
        None, "building", "car", "obstacle", "obstacle", None,
    ]  # fmt: skip


def test_a_mask_value_without_class_is_refused_not_skipped(tmp_path: Path) -> None:
    root = marine_split(tmp_path)
    mask(root / "val" / "masks" / "f_2m.png", [[0, 7]])
    with pytest.raises(UserError, match=r"f_2m\.png.*value 7"):
        list(open_dataset("intcatch", root, "val", labelled=True))


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    root = marine_split(tmp_path / "sea")
    paint(root / "train" / "images" / "x.jpg")
    (tmp_path / "empty").mkdir()

    def refused(match: str, *args: object, **options: object) -> None:
        with pytest.raises(UserError, match=match):
            open_dataset(*args, **options)  # type: ignore[arg-type]

    refused("known: folder", "imagenet", root, "train")
    refused("needs --root", "camvid", None, "train")
    refused("no such folder", "folder", tmp_path / "nowhere", "train")
    refused("no image and no clip", "folder", tmp_path / "empty", "train")
    refused("it has: train, val", "intcatch", root, "test")
    refused("no masks; with masks: val", "intcatch", root, "train", labelled=True)
    refused("no camvid data here", "camvid", tmp_path / "empty", "train")
    refused("mastr1325", "folder", root, "train", labelled=True)
    refused("at least 1", "folder", root, "train", limit=0)
    (root / "val" / "masks" / "f_3m.png").unlink()
    refused("1 of 3 masks", "intcatch", root, "val", labelled=True)


def test_the_real_sets_open_and_their_masks_fit(real_data: Path) -> None:
    for name, split, count in (
        ("intcatch", "val", 20),
        ("intcatch", "val_water", 40),
        ("camvid", "val", 101),
    ):
        dataset = open_dataset(name, real_data / name, split, labelled=True)
        assert len(dataset) == count
        sample = next(iter(dataset))
        assert sample.labels is not None
        assert sample.labels.shape == sample.frame.shape[:2]
    assert len(open_dataset("intcatch", real_data / "intcatch", "train")) == 281
    assert len(open_dataset("folder", real_data / "clips" / "river.mp4", "train")) == 90
