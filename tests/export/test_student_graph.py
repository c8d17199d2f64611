"""A student's graph reads frames as they lie in memory, and answers what the student answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from il2vseg.export.graph import export_onnx
from il2vseg.export.runners import onnx_runner
from il2vseg.export.student_graph import StudentGraph, reading_rows, softmax_of_planes
from il2vseg.models.eager import EagerBackend
from il2vseg.models.network import frames_to_images
from il2vseg.models.novelty import LIMITS, fit_novelty
from il2vseg.models.spec import LowLevelSpec, ModelSpec
from il2vseg.models.student import METHOD, STUDENTS, Student, finish

SIZE = (64, 96)


def noise(*size: int) -> torch.Tensor:
    """Frames as a camera gives them, uint8 BGR."""
    return torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("kernel", "stride", "padding", "bias"), [(3, 2, 1, False), (4, 4, 0, True)])
def test_a_layer_that_reads_rows_computes_what_it_did_of_planes(
    kernel: int, stride: int, padding: int, bias: bool
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, kernel, stride, padding, bias=bias)
    frames = noise(2, 16, 24)
    planes = conv((frames_to_images(frames) - 0.5) * 4.0)
    rows = reading_rows(conv, 4.0 / 255.0)(frames.float().flatten(2)[:, None] - 127.5)
    torch.testing.assert_close(rows, planes, atol=1e-5, rtol=1e-5)


def test_softmax_of_planes_is_softmax_and_cannot_overflow() -> None:
    logits = torch.randn(2, 3, 4, 5) * torch.tensor([1.0, 1000.0]).reshape(2, 1, 1, 1)
    torch.testing.assert_close(softmax_of_planes(logits), logits.softmax(1))


@pytest.fixture(scope="module", params=["mobilenetv4_small_050", "mobilenetv4_small_050_fine"])
def student(request: pytest.FixtureRequest) -> Student:
    """A marine student with its rule and a confidence."""
    assert request.param in STUDENTS
    names = ("water", "sky", "obstacle")
    spec = ModelSpec(
        METHOD, request.param, "random", SIZE, names, 0.0, 1.0, False, LowLevelSpec(refine=0), "none"
    )
    torch.manual_seed(0)
    made = finish(Student(replace(spec, novelty=dict(LIMITS))))
    with torch.no_grad():
        # Random scores are all about a third, and of one class.
        made.classify.weight *= 200.0
        made.classify.bias -= made.logits(frames_to_images(noise(2, *SIZE))).mean((0, 2, 3))
        made.novelty = fit_novelty([made.features(torch.rand(1, 3, *SIZE))[1][0] for _ in range(4)])
    return made


def test_the_graph_answers_what_the_student_answers(student: Student) -> None:
    frames = noise(2, *SIZE)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    with torch.inference_mode():
        labels, scores, confidence = (t.numpy() for t in StudentGraph(student)(frames))
    expected = EagerBackend(student)(frames.numpy())
    assert len(np.unique(expected[0])) == 3
    plain = student.logits(frames_to_images(frames)).softmax(1).detach().numpy()
    assert np.abs(expected[1] - plain).max() > 0.1  # the rule has work to do
    assert (labels == expected[0]).mean() >= 0.999
    np.testing.assert_allclose(scores, expected[1], atol=1e-4)
    np.testing.assert_allclose(confidence, expected[2], atol=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


def test_the_file_has_no_planes_and_no_softmax_and_takes_any_batch(student: Student, tmp_path: Path) -> None:
    path, frames = tmp_path / "model.onnx", noise(3, *SIZE).numpy()
    export_onnx(student, path, batch=3)
    graph = onnx.load(path).graph
    assert "Softmax" not in {node.op_type for node in graph.node}
    kernels = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    seen = [t.dims[1] for t in graph.initializer if t.name in {casts.get(k, k) for k in kernels}]
    assert 3 not in seen  # no layer reads planes
    run, expected = onnx_runner(path, 1), EagerBackend(student)(frames)
    for part in (slice(0, 1), slice(0, 3)):
        labels, scores, confidence = run(frames[part])
        assert (labels == expected[0][part]).mean() >= 0.999
        np.testing.assert_allclose(scores, expected[1][part], atol=1e-4)
        np.testing.assert_allclose(confidence, expected[2][part], atol=1e-3)
