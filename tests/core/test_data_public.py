"""Loaders of the public data sets: official layouts, official merges, ids checked pixel by pixel."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.data import IGNORE, open_dataset
from il2vseg.data.classes import CITYSCAPES_19, CITYSCAPES_27, COCOSTUFF_27

# Fine id -> coarse id as in the evaluation code of IIC, PiCIE and STEGO.
COCO_COARSE = (
    9, 11, 11, 11, 11, 11, 11, 11, 11, 8, 8, 8, 8, 8, 8, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 6,
    6, 6, 6, 6, 6, 6, 6, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 5, 5, 5, 5, 5, 5, 5, 5, 2,
    2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 0, 0, 0, 0, 0, 0, 1,
    1, 1, 1, 1, 1, 4, 4, 4, 4, 4, 4, 4, 4, 17, 17, 22, 20, 20, 22, 15, 25, 16, 13, 12, 12, 17,
    17, 23, 15, 15, 17, 15, 21, 15, 25, 13, 13, 13, 13, 13, 22, 26, 14, 14, 15, 22, 21, 21, 24, 20, 22, 15,
    17, 16, 15, 22, 24, 21, 17, 25, 16, 21, 17, 22, 16, 21, 21, 25, 21, 26, 21, 24, 20, 17, 14, 21, 26, 15,
    23, 20, 21, 24, 15, 24, 22, 25, 15, 20, 17, 17, 22, 14, 18, 18, 18, 18, 18, 18, 18, 26, 26, 19, 19, 24,
)  # fmt: skip

# labelId -> trainId of the Cityscapes benchmark.
CITYSCAPES_TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13,
    27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def every_value(values: list[int]) -> np.ndarray:
    return np.array([values, values[::-1]], np.uint8)


def test_coco_fine_labels_merge_into_the_27_of_the_literature() -> None:
    mask = every_value([*range(182), 255])
    found = COCOSTUFF_27.decode(mask, "mask")
    assert found[0].tolist() == [*COCO_COARSE, IGNORE]
    names = COCOSTUFF_27.names
    assert len(names) == 27
    assert [names[COCO_COARSE[i]] for i in (0, 2, 16, 91, 105, 119, 149, 168, 181)] == [
        "person", "vehicle", "animal", "textile", "sky", "water", "solid", "plant", "solid",
    ]  # fmt: skip


def test_cityscapes_27_are_all_but_void_and_19_are_the_train_ids() -> None:
    mask = every_value([*range(34), 255])
    assert CITYSCAPES_27.decode(mask, "m")[0].tolist() == [IGNORE] * 7 + list(range(27)) + [IGNORE]
    train_ids = [CITYSCAPES_TRAIN_IDS.get(i, IGNORE) for i in range(34)]
    assert CITYSCAPES_19.decode(mask, "m")[0].tolist() == [*train_ids, IGNORE]
    assert (CITYSCAPES_27.names[0], CITYSCAPES_27.names[26]) == ("road", "bicycle")


def test_cityscapes_layout(tmp_path: Path) -> None:
    for city, frame in (("ulm", 2), ("ulm", 10), ("bern", 1)):
        name = f"{city}_{frame}_19"
        write(
            tmp_path / f"leftImg8bit/val/{city}/{name}_leftImg8bit.png", np.full((4, 8, 3), frame, np.uint8)
        )
        write(
            tmp_path / f"gtFine/val/{city}/{name}_gtFine_labelIds.png", np.full((4, 8), 7 + frame, np.uint8)
        )
    dataset = open_dataset("cityscapes", tmp_path, "val", labelled=True)
    assert [s.name for s in dataset] == [
        f"{n}_leftImg8bit" for n in ("bern/bern_1_19", "ulm/ulm_2_19", "ulm/ulm_10_19")
    ]
    assert [int(s.labels[0, 0]) for s in dataset] == [1, 2, 10]
    assert [int(s.labels[0, 0]) for s in open_dataset("cityscapes19", tmp_path, "val", labelled=True)] == [
        1,
        IGNORE,
        5,
    ]
    with pytest.raises(UserError, match="it has: val"):
        open_dataset("cityscapes", tmp_path, "test")
    with pytest.raises(UserError, match="own folder"):
        open_dataset("cityscapes", tmp_path / "gtFine", "val")


def test_cocostuff_layout_and_curated_list(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write(tmp_path / f"images/val2017/{number:012d}.jpg", np.zeros((4, 6, 3), np.uint8))
        write(tmp_path / f"annotations/val2017/{number:012d}.png", np.full((4, 6), number, np.uint8))
    for split in ("val", "val2017"):
        assert len(open_dataset("cocostuff", tmp_path, split, labelled=True)) == 3
    curated = tmp_path / "curated/val2017/Coco164kFull_Stuff_Coarse_7.txt"
    curated.parent.mkdir(parents=True)
    curated.write_text("000000000003\n000000000001\n000000009999\n")
    assert [s.name for s in open_dataset("cocostuff", tmp_path, "val")] == ["000000000001", "000000000003"]


def test_real_cityscapes_pixel_by_pixel(real_data: Path) -> None:
    root = real_data / "cityscapes"
    samples = list(open_dataset("cityscapes", root, "train", labelled=True))
    benchmark = list(open_dataset("cityscapes19", root, "train", labelled=True))
    assert len(samples) == 8
    for sample, other in zip(samples, benchmark, strict=True):
        name = sample.name.replace("leftImg8bit", "gtFine_labelIds")
        raw = cv2.imread(str(root / "gtFine/train" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert sample.frame.shape[:2] == raw.shape
        assert np.array_equal(sample.labels, np.where((raw >= 7) & (raw <= 33), raw.astype(int) - 7, IGNORE))
        expected = np.full_like(raw, IGNORE)
        for label_id, train_id in CITYSCAPES_TRAIN_IDS.items():
            expected[raw == label_id] = train_id
        assert np.array_equal(other.labels, expected)


def test_real_cocostuff_pixel_by_pixel(real_data: Path) -> None:
    root = real_data / "cocostuff"
    samples = list(open_dataset("cocostuff", root, "val", labelled=True))
    assert len(samples) == 21
    for sample in samples:
        raw = cv2.imread(str(root / "annotations/val2017" / f"{sample.name}.png"), cv2.IMREAD_UNCHANGED)
        assert sample.frame.shape[:2] == raw.shape
        expected = np.full_like(raw, IGNORE)
        for fine, coarse in enumerate(COCO_COARSE):
            expected[raw == fine] = coarse
        assert np.array_equal(sample.labels, expected)


POTSDAM_COLORS = {  # BGR -> class
    (255, 255, 255): 0, (255, 0, 0): 1, (255, 255, 0): 2, (0, 255, 0): 2, (0, 255, 255): 0, (0, 0, 255): 1,
    (0, 0, 0): IGNORE,
}  # fmt: skip


def test_potsdam_is_cut_and_merged_pixel_by_pixel(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    colors, classes = np.array(list(POTSDAM_COLORS), np.uint8), np.array(list(POTSDAM_COLORS.values()))
    squares = rng.integers(0, len(colors), (60, 60))  # of 100 pixels, hence of 50 once shrunk
    picture = np.kron(np.arange(225).reshape(15, 15), np.ones((400, 400))).astype(np.uint8)
    write(tmp_path / "2_Ortho_RGB/top_potsdam_2_10_RGB.tif", np.dstack([picture] * 3))
    label = np.kron(colors[squares], np.ones((100, 100, 1), np.uint8))
    write(tmp_path / "5_Labels_all/top_potsdam_2_10_label.tif", label)
    truth = np.kron(classes[squares], np.ones((50, 50))).astype(np.uint8)
    dataset = open_dataset("potsdam", tmp_path, "all", labelled=True)
    assert len(dataset) == 225
    for sample in dataset:
        photo, block = sample.name.split("/")
        row, column = map(int, block.split("_"))
        assert photo == "top_potsdam_2_10_RGB"
        assert sample.frame.shape == (200, 200, 3)
        assert (sample.frame == row * 15 + column).all()
        assert np.array_equal(sample.labels, truth[row * 200 :, column * 200 :][:200, :200])


def test_potsdam_keeps_a_tenth_of_all_blocks_from_the_labelled_ones(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"2_Ortho_RGB/top_potsdam_2_{number}_RGB.tif", np.zeros((8, 8, 3), np.uint8))
    write(tmp_path / "5_Labels_all/top_potsdam_2_1_label.tif", np.zeros((8, 8, 3), np.uint8))
    train, val, everything = (open_dataset("potsdam", tmp_path, split) for split in ("train", "val", "all"))
    assert (len(train), len(val), len(everything)) == (810, 90, 900)
    assert len(open_dataset("potsdam", tmp_path, "train", labelled=True)) == 225 - 90


def test_potsdam_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2_Ortho_RGB"):
        open_dataset("potsdam", tmp_path, "train")
    with pytest.raises(UserError, match="train, val, all"):
        open_dataset("potsdam", tmp_path, "test")
    write(tmp_path / "2_Ortho_RGB/top_potsdam_2_10_RGB.tif", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="5_Labels_all"):
        open_dataset("potsdam", tmp_path, "val", labelled=True)


def test_potsdam_as_prepared_by_iic(tmp_path: Path) -> None:
    io = pytest.importorskip("scipy.io")
    lists = {"labelled_train": "0", "labelled_test": "1", "unlabelled_train": "2"}
    for folder in ("imgs", "gt"):
        (tmp_path / folder).mkdir()
    for name, block in lists.items():
        (tmp_path / f"{name}.txt").write_text(block + "\n")
        picture = np.zeros((200, 200, 4), np.uint8)
        picture[..., 0] = 10 + int(block)
        io.savemat(tmp_path / "imgs" / f"{block}.mat", {"img": picture})
        if block != "2":
            io.savemat(tmp_path / "gt" / f"{block}.mat", {"gt": np.arange(6, dtype=np.int32).reshape(1, 6)})
    (sample,) = open_dataset("potsdam", tmp_path, "val", labelled=True)
    assert sample.labels.tolist() == [[0, 1, 2, 2, 0, 1]]
    assert sample.frame[0, 0].tolist() == [0, 0, 11]
    assert [s.name for s in open_dataset("potsdam", tmp_path, "train")] == ["0", "2"]
    assert [s.name for s in open_dataset("potsdam", tmp_path, "all", labelled=True)] == ["1", "0"]


def test_crops_cut_image_and_mask_alike(tmp_path: Path) -> None:
    ramp = np.arange(6 * 10, dtype=np.uint8).reshape(6, 10)
    write(tmp_path / "val/images/a.png", np.dstack([ramp] * 3))
    write(tmp_path / "val/masks/am.png", (ramp % 3).astype(np.uint8))

    def crops(crop: str) -> list:
        samples = list(open_dataset("intcatch", tmp_path, "val", labelled=True, crop=crop))
        assert all(np.array_equal(s.labels, s.frame[..., 0] % 3) for s in samples)
        return samples

    assert crops("none")[0].frame.shape == (6, 10, 3)
    (center,) = crops("center")
    assert np.array_equal(center.frame[..., 0], ramp[:, 2:8])
    five = crops("five")
    assert [s.name for s in five] == [f"a/{i}" for i in range(5)]
    for sample, (top, left) in zip(five, [(0, 0), (0, 5), (3, 0), (3, 5), (1, 2)], strict=True):
        assert np.array_equal(sample.frame[..., 0], ramp[top : top + 3, left : left + 5])


def test_thinning_counts_crops(tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / f"{i}.png", np.zeros((4, 4, 3), np.uint8))
    dataset = open_dataset("folder", tmp_path, "train", crop="five", limit=4)
    assert [s.name for s in dataset] == ["0/2", "1/2", "2/2", "3/2"]
