"""Evaluation as the paper states it: clusters of the embeddings instead of prototypes, and a CRF."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from il2vseg.base.errors import UserError
from il2vseg.data import open_dataset
from il2vseg.evaluate import evaluate, main
from il2vseg.evaluation import crf, protocol
from il2vseg.evaluation.protocol import as_in_paper
from il2vseg.models.segmenter import Classifier, Segmenter
from il2vseg.models.spec import AdaptSpec, LowLevelSpec, ModelSpec
from il2vseg.models.whitening import Whitening
from tests.no_crf import NoCrf, install

SIZE, GRID = (24, 32), (6, 8)
COLOURS = np.array([[0, 0, 255], [0, 255, 0], [255, 0, 0]], np.uint8)


class MeanColours(nn.Module):
    """A backbone whose tokens are the mean colours of its cells."""

    size, grid, patch = SIZE, GRID, 4

    def forward(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, GRID)


def model() -> Segmenter:
    """Its prototypes see one class everywhere."""
    spec = ModelSpec(
        method="kmeans",
        backbone="tiny",
        weights_sha256="random",
        size=SIZE,
        class_names=("class 0", "class 1"),
        alpha=0.0,
        temperature=0.1,
        centre=False,
        low_level=LowLevelSpec(refine=2),
        training_data="nothing",
        adapt=AdaptSpec(),
    )
    whitening = Whitening(3, 3, centre=False)
    whitening.basis.copy_(torch.eye(3))
    classifier = Classifier(whitening, 2)
    classifier.set_prototypes(torch.ones(2, 64))
    return Segmenter(MeanColours(), classifier, spec).eval()  # type: ignore[arg-type]


def write_split(root: Path, split: str, bands: list[int]) -> None:
    """Two frames in bands of plain colour, as high as they are many; the classes are the colours."""
    for i in range(2):
        labels = np.repeat(np.array(bands, np.uint8), SIZE[0] // len(bands))[:, None].repeat(SIZE[1], 1)
        for folder, name, image in (("images", f"{i}.png", COLOURS[labels]), ("masks", f"{i}m.png", labels)):
            (root / split / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / split / folder / name), image)


@pytest.fixture
def bands(tmp_path: Path) -> Path:
    """`val` has all three classes, `train` one alone."""
    write_split(tmp_path, "val", [0, 1, 2])
    write_split(tmp_path, "train", [0])
    return tmp_path


@pytest.fixture
def no_crf(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


@pytest.mark.usefixtures("no_crf")
def test_clusters_of_the_embeddings_stand_in_for_the_prototypes(bands: Path) -> None:
    val = open_dataset("intcatch", bands, "val", labelled=True)
    trained = model()
    assert evaluate(trained, val).one_to_one.accuracy == pytest.approx(100 / 3)
    done: list[int] = []
    clustered = as_in_paper(trained, [val], num_classes=3, progress=done.append)
    assert evaluate(clustered, val, crf=True).one_to_one.accuracy == 100
    assert done[-1] == 2
    assert (clustered.adapt, clustered.spec.low_level.refine) == (None, 0)
    assert len(clustered.class_names) == 3
    assert trained.adapt == AdaptSpec()
    assert trained.classifier.global_prototypes.shape == (2, 64)


def test_of_many_frames_some_tokens_of_each_are_clustered(
    bands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MAX_EMBEDDINGS", 21)
    val = open_dataset("intcatch", bands, "val")
    found = protocol.sample_embeddings(model(), [val, val], torch.Generator().manual_seed(0))
    assert [tuple(e.shape) for e in found] == [(5, 64)] * 4
    assert not torch.equal(found[0], found[2])


@pytest.mark.usefixtures("no_crf")
def test_the_switch_clusters_refines_and_is_written_down(
    bands: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("il2vseg.evaluate.open_model", lambda config: model())
    out = tmp_path / "scores.json"
    arguments = ["--checkpoint", "any", "--dataset", "intcatch", "--root", str(bands), "--json", str(out)]
    assert main(arguments) == 0
    own = json.loads(out.read_text())
    assert (own["protocol"], own["crf"], NoCrf.frames) == ("own", False, 0)
    assert main([*arguments, "--protocol", "paper"]) == 0
    paper = json.loads(out.read_text())
    assert (paper["protocol"], paper["crf"], NoCrf.frames) == ("paper", True, 2)
    assert (paper["accuracy"], len(paper["assignment"])) == (100, 3)
    assert main([*arguments, "--protocol", "paper", "--cluster-split", "train"]) == 0
    assert json.loads(out.read_text())["accuracy"] < 100


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--protocol", "paper", "--by-name"], "leave --by-name"),
        (["--protocol", "paper", "--assignment", "x.json"], "leave --by-name"),
        (["--protocol", "paper", "--obstacles", "--dataset", "folder"], "leave --by-name"),
        (["--cluster-split", "train"], "--cluster-split is for --protocol paper"),
    ],
)
def test_flags_that_contradict_the_protocol(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--checkpoint", "x", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_what_the_protocol_cannot_do_is_said_first(monkeypatch: pytest.MonkeyPatch, bands: Path) -> None:
    val = open_dataset("intcatch", bands, "val")
    monkeypatch.setattr(crf, "find_spec", lambda name: name)
    with pytest.raises(UserError, match="clusters embeddings"):
        as_in_paper(object(), [val], 3)  # type: ignore[arg-type]
    monkeypatch.setattr(crf, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--protocol paper needs pydensecrf: pip install 'il2vseg\[crf\]'"):
        as_in_paper(model(), [val], 3)
