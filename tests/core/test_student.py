"""The student network: shapes, checkpoints, and that everything takes it for a Segmenter."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from il2vseg.base.errors import UserError
from il2vseg.data import open_dataset
from il2vseg.evaluate import evaluate
from il2vseg.models.checkpoint import load_checkpoint, rename_clusters, save_student
from il2vseg.models.spec import LowLevelSpec, ModelSpec
from il2vseg.models.student import METHOD, STUDENTS, Student, finish

SPEC = ModelSpec(
    method=METHOD,
    backbone="mobilenetv4_small_050",
    weights_sha256="random",
    size=(64, 96),
    class_names=("obstacle", "water", "sky"),
    alpha=0.0,
    temperature=1.0,
    centre=False,
    low_level=LowLevelSpec(),
    training_data="none",
)


def shake_norms(network: Student) -> None:
    """Give batch normalisations statistics and weights as of a training, so that folding them is work."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 1.5)


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(0)
    network = Student(SPEC)
    shake_norms(network)
    return finish(network)


def test_scores_are_distributions_at_a_quarter_of_the_frame(student: Student) -> None:
    scores = student(torch.rand(2, 3, 64, 96)).detach()
    assert scores.shape == (2, 3, *student.grid) == (2, 3, 16, 24)
    torch.testing.assert_close(scores.sum(1), torch.ones(2, 16, 24))


def test_predict_labels_every_pixel(student: Student) -> None:
    labels, scores = student.predict(torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8))
    assert labels.shape == (1, 64, 96)
    assert labels.dtype == torch.uint8
    assert scores.shape == (1, 3, 16, 24)


@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_of_the_table_can_be_built(name: str) -> None:
    network = Student(dataclasses.replace(SPEC, backbone=name)).eval()
    stride = 2 if name.endswith("_fine") else 4
    assert network(torch.rand(1, 3, 64, 96)).shape == (1, 3, 64 // stride, 96 // stride)
    assert network.grid == (SPEC.size[0] // stride, SPEC.size[1] // stride)


@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_fits_a_wheel(name: str, tmp_path: Path) -> None:
    path = save_student(tmp_path, finish(Student(dataclasses.replace(SPEC, backbone=name))))
    assert path.stat().st_size < 4_000_000


def test_finishing_folds_norms_and_rounds_to_half() -> None:
    torch.manual_seed(1)
    network: Student = Student(SPEC).eval()
    shake_norms(network)
    images = torch.rand(1, 3, 64, 96)
    before = network.logits(images).detach()
    finished = finish(network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in finished.modules())
    assert all(torch.equal(p, p.half().float()) for p in finished.parameters())
    torch.testing.assert_close(finished.logits(images), before, atol=0.02 * float(before.abs().max()), rtol=0)


def test_a_saved_student_computes_the_same(student: Student, tmp_path: Path) -> None:
    save_student(tmp_path, student)
    loaded = load_checkpoint(tmp_path)
    images = torch.rand(1, 3, 64, 96)
    assert isinstance(loaded, Student)
    assert torch.equal(loaded(images), student(images))
    assert loaded.class_names == ["obstacle", "water", "sky"]
    assert loaded.alpha == 0.0


def test_a_student_is_scored_like_any_model(student: Student) -> None:
    report = evaluate(student, open_dataset("synthetic", None, "val", labelled=True, limit=2))
    assert report.images == 2
    assert 0 <= report.one_to_one.accuracy <= 100


def test_a_student_can_be_loaded_for_another_size(student: Student, tmp_path: Path) -> None:
    save_student(tmp_path, student)
    assert load_checkpoint(tmp_path, size=(96, 128)).grid == (24, 32)
    with pytest.raises(UserError, match="multiple"):
        load_checkpoint(tmp_path, size=(90, 128))


def test_loading_leaves_the_random_generator_alone(student: Student, tmp_path: Path) -> None:
    save_student(tmp_path, student)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_checkpoint(tmp_path)
    assert torch.equal(torch.rand(4), expected)


def test_renaming_clusters_changes_nothing_else(student: Student, tmp_path: Path) -> None:
    save_student(tmp_path, student)
    rename_clusters(tmp_path, ["land", "water", "land"])
    loaded = load_checkpoint(tmp_path)
    images = torch.rand(1, 3, 64, 96)
    assert loaded.class_names == ["land", "water", "land"]
    assert torch.equal(loaded(images), student(images))


def test_an_unknown_student_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="mobilenetv4_small_050"):
        Student(dataclasses.replace(SPEC, backbone="resnet9000"))
