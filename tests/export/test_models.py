"""One contract for every model: the ViT segmenter, the student, exports of both, other people's networks."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from il2vseg.base.errors import UserError
from il2vseg.data import open_dataset
from il2vseg.evaluate import evaluate
from il2vseg.evaluation.exported import ExportedModel
from il2vseg.export.describe import describe
from il2vseg.export.graph import export_onnx
from il2vseg.models.network import Network, Predictor
from il2vseg.models.segmenter import Segmenter, with_alpha
from il2vseg.models.spec import LowLevelSpec, ModelSpec
from il2vseg.models.student import METHOD, Student, finish
from il2vseg.runtime.backends.providers import open_engine
from il2vseg.runtime.manifest import describe_file

from .conftest import make_segmenter

SIZE = (64, 96)
NAMES = ("water", "sky", "water")


def student_spec(names: tuple[str, ...] = NAMES) -> ModelSpec:
    low_level = LowLevelSpec(refine=0)
    return ModelSpec(
        METHOD, "mobilenetv4_small_050", "random", SIZE, names, 0.0, 1.0, False, low_level, "none"
    )


Folders = pytest.TempPathFactory


class Dark(Network):
    """A network of somebody else's: dark pixels are water."""

    patch = 2

    def __init__(self) -> None:
        super().__init__(student_spec(("water", "sky")), SIZE, (SIZE[0] // 2, SIZE[1] // 2))

    def forward(self, images: Tensor) -> Tensor:
        dark = torch.nn.functional.avg_pool2d(1 - images.mean(1, keepdim=True), 2)
        return torch.cat([dark, 1 - dark], 1)


def a_student() -> Student:
    torch.manual_seed(0)
    return finish(Student(student_spec()))


def exported(network: Network, graph: Path) -> ExportedModel:
    files = (describe_file(graph.parent, graph.name, format="onnx", precision="fp32"),)
    describe(network, "model", files).save(graph.parent)
    return ExportedModel(open_engine(graph.parent, "cpu", threads=1, say=lambda line: None))


@pytest.fixture(
    scope="module",
    params=["segmenter", "student", "somebody's", "export of the segmenter", "export of the student"],
)
def predictor(
    request: pytest.FixtureRequest,
    segmenter: Segmenter,
    model: Path,
    tmp_path_factory: Folders,
) -> Predictor:
    folder = tmp_path_factory.mktemp("predictor")
    if request.param == "segmenter":
        return segmenter
    if request.param == "student":
        return a_student()
    if request.param == "somebody's":
        return Dark().eval()
    if request.param == "export of the segmenter":
        return exported(segmenter, Path(shutil.copy(model, folder)))
    export_onnx(a_student(), folder / "model.onnx")
    return exported(a_student(), folder / "model.onnx")


class TestContract:
    """What everything that takes a model may rely on."""

    @pytest.fixture
    def frames(self, predictor: Predictor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randint(0, 256, (2, *predictor.size, 3), dtype=torch.uint8, generator=generator)

    def test_labels_and_scores_have_their_shapes(self, predictor: Predictor, frames: Tensor) -> None:
        labels, scores = predictor.predict(frames)
        assert labels.shape == (2, *predictor.size)
        assert labels.dtype == torch.uint8
        assert scores.shape == (2, len(predictor.class_names), *predictor.grid)
        assert scores.dtype == torch.float32
        assert int(labels.max()) < len(predictor.class_names)
        assert set(predictor.class_names) <= {"water", "obstacle", "sky"}

    def test_scores_are_distributions(self, predictor: Predictor, frames: Tensor) -> None:
        _, scores = predictor.predict(frames)
        assert float(scores.min()) >= 0
        torch.testing.assert_close(scores.sum(1), torch.ones(2, *predictor.grid), atol=1e-4, rtol=0)

    def test_labels_are_those_of_the_scores(self, predictor: Predictor, frames: Tensor) -> None:
        labels, scores = predictor.predict(frames)
        assert (predictor.label(scores, frames) == labels).float().mean() >= 0.999
        first = torch.zeros_like(scores)
        first[:, 0] = 1
        assert int(predictor.label(first, frames).max()) == 0

    def test_every_frame_is_judged_alone(self, predictor: Predictor, frames: Tensor) -> None:
        together = predictor.predict(frames)[0]
        alone = torch.cat([predictor.predict(frame[None])[0] for frame in frames])
        assert (together == alone).float().mean() >= 0.999

    def test_prediction_changes_neither_frames_nor_model(self, predictor: Predictor, frames: Tensor) -> None:
        before = frames.clone()
        first = predictor.predict(frames)[1].clone()
        assert torch.equal(frames, before)
        assert torch.equal(predictor.predict(frames)[1], first)

    def test_it_can_be_scored(self, predictor: Predictor) -> None:
        scenes = open_dataset("synthetic", None, "val", labelled=True, limit=1)
        report = evaluate(predictor, scenes, flip=True)
        assert report.images == 1
        assert len(report.assignment) == len(predictor.class_names)

    def test_only_a_network_with_a_low_level_branch_can_weigh_it(self, predictor: Predictor) -> None:
        assert predictor.alpha in (0.0, 0.4)
        if not isinstance(predictor, Segmenter):
            with pytest.raises(AttributeError):
                predictor.alpha = 0.5  # type: ignore[misc]


def test_another_alpha_is_another_model_with_the_same_weights() -> None:
    model = make_segmenter(alpha=0.4)
    frames = torch.randint(0, 256, (1, *model.size, 3), dtype=torch.uint8)
    before = model.predict(frames)[1]
    other = with_alpha(model, 0.9)
    assert (model.alpha, other.alpha) == (0.4, 0.9)
    assert next(other.parameters()) is next(model.parameters())
    assert not torch.equal(other.predict(frames)[1], before)
    assert torch.equal(model.predict(frames)[1], before)
    assert with_alpha(model, None) is model
    student = a_student()
    assert with_alpha(student, 0.0) is student
    with pytest.raises(UserError, match="no low-level branch"):
        with_alpha(student, 0.5)
