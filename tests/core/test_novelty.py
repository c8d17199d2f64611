"""Novelty: confidence has the rank that it says on familiar images, and falls on others."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from il2vseg.calib.layers import network_nodes
from il2vseg.export.describe import describe
from il2vseg.export.graph import export_onnx
from il2vseg.export.tensorrt_support import obstacles
from il2vseg.models.checkpoint import load_checkpoint, save_student
from il2vseg.models.novelty import Novelty, fit_novelty
from il2vseg.models.spec import LowLevelSpec, ModelSpec
from il2vseg.models.student import METHOD, Student, finish

SPEC = ModelSpec(
    METHOD,
    "mobilenetv4_small_050_fine",
    "random",
    (64, 96),
    ("water", "sky", "obstacle"),
    0.0,
    1.0,
    False,
    LowLevelSpec(refine=0),
    "none",
)


def footage(count: int = 40) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(0.1, 3.0, 16)[:, None, None]
    return [torch.randn(16, 6, 10, generator=generator) * scale for _ in range(count)]


def test_of_familiar_cells_a_share_p_has_a_confidence_below_p() -> None:
    novelty = fit_novelty(footage())
    held_out = torch.cat([novelty(f[None]).flatten() for f in footage()[1::2]])
    for p in (0.02, 0.1, 0.5):
        assert float((held_out < p).float().mean()) == pytest.approx(p, abs=0.06)
    assert float(held_out.min()) >= 0
    assert float(held_out.max()) <= 1


def test_what_leaves_the_familiar_directions_has_no_confidence() -> None:
    novelty = fit_novelty(footage())
    other = footage()[7].clone()
    other[0] += 2.0  # twenty deviations in the direction that varies least, two thirds of one in the widest
    assert float(novelty(other[None]).max()) < 0.02


def test_the_distance_equals_a_slow_reference() -> None:
    novelty = fit_novelty(footage())
    image = footage()[3]
    x = image.flatten(1).T.double().numpy()
    z = x @ novelty.whiten.double().numpy().T + novelty.shift.double().numpy()
    z = z.clip(-30, 30)
    centres = novelty.centres.double().numpy()
    slow = np.sqrt(((z[:, None] - centres[None]) ** 2).mean(2).min(1))
    fast = novelty.distance(image[None]).flatten().numpy()
    assert np.allclose(fast, slow, atol=1e-3)


def test_an_image_far_from_every_scene_has_no_confidence_although_its_cells_are_familiar() -> None:
    novelty = fit_novelty(footage())
    known = footage()[6]
    strange = known[:, :1, :1].expand_as(known)  # one familiar cell all over
    assert float(novelty(known[None]).mean()) > 0.2
    assert float(novelty.strangeness(strange[None])) > float(novelty.limits[1])
    assert float(novelty(strange[None]).max()) == 0


def test_familiar_images_are_as_good_as_any() -> None:
    novelty = fit_novelty(footage())
    distances = torch.cat([novelty.strangeness(f[None]) for f in footage()[1::2]])
    assert float((distances > novelty.limits[0]).float().mean()) == pytest.approx(0.05, abs=0.05)
    assert float(novelty.limits[1] / novelty.limits[0]) == pytest.approx(1.15, abs=0.01)
    assert all(float(novelty.strangeness(f[None])) < 0.1 for f in footage()[::2]), "known scenes themselves"


def student() -> Student:
    torch.manual_seed(0)
    made = finish(Student(SPEC))
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(1, 3, 64, 96, generator=generator) for _ in range(8)]
    made.novelty = fit_novelty([made.features(i)[1][0].detach() for i in images])
    made.spec = dataclasses.replace(SPEC, novelty={"cell": 0.02, "frame": 0.2})
    return made


def test_a_checkpoint_keeps_the_novelty(tmp_path: Path) -> None:
    made = student()
    save_student(tmp_path, made)
    loaded = load_checkpoint(tmp_path)
    assert isinstance(loaded, Student)
    images = torch.rand(1, 3, 64, 96)
    expected, found = made.judge(images)[1], loaded.judge(images)[1]
    assert expected is not None
    assert found is not None
    torch.testing.assert_close(found, expected)
    assert isinstance(loaded.novelty, Novelty)


def test_the_graph_has_the_confidence_that_the_manifest_promises(tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    made = student()
    export_onnx(made, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx")
    assert list(obstacles(graph)) == [], "TensorRT reads it"
    assert network_nodes(graph)[-1].output[0] != "confidence"
    frame = np.random.default_rng(0).integers(0, 255, (1, 64, 96, 3), np.uint8)
    outputs = onnxruntime.InferenceSession(str(tmp_path / "model.onnx")).run(["confidence"], {"frame": frame})
    images = torch.from_numpy(frame).float().permute(0, 3, 1, 2).flip(1) / 255
    expected = made.judge(images)[1]
    assert expected is not None
    assert np.allclose(outputs[0], expected[:, 0].detach().numpy(), atol=2e-3)
    manifest = describe(made, "test")
    assert manifest.outputs.confidence == outputs[0].shape[1:] == (4, 6)
    assert manifest.novelty is not None
    assert (manifest.novelty.cell, manifest.novelty.frame) == (0.02, 0.2)
