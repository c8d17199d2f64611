"""A small checkpoint with random weights, a few rendered frames, and a studio of both."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from il2vseg.base.images import write_image
from il2vseg.data.synthetic import render
from il2vseg.models.backbones import build_backbone
from il2vseg.models.checkpoint import save_checkpoint
from il2vseg.models.segmenter import Classifier
from il2vseg.models.spec import LowLevelSpec, ModelSpec
from il2vseg.models.whitening import Whitening
from il2vseg.studio.footage import take_sample
from il2vseg.studio.project import Footage, Project
from il2vseg.studio.steps import Options
from il2vseg.studio.studio import Studio

SIZE = (96, 128)
FRAMES = 6
CLUSTERS = 4


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rendered frames, and one that cannot be read. Not to be changed."""
    folder = tmp_path_factory.mktemp("footage") / "river"
    folder.mkdir()
    for i in range(FRAMES):
        write_image(folder / f"frame_{i}.png", render(i % 3, 9 * i, SIZE)[0])
    (folder / "frame_9.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    return folder


def write_model(folder: Path, seed: int = 0, clusters: int = CLUSTERS) -> None:
    """A checkpoint whose clusters are found in colours and places by chance."""
    backbone = build_backbone("tiny", SIZE, None)
    spec = ModelSpec(
        method="kmeans",
        backbone="tiny",
        weights_sha256="random",
        size=SIZE,
        class_names=tuple(f"class {k}" for k in range(clusters)),
        alpha=0.0,
        temperature=0.1,
        centre=True,
        low_level=LowLevelSpec(),
        training_data="nothing",
    )
    generator = torch.Generator().manual_seed(seed)
    classifier = Classifier(Whitening(backbone.dim, 8, spec.centre), clusters)
    classifier.whitening.basis.normal_(generator=generator)
    classifier.set_prototypes(torch.randn(clusters, 64, generator=generator))
    save_checkpoint(folder, classifier, spec)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are cached in the test's own folder."""
    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "features"))


MakeStudio = Callable[[], Studio]


@pytest.fixture
def make_studio(tmp_path: Path, footage: Path) -> Iterator[MakeStudio]:
    """Opens the studio of one project, again and again; whatever was open is gone, as after a kill."""
    folder, opened = tmp_path / "project", []
    write_model(folder / "model")

    def make() -> Studio:
        project = Project(folder, Footage("folder", footage))
        studio = Studio(project, Options("tiny"))
        opened.append(studio)
        if studio.sample is None:
            studio.sample = take_sample(project.cache, project.state.footage, lambda done, total: None)
        studio.refresh()
        studio.tasks.wait()
        assert studio.desk is not None, studio.tasks.report()
        return studio

    yield make
    for studio in opened:
        studio.close()


@pytest.fixture
def studio(make_studio: MakeStudio) -> Studio:
    return make_studio()


def do(studio: Studio, **action: object) -> None:
    """Do something, as a page that is up to date."""
    studio.act(studio.project.state.revision, action)
