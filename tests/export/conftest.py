"""A small model with random weights: whether an export equals its model does not depend on training."""

from pathlib import Path

import numpy as np
import pytest
import torch

from il2vseg.base.images import Frame, write_image
from il2vseg.export.graph import export_onnx
from il2vseg.models.backbones import Backbone, build_backbone
from il2vseg.models.checkpoint import assemble, save_checkpoint
from il2vseg.models.segmenter import Classifier, Segmenter
from il2vseg.models.spec import LowLevelSpec, ModelSpec
from il2vseg.models.whitening import Whitening
from il2vseg.runtime.manifest import ClassInfo, InputSpec, Manifest, OutputSpec, describe_file

SIZE = (96, 128)


def make_segmenter(
    size: tuple[int, int] = SIZE,
    alpha: float = 0.4,
    low_level: LowLevelSpec | None = None,
    backbone: Backbone | None = None,
) -> Segmenter:
    backbone = backbone or build_backbone("tiny", size, None)
    spec = ModelSpec(
        method="il2vseg",
        backbone=backbone.name,
        weights_sha256="random",
        size=backbone.size,
        class_names=("water", "obstacle", "sky"),
        alpha=alpha,
        temperature=0.1,
        centre=True,
        low_level=low_level or LowLevelSpec(),
        training_data="nothing",
    )
    generator = torch.Generator().manual_seed(0)
    classifier = Classifier(Whitening(backbone.dim, 8, spec.centre), 3)
    classifier.whitening.basis.normal_(generator=generator)
    classifier.set_prototypes(torch.randn(3, 64, generator=generator))
    return assemble(backbone, classifier, spec)


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    """Not to be changed."""
    return make_segmenter()


@pytest.fixture(scope="session")
def model(segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its exported graph. Not to be changed."""
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_onnx(segmenter, path)
    return path


def write_export(folder: Path, model: Path, batch: int = 1) -> Path:
    """Make a folder an exported model, fp32, of a graph for so many frames per call; return it."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model.read_bytes())
    names = ("water", "obstacle", "sky")
    Manifest(
        name="tiny",
        method="il2vseg",
        backbone="tiny",
        patch_size=16,
        input=InputSpec("frame", *SIZE, batch),
        outputs=OutputSpec(SIZE, (3, SIZE[0] // 16, SIZE[1] // 16)),
        classes=tuple(ClassInfo(name, (0, 0, 0)) for name in names),
        clusters=(0, 1, 2),
        files=(describe_file(folder, "model.onnx", format="onnx", precision="fp32"),),
        alpha=0.4,
    ).save(folder)
    return folder


@pytest.fixture
def export_folder(model: Path, tmp_path: Path) -> Path:
    """An exported model, fp32."""
    return write_export(tmp_path / "export", model)


@pytest.fixture
def checkpoint(segmenter: Segmenter, tmp_path: Path) -> Path:
    """Its checkpoint's folder."""
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, segmenter.classifier, segmenter.spec)
    return folder


@pytest.fixture(scope="session")
def frames() -> list[tuple[str, Frame]]:
    """Six frames of a scene, of the model's size."""
    from il2vseg.data.synthetic import render

    return [(f"frame {i}", np.ascontiguousarray(render(3, 5 * i, SIZE)[0])) for i in range(6)]


@pytest.fixture
def footage(frames: list[tuple[str, Frame]], tmp_path: Path) -> Path:
    """They as a folder of images."""
    folder = tmp_path / "footage"
    folder.mkdir()
    for name, frame in frames:
        write_image(folder / f"{name}.png", frame)
    return folder
