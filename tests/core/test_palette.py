"""Colours of classes: one for a name, in every picture."""

from pathlib import Path

import numpy as np
import pytest
import torch

from il2vseg.base.images import read_frame, write_image
from il2vseg.base.palette import class_colors, default_palette
from il2vseg.data import dataset, open_dataset
from il2vseg.evaluation.preview import write_preview


def test_a_name_has_one_colour_wherever_it_stands() -> None:
    names = ["unsure", "boat", "water", "class 7", "lake", "pole", "sky"]
    colours = dict(zip(names, class_colors(names), strict=True))
    assert colours["water"] == (41, 167, 224)
    assert colours["class 7"] == default_palette(8)[7]
    student = ["boat", "water", "lake", "pole", "sky"]  # knows no unsure, and no cluster without a name
    assert class_colors(student) == tuple(colours[n] for n in student)
    assert class_colors(["water", "sky", "water"])[2] == colours["water"]


def test_invented_names_have_colours_of_their_own() -> None:
    names = [f"thing {letter}" for letter in "abcdef"]
    colours = np.array(class_colors(["water", *names]), int)
    apart = np.abs(colours[:, None] - colours[None]).sum(2) + 1000 * np.eye(len(colours), dtype=int)
    assert apart.min() > 30


class _Water:
    """A model that sees its second class alone, which is called water."""

    size = (32, 32)
    class_names = ("sky", "water")

    def predict(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(len(frames), 32, 32, dtype=torch.uint8), torch.zeros(len(frames), 2, 8, 8)


def test_the_preview_paints_water_as_every_other_picture_does(tmp_path: Path) -> None:
    for i in range(2):
        write_image(tmp_path / f"{i}.png", np.full((32, 32, 3), 90, np.uint8))
    write_preview(tmp_path / "preview.png", _Water(), open_dataset("folder", tmp_path, "train"))  # type: ignore[arg-type]
    assert read_frame(tmp_path / "preview.png")[-10, -10].tolist() == [224, 167, 41]


def test_the_preview_reads_the_frames_that_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(20):
        write_image(tmp_path / f"{i}.png", np.full((32, 32, 3), 90, np.uint8))
    read: list[str] = []
    monkeypatch.setattr(dataset, "read_frame", lambda path: (read.append(path.stem), read_frame(path))[1])
    footage = open_dataset("folder", tmp_path, "train")
    write_preview(tmp_path / "preview.png", _Water(), footage)  # type: ignore[arg-type]
    assert read == ["1", "5", "8", "11", "15", "18"]
