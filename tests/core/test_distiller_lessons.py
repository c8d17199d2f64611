"""What a student is told of a batch: the teacher's scores, what was pasted, and what counts."""

import dataclasses
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.distill import pasting
from il2vseg.learning import distiller as distiller_module
from il2vseg.learning.batches import Standing
from il2vseg.learning.distiller import DistillRecipe, add_novelty, standing
from il2vseg.learning.monitor import StepReport
from il2vseg.learning.paste import Pasting
from il2vseg.losses.distillation import feature_loss
from tests.core.test_distiller import distiller, png, two_halves


def test_settings_of_a_distillation() -> None:
    values = {
        k: v for k, v in vars(DistillRecipe()).items() if k not in ("augmentation", "pasting", "restyling")
    }
    assert DistillRecipe().restyling is None
    assert values == {
        "steps": 3000, "batch": 8, "crop": (192, 320), "seed": 0, "lr": 2e-3, "weight_decay": 0.02,
        "warmup": 0.05, "ema": 0.998, "balance": 0.5, "edge_weight": 1.0, "feature_weight": 0.5,
    }  # fmt: skip


def test_what_was_pasted_is_an_obstacle_and_has_no_tokens() -> None:
    d = distiller(steps=20)
    batch = d.batches(0)
    plain = d.prepare(batch)
    solid = np.zeros_like(batch.solid)
    solid[0, : solid.shape[1] // 2] = 255
    d.obstacle = 1
    pasted = d.prepare(dataclasses.replace(batch, solid=solid))
    upper = torch.from_numpy(solid == 255)
    assert (pasted.target[:, 1][upper] == 1).all()
    assert (pasted.target[:, 0][upper] == 0).all()
    lower = (~upper)[:, None].expand_as(plain.target)
    torch.testing.assert_close(pasted.target[lower], plain.target[lower])
    assert pasted.kept is not None
    assert plain.kept is not None
    assert (plain.kept == 1).all()
    assert (pasted.kept[0, : pasted.kept.shape[1] // 2] == 0).all()
    assert (pasted.kept[0, -1] == 1).all()
    assert (pasted.kept[1] == 1).all()
    solid[:] = 0
    solid[1, 5, 6] = 255  # a single cell of four pixels, in the token of rows 4 to 7 and columns 4 to 7
    kept = d.prepare(dataclasses.replace(batch, solid=solid)).kept
    assert kept is not None
    assert (kept == 0).nonzero().tolist() == [[1, 1, 1]]


def test_beyond_the_frame_is_its_mirror_image() -> None:
    d = distiller(steps=20)
    wide = torch.tensor([[[1.5, 0.0, 0.0], [0.0, 1.5, 0.0]]])  # half as wide again as the frame
    ones = d._warp(torch.ones(1, 2, 12, 24), wide, 8)
    assert ones.shape == (1, 2, 12, 16)
    torch.testing.assert_close(ones, torch.ones_like(ones))


def test_feature_loss_sees_direction_only() -> None:
    tokens = torch.randn(1, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    assert float(feature_loss(3.0 * tokens, tokens)) == pytest.approx(0.0, abs=1e-5)
    assert float(feature_loss(-tokens, tokens)) == pytest.approx(2.0, abs=1e-5)


def test_pasting_finds_its_classes_by_name() -> None:
    settings = Pasting()
    assert standing(("sky", "obstacle", "water"), settings) == Standing(2, 1, settings)
    assert standing(("sky", "obstacle", "water"), None) is None
    assert standing(("road", "pavement", "obstacle"), settings) == Standing(0, 2, settings)


def test_what_is_pasted_follows_from_the_names_of_the_classes() -> None:
    water, road = (pasting(None, ("sky", ground, "obstacle")) for ground in ("water", "road"))
    assert water is not None
    assert road is not None
    assert (water.mirrored, road.mirrored) == (0.7, 0.1)
    assert pasting(None, ("sky", "road")) is None
    assert pasting(False, ("road", "obstacle")) is None
    with pytest.raises(UserError, match="needs a teacher with the classes obstacle and water, or road"):
        pasting(True, ("sky", "road"))


def test_in_its_first_steps_the_rate_rises_and_a_run_may_be_warm_up_alone() -> None:
    rate = distiller(steps=4, warmup=1.0).learning_rate
    assert [rate(i) for i in range(4)] == pytest.approx([5e-4, 1e-3, 1.5e-3, 2e-3])
    assert distiller(steps=1).learning_rate(0) == 2e-3


@pytest.mark.parametrize(
    ("device", "steps", "reported"), [("cpu", 3, [0, 1, 2]), ("cuda", 45, [0, 20, 40, 44])]
)
def test_losses_are_read_after_every_step_and_on_a_gpu_after_every_twentieth(
    monkeypatch: pytest.MonkeyPatch, device: str, steps: int, reported: list[int]
) -> None:
    d = distiller(steps=steps)
    d.device = torch.device(device)
    taken: list[int] = []
    seen: list[StepReport] = []

    def step(index: int, batch: object) -> dict[str, torch.Tensor]:
        assert batch == f"batch {index}"
        taken.append(index)
        return {"kl": torch.tensor(float(index))}

    monkeypatch.setattr(d, "step", step)
    monkeypatch.setattr(distiller_module, "ahead", lambda _, wanted, workers: (f"batch {i}" for i in wanted))
    assert d.run(seen.append) is d.average
    assert taken == list(range(steps))
    assert [(r.step, r.steps, r.losses) for r in seen] == [(i, steps, {"kl": float(i)}) for i in reported]


def test_the_average_takes_counts_over_as_they_are() -> None:
    d = distiller(steps=20)
    name = next(k for k, v in d.student.state_dict().items() if not v.is_floating_point())
    d.student.state_dict()[name].fill_(7)
    d._update_average(0)
    assert int(d.average.state_dict()[name]) == 7


def test_a_step_forgets_the_gradients_of_the_one_before() -> None:
    twice, once = distiller(steps=20), distiller(steps=20)
    for d in (twice, once):
        d.optimizer = torch.optim.SGD(d.optimizer.param_groups, lr=0.0)
        d.recipe = dataclasses.replace(d.recipe, lr=0.0)
        d.student.eval()  # or the second pass sees other statistics
    batch = once.batches(3)
    twice.step(0, batch)
    for d in (twice, once):
        d.step(1, batch)
    for a, b in zip(twice.student.parameters(), once.student.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None and b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


def test_a_student_is_told_what_images_like_its_own_look_like(monkeypatch: pytest.MonkeyPatch) -> None:
    d = distiller(steps=1)
    student = d.student.eval()
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(distiller_module, "fit_novelty", lambda features: seen.extend(features))
    frames = [two_halves(edge) for edge in (40, 96, 150)]
    assert add_novelty(student, [png(frame) for frame in frames]) is student
    assert student.spec.novelty == {"cell": 0.02, "frame": 0.5}
    for features, frame in zip(seen, frames, strict=True):  # coarse ones, of each frame in its order
        rgb = torch.from_numpy(frame[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            expected = student.features(rgb)[1][0]
        assert features.dtype == torch.float16
        torch.testing.assert_close(features.float(), expected, atol=2e-3, rtol=2e-3)


def test_the_teacher_sees_frames_as_they_are_not_as_small_as_the_student_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, footage = tmp_path / "teacher", tmp_path / "footage"
    teacher.mkdir()
    footage.mkdir()
    (teacher / "checkpoint.safetensors").write_bytes(b"some weights")
    for i in range(3):
        cv2.imwrite(str(footage / f"{i}.png"), np.full((120, 200, 3), 90 + i, np.uint8))
    seen: list[tuple[int, ...]] = []

    def compute(_: object, frames: Iterable[NDArray[np.uint8]], *__: object) -> None:
        seen.extend(frame.shape for frame in frames)
        raise UserError("seen")

    command = import_module("il2vseg.distill")
    monkeypatch.setattr("il2vseg.learning.targets.compute_targets", compute)
    monkeypatch.setattr(command, "load_teachers", lambda _: [])
    with pytest.raises(UserError, match="seen"):
        command.distill(
            command.DistillConfig(
                teacher=teacher, dataset="folder", root=footage, size=(64, 96), out=tmp_path / "out"
            )
        )
    assert seen == [(120, 200, 3)] * 3
