"""A method, a loss, a data set and a backbone of one's own: one place each, and the commands know them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from il2vseg import evaluate, train
from il2vseg.data import DATASETS
from il2vseg.data.classes import Classes
from il2vseg.data.dataset import Sample
from il2vseg.data.layouts import Listing, Request
from il2vseg.methods import METHODS, iic
from il2vseg.methods.base import Context, Method, Stage
from il2vseg.models.backbones import BACKBONES, BackboneSpec
from il2vseg.models.checkpoint import load_checkpoint


def agreement(embeddings: Tensor, embeddings_view: Tensor) -> Tensor:
    """The loss: embeddings (B, S, d) of an image and of its jittered copy are alike."""
    return (embeddings - embeddings_view).square().mean()


@dataclass(frozen=True)
class Agreement(Stage):
    """The stage that takes the loss."""

    uses_views: ClassVar[bool] = True
    steps: int = 4
    samples: int = 5

    def losses(self, context: Context) -> dict[str, Tensor]:
        index = context.positions(self.samples)
        z, z_view = context.whitened(index), context.whitened_view(index)
        context.observe("shown", torch.tensor(7.0))
        return {"agreement": 2.0 * agreement(context.embeddings(z), context.embeddings(z_view))}


@dataclass(frozen=True)
class Toy(Method):
    """The method."""

    first: Agreement = Agreement()
    second: Agreement = Agreement(steps=2)


@dataclass(frozen=True)
class Noise:
    """Part of the data set: frames of noise, the left half class 0."""

    labelled: bool
    name: str = "noise"
    count: int = 6

    def read(self, wanted: Sequence[int]) -> Iterator[Sample]:
        labels = np.repeat(np.uint8([[0, 1]]), 32, 1).repeat(48, 0)
        for index in wanted:
            frame = np.random.default_rng(index).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            yield Sample(f"noise/{index}", frame, labels if self.labelled else None)


def layout(request: Request) -> Listing:
    """The data set."""
    return Listing(Classes(("left", "right"), ((255, 0, 0), (0, 0, 255))), [Noise(request.labelled)])


@pytest.fixture
def _toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(METHODS, "toy", f"{__name__}:Toy")
    monkeypatch.setitem(
        BACKBONES, "toybone", BackboneSpec("vit_tiny_patch16_224", patch=16, dim=192, depth=1)
    )
    monkeypatch.setitem(DATASETS, "toyset", layout)


@pytest.mark.usefixtures("_toys")
def test_rows_of_ones_own_are_trained_and_scored_by_the_commands(tmp_path: Path) -> None:
    out, scores = tmp_path / "out", tmp_path / "scores.json"
    arguments = ["--method", "toy", "--backbone", "toybone", "--dataset", "toyset", "--num-classes", "2"]
    assert train.main([*arguments, "--steps", "9", "--out", str(out)]) == 0
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(s["stage"], s["step"]) for s in steps] == [
        *(("first", i) for i in range(6)),
        *(("second", i) for i in range(3)),
    ]
    assert all(s["agreement"] > 0 and s["shown"] == 7.0 for s in steps)
    assert load_checkpoint(out).spec.method == "toy"
    asked = ["--checkpoint", str(out), "--dataset", "toyset", "--split", "val", "--json", str(scores)]
    assert evaluate.main(asked) == 0
    assert "left" in scores.read_text()


@pytest.mark.usefixtures("_toys")
def test_a_copied_file_is_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_method.py").write_text(Path(iic.__file__).read_text().replace("IIC", "Mine"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METHODS, "mine", "my_method:Mine")
    out = tmp_path / "out"
    arguments = ["--method", "mine", "--backbone", "toybone", "--dataset", "toyset", "--num-classes", "2"]
    assert train.main([*arguments, "--steps", "2", "--out", str(out)]) == 0
    assert load_checkpoint(out).spec.method == "mine"


def test_a_method_is_a_file_of_less_than_150_lines() -> None:
    files = {import_module(row.partition(":")[0]).__file__ for row in METHODS.values()}
    assert len(files) == len(METHODS) - 1  # picie and picie_h share one
    assert all(len(Path(str(file)).read_text().splitlines()) < 150 for file in files)


@pytest.mark.usefixtures("_toys")
def test_a_method_without_a_row_is_refused_before_anything_slow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--method", "toys", "--root", "/nowhere", "--out", str(tmp_path / "out")]) == 2
    assert (
        "unknown method 'toys'; known: kmeans, iic, mdc, picie, picie_h, slotcon, transfgu, smooseg, stego"
        in capsys.readouterr().err
    )
