"""A student's graph reads frames as they lie in memory, and answers what the student answers."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

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
        made.classify.weight *= 200.0  # of random features: else every score is a third
        made.novelty = fit_novelty([made.features(torch.rand(1, 3, *SIZE))[1][0] for _ in range(4)])
    return made


def test_the_graph_answers_what_the_student_answers(student: Student) -> None:
    frames = noise(2, *SIZE)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    with torch.inference_mode():
        labels, scores, confidence = (t.numpy() for t in StudentGraph(student)(frames))
    expected = EagerBackend(student)(frames.numpy())
    assert len(np.unique(expected[0])) == 3
    assert (labels == expected[0]).mean() >= 0.999
    np.testing.assert_allclose(scores, expected[1], atol=1e-4)
    np.testing.assert_allclose(confidence, expected[2], atol=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


def test_no_runtime_is_asked_for_what_it_is_slow_at(
    student: Student, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from il2vseg.export.graph import export_onnx

    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_onnx(student, path)
    graph = onnx.load(path).graph
    operators = [node.op_type for node in graph.node]
    assert "Softmax" not in operators
    large = [
        v.name
        for v in onnx.shape_inference.infer_shapes(onnx.load(path)).graph.value_info
        if [d.dim_value for d in v.type.tensor_type.shape.dim] == [1, 3, *SIZE]
    ]
    assert large == [node.output[0] for node in graph.node if node.op_type == "Resize"][-1:]
