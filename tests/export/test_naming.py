"""il2vseg-name: names for clusters of checkpoints and exports, by hand and from masks."""

import dataclasses
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from il2vseg.base.classes import merge
from il2vseg.base.errors import UserError
from il2vseg.base.ignore import IgnoreMask
from il2vseg.base.images import Frame, Labels, resize_frame, write_image
from il2vseg.data import open_dataset
from il2vseg.export.tools.exemplars import Survey, survey, write_exemplars
from il2vseg.export.tools.naming import (
    NamedModel,
    main,
    names_from_masks,
    open_model,
    parse_names,
)
from il2vseg.models.checkpoint import load_checkpoint, save_student
from il2vseg.models.spec import LowLevelSpec, ModelSpec
from il2vseg.models.student import METHOD, Student, finish

SIZE = (64, 96)


def bands(frame: Frame) -> Labels:
    """Cluster 0 above, 1 in the left and 2 in the right half below; 3 nowhere."""
    labels = np.zeros(frame.shape[:2], np.uint8)
    middle = frame.shape[1] // 2
    labels[frame.shape[0] // 2 :, :middle], labels[frame.shape[0] // 2 :, middle:] = 1, 2
    return labels


BANDS = NamedModel(SIZE, ("a", "b", "c", "d"), bands, lambda names: None)


def write_pair(split: Path, stem: str, frame: Frame, labels: Labels) -> None:
    """Write a frame and its mask as INTCATCH lays them out."""
    for folder, name, image in (("images", f"{stem}.png", frame), ("masks", f"{stem}m.png", labels)):
        (split / folder).mkdir(parents=True, exist_ok=True)
        write_image(split / folder / name, image)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    names = ("class 0", "class 1", "class 2", "class 3")
    student = "mobilenetv4_small_050"
    spec = ModelSpec(METHOD, student, "random", SIZE, names, 0.0, 1.0, False, LowLevelSpec(), "none")
    save_student(tmp_path, finish(Student(spec)))
    return tmp_path


@given(st.lists(st.sampled_from(["water", "sky", "land", "boat"]), min_size=1, max_size=20))
def test_merging_keeps_every_clusters_name(names: list[str]) -> None:
    classes, clusters = merge(names)
    assert [classes[c] for c in clusters] == names
    assert len(set(classes)) == len(classes)


def test_settings_change_the_clusters_they_name() -> None:
    assert parse_names(["0=water", "2= open sea "], ["a", "b", "c"]) == ["water", "b", "open sea"]


@pytest.mark.parametrize("setting", ["water", "0=", "x=water", "-1=water", "3=water"])
def test_a_wrong_setting_is_refused(setting: str) -> None:
    with pytest.raises(UserError, match="--set"):
        parse_names([setting], ["a", "b", "c"])


def test_masks_name_the_clusters_that_occur() -> None:
    dataset = open_dataset("synthetic", None, "val", labelled=True, limit=4)
    names, unseen = names_from_masks(BANDS, dataset, BANDS.names)
    assert names[1:] == ["water", "water", "d"]
    assert unseen == [3]


def test_exemplars_come_from_different_parts_of_the_footage() -> None:
    shares = np.zeros((10, 2))
    shares[[1, 3, 4], 0] = (0.2, 0.5, 0.3)
    found = Survey(shares, (), ())
    assert found.exemplars(0) == [1, 3, 4]
    assert found.exemplars(1) == []
    assert found.unseen() == [1]


def test_the_picture_has_a_row_for_every_cluster(tmp_path: Path) -> None:
    found = survey(BANDS, open_dataset("synthetic", None, "val", limit=3))
    write_exemplars(tmp_path / "clusters.png", found, BANDS.names)
    picture = cv2.imread(str(tmp_path / "clusters.png"))
    assert picture.shape[0] == 4 * (160 + 4)
    assert (picture[-164:, 130:] == 255).all()
    assert found.unseen() == [3]


def test_a_checkpoint_is_named_and_shown(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(checkpoint), "--dataset", "synthetic", "--limit", "3"]
    assert main([*arguments, "--set", "0=water", "1=sky", "3=water"]) == 0
    assert load_checkpoint(checkpoint).class_names == ["water", "sky", "class 2", "water"]
    assert capsys.readouterr().out.splitlines() == ["0=water", "1=sky", "2=class 2", "3=water"]
    assert (checkpoint / "clusters.png").is_file()


def test_an_export_is_named_with_merges(checkpoint: Path, tmp_path: Path) -> None:
    from il2vseg.export.cli import ExportConfig, export
    from il2vseg.runtime.manifest import Manifest

    folder = export(ExportConfig(checkpoint=checkpoint, out=tmp_path / "export", verify_frames=1))
    assert len(Manifest.load(folder).classes) == 4
    assert main(["--model", str(folder), "--set", "0=water", "1=land", "2=land", "3=water"]) == 0
    manifest = Manifest.load(folder)
    assert manifest.class_names == ("water", "land")
    assert manifest.clusters == (0, 1, 1, 0)
    assert open_model(folder).names == ("water", "land", "land", "water")


def test_names_of_a_checkpoint_reach_its_export(checkpoint: Path, tmp_path: Path) -> None:
    from il2vseg.export.cli import ExportConfig, export
    from il2vseg.runtime.manifest import Manifest

    assert main(["--model", str(checkpoint), "--set", "0=water", "1=land", "2=land", "3=water"]) == 0
    manifest = Manifest.load(
        export(ExportConfig(checkpoint=checkpoint, out=tmp_path / "export", verify_frames=1))
    )
    assert manifest.class_names == ("water", "land")
    assert manifest.clusters == (0, 1, 1, 0)


def test_a_folder_without_a_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(tmp_path)]) == 2
    assert "neither a checkpoint" in capsys.readouterr().err


def test_masks_need_to_be_somewhere(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(checkpoint), "--dataset", "intcatch"]
    assert main([*arguments, "--from-masks", str(tmp_path / "val")]) == 2
    assert f"{tmp_path}: no intcatch data here" in capsys.readouterr().err


def test_a_handful_of_masks_names_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    split = tmp_path / "set" / "few"
    for sample in open_dataset("synthetic", None, "val", labelled=True, limit=3):
        assert sample.labels is not None
        write_pair(split, sample.name.replace("/", "_"), sample.frame, sample.labels)
    assert main(["--model", str(checkpoint), "--dataset", "intcatch", "--from-masks", str(split)]) == 0
    assert set(load_checkpoint(checkpoint).class_names) & {"water", "obstacle", "sky"}


def test_a_small_class_gets_a_cluster_although_that_covers_more_of_another(tmp_path: Path) -> None:
    truth = np.ones((40, 60), np.uint8)  # water
    truth[:4] = 0  # obstacle
    write_pair(tmp_path / "few", "frame", np.zeros((40, 60, 3), np.uint8), truth)
    clusters = np.ones((40, 60), np.uint8)
    clusters[:10] = 0
    model = NamedModel((40, 60), ("a", "b"), lambda frame: clusters, lambda names: None)
    masks = open_dataset("intcatch", tmp_path, "few", labelled=True)
    assert names_from_masks(model, masks, model.names) == (["obstacle", "water"], [])


def test_clusters_of_the_own_deck_are_not_shown() -> None:
    own = IgnoreMask.parse("0.5,1 0.5,0.4 1,0.4 1,1")  # where cluster 2 is, and nothing else
    found = survey(BANDS, open_dataset("synthetic", None, "val", limit=2), own)
    assert found.unseen() == [2, 3]
    assert found.shares.sum(1) == pytest.approx(1)
    assert found.exemplars(2) == []


def test_footage_that_cannot_be_read_is_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((64, 96, 3), np.uint8))
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert main(["--model", str(checkpoint), "--root", str(tmp_path)]) == 0
    assert "skipped 1 of 3 images" in capsys.readouterr().err


def train_scenes(out: Path, *flags: str) -> None:
    from il2vseg import train

    assert train.main(["--limit", "12", "--centre", "--out", str(out), *flags]) == 0


def class_maps(folder: Path) -> np.ndarray:
    """Names of the classes at every pixel of a few scenes."""
    model = load_checkpoint(folder)
    frames = [resize_frame(s.frame, model.size) for s in open_dataset("synthetic", None, "val", limit=5)]
    return np.array(model.class_names)[model.predict(torch.from_numpy(np.stack(frames)))[0].numpy()]


def test_names_move_with_their_clusters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from il2vseg.models.checkpoint import save_checkpoint

    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))
    first, again = tmp_path / "first", tmp_path / "again"
    train_scenes(first, "--backbone", "tiny", "--size", "64", "96", "--method", "kmeans", "--clusters", "4")
    assert main(["--model", str(first), "--set", "0=sky", "1=bank", "2=unsure", "3=water"]) == 0
    model = load_checkpoint(first)
    model.classifier.reorder(torch.tensor([3, 0, 2, 1]))
    again.mkdir()
    unnamed = dataclasses.replace(model.spec, class_names=("a", "b", "c", "d"))
    save_checkpoint(again, model.classifier, unnamed)
    assert main(["--model", str(again), "--from", str(first)]) == 2
    assert "--root" in capsys.readouterr().err
    assert main(["--model", str(again), "--dataset", "synthetic", "--limit", "12"]) == 0
    shown = capsys.readouterr().err
    assert re.search(r"cluster 0 \(a\): \d+\.\d % of the pixels, spread 0\.\d\d, one scene", shown)
    assert main(["--model", str(again), "--from", str(first / "names.yaml")]) == 0
    assert load_checkpoint(again).class_names == ["water", "sky", "unsure", "bank"]
    assert main(["--model", str(first), "--from", str(again)]) == 0
    assert load_checkpoint(first).class_names == ["sky", "bank", "unsure", "water"]


@pytest.mark.slow
def test_another_seed_and_another_number_of_threads_give_the_same_classes(
    tmp_path: Path, dinov2_weights: Path
) -> None:
    flags = ("--size", "126", "224", "--steps", "30", "--clusters", "12")
    first, again = tmp_path / "first", tmp_path / "again"
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        train_scenes(first, *flags, "--cache", str(tmp_path / "cache1"))
        torch.set_num_threads(2)
        train_scenes(again, *flags, "--cache", str(tmp_path / "cache2"), "--seed", "1")
    finally:
        torch.set_num_threads(threads)
    named = open_model(first)
    masks = open_dataset("synthetic", None, "val", labelled=True, limit=6)
    found, _ = names_from_masks(named, masks, named.names)
    assert main(["--model", str(first), "--set", *(f"{i}={name}" for i, name in enumerate(found))]) == 0
    assert main(["--model", str(again), "--from", str(first)]) == 0
    one, other = class_maps(first), class_maps(again)
    known = other != "unsure"
    assert known.mean() > 0.9
    assert set(one[known]) == set(other[known]) == {"water", "sky", "obstacle"}
    assert (one == other)[known].mean() > 0.85
