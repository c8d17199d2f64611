"""Distillation: targets, views that keep frame and target together, and a student that learns."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame, fitting_size
from il2vseg.distill import DistillConfig, crop_size, distill, load_teachers, main
from il2vseg.learning.distiller import Distiller, DistillRecipe
from il2vseg.learning.targets import Targets, classes_of, compute_targets, targets_key
from il2vseg.learning.views import Augmentation, draw_view, vary_colours, vary_light, warp_frame
from il2vseg.losses.distillation import class_weights, distillation_loss
from il2vseg.models.network import Network
from il2vseg.models.spec import LowLevelSpec, ModelSpec
from il2vseg.models.student import METHOD, Student

SIZE = (96, 192)
NAMES = ("left", "right")


def spec(names: tuple[str, ...] = NAMES) -> ModelSpec:
    student = "mobilenetv4_small_050"
    return ModelSpec(METHOD, student, "random", SIZE, names, 0.0, 1.0, False, LowLevelSpec(), "none")


class ColourTeacher(Network):
    """Says "red" where a frame is redder than blue, in three clusters: two are called "blue"."""

    def __init__(self, size: tuple[int, int] = SIZE) -> None:
        super().__init__(spec(("blue", "red", "blue")), size, (size[0] // 8, size[1] // 8))

    def forward(self, images: Tensor) -> Tensor:
        red = F.adaptive_avg_pool2d(images[:, :1] - images[:, 2:], self.grid).mul(8).sigmoid()
        return torch.cat([0.25 * (1 - red), red, 0.75 * (1 - red)], 1)


def two_halves(edge: int) -> Frame:
    """Red left of `edge`, blue right of it, BGR."""
    frame = np.zeros((*SIZE, 3), np.uint8)
    frame[:, :edge] = (30, 40, 210)
    frame[:, edge:] = (210, 40, 30)
    return frame


def png(frame: Frame) -> bytes:
    return cv2.imencode(".png", frame)[1].tobytes()


def test_clusters_of_one_name_are_one_class() -> None:
    assert classes_of(["water", "sky", "water"]) == (("water", "sky"), [[0, 2], [1]])
    assert classes_of(["ignore", "sky", "unsure"]) == (("sky",), [[1]])
    with pytest.raises(UserError, match="unsure"):
        classes_of(["unsure", "ignore"])


@pytest.mark.parametrize("flip", [False, True])
def test_where_the_teacher_is_unsure_there_is_no_target(flip: bool) -> None:
    teacher = ColourTeacher()
    teacher.class_names = ["unsure", "red", "blue"]
    blue = two_halves(88)
    certain = compute_targets([teacher], [blue], SIZE, flip=flip)
    assert certain.class_names == ("red", "blue")
    assert (certain.scores[0].sum(0)[:, 24:] >= 254).all()  # cluster 2 wins there, cluster 0 nowhere
    teacher.class_names = ["blue", "red", "unsure"]
    unsure = compute_targets([teacher, teacher], [blue], SIZE, flip=flip)
    assert unsure.class_names == ("blue", "red")
    assert (unsure.scores[0, :, :, 24:] == 0).all()
    assert (unsure.scores[0, 1, :, :20] > 127).all()
    assert (abs(unsure.scores[0].sum(0)[:, :20].astype(int) - 255) <= 1).all()


def test_targets_are_the_teachers_labels() -> None:
    teacher = ColourTeacher()
    frame = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    frame = cv2.GaussianBlur(frame, (0, 0), 15).astype(np.uint8)
    frame = cv2.normalize(frame, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)  # type: ignore[call-overload]
    targets = compute_targets([teacher], [frame], SIZE)
    clusters = teacher.predict(torch.from_numpy(frame)[None])[0][0].numpy()
    expected = np.array([0, 1, 0])[clusters]
    labels = targets.scores[0].argmax(0).repeat(4, 0).repeat(4, 1)
    assert (labels == expected).mean() > 0.95
    assert 0.1 < expected.mean() < 0.9


def test_targets_are_merged_and_follow_the_frames_edges() -> None:
    targets = compute_targets([ColourTeacher(), ColourTeacher((144, 288))], [two_halves(88)], SIZE, flip=True)
    assert targets.class_names == ("blue", "red")
    assert targets.scores.shape == (1, 2, 24, 48)
    assert targets.tokens.shape[1] == 0
    labels = targets.scores[0].argmax(0)
    assert (labels[:, :22] == 1).all()
    assert (labels[:, 22:] == 0).all()


def test_targets_are_read_back_only_with_their_key(tmp_path: Path) -> None:
    targets = Targets(np.ones((2, 3, 4, 5), np.uint8), np.ones((2, 6, 1, 1), np.float16), ("a", "b", "c"))
    path = tmp_path / "targets.npz"
    assert Targets.load(path, "k") is None
    targets.save(path, "k")
    again = Targets.load(path, "k")
    assert again is not None
    assert again.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(again.scores, targets.scores)
    assert Targets.load(path, "other") is None
    path.write_bytes(path.read_bytes()[:100])
    assert Targets.load(path, "k") is None


def test_the_key_knows_frames_and_settings() -> None:
    key = targets_key([b"a", b"b"], scales=(1.0,))
    assert key == targets_key([b"a", b"b"], scales=(1.0,))
    assert key != targets_key([b"b", b"a"], scales=(1.0,))
    assert key != targets_key([b"a", b"b"], scales=(1.5,))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_a_view_cuts_frame_and_target_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    crop = (32, 48)
    view = draw_view(rng, SIZE, crop, Augmentation())
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    ramp = np.stack([x * 2, y * 3, x + y], 2).astype(np.uint8)
    warped = warp_frame(ramp, view, crop).astype(np.float32)
    theta = torch.from_numpy(view).float()[None]
    grid = F.affine_grid(theta, [1, 3, *crop], align_corners=False)
    values = torch.from_numpy(ramp).permute(2, 0, 1)[None].float()
    expected = F.grid_sample(values, grid, padding_mode="reflection", align_corners=False)
    difference = np.abs(warped - expected[0].permute(1, 2, 0).numpy())
    # cv2 interpolates in steps of 1/32 pixel.
    assert np.quantile(difference, 0.99) <= 1.5


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_varied_colours_keep_the_frames_shape(seed: int) -> None:
    frame = two_halves(40)
    varied = vary_colours(np.random.default_rng(seed), frame, Augmentation(degrade=1.0))
    assert varied.shape == frame.shape
    assert varied.dtype == np.uint8


def test_the_loss_is_least_at_the_target() -> None:
    target = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).mul(5).softmax(1)
    at_target = distillation_loss(target.log(), target, torch.ones(3))
    assert float(at_target) == pytest.approx(0.0, abs=1e-5)
    assert float(distillation_loss(torch.zeros_like(target), target, torch.ones(3))) > 0.01


def test_unsure_cells_teach_nothing() -> None:
    target = torch.full((1, 2, 4, 4), 0.5)
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    distillation_loss(logits, target, torch.ones(2)).backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) == 0.0


def test_cells_that_the_teacher_does_not_know_teach_nothing_and_have_no_edge() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(1, 2, 12, 12)
    target[:, 0, :, :6] = 1.0
    logits = torch.randn(1, 2, 12, 12, generator=generator, requires_grad=True)
    distillation_loss(logits, target, torch.ones(2)).backward()
    assert logits.grad is not None
    assert float(logits.grad[..., 6:].abs().max()) == 0.0
    whole = logits.detach().clone().requires_grad_()
    distillation_loss(
        whole, torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1).expand_as(whole), torch.ones(2)
    ).backward()
    assert whole.grad is not None
    torch.testing.assert_close(logits.grad[..., :6], 2 * whole.grad[..., :6])
    half = logits.detach().clone().requires_grad_()
    partly = torch.where(torch.arange(12) < 6, target, 0.5 * target.flip(3))
    distillation_loss(half, partly, torch.ones(2)).backward()
    assert half.grad is not None
    torch.testing.assert_close(half.grad[..., 6:], 0.5 * whole.grad[..., 6:] / 0.75)


def test_cells_of_rare_classes_count_more() -> None:
    scores = np.zeros((2, 3, 4, 4), np.uint8)
    scores[:, 0], scores[0, 1, 0], scores[0, 0, 0] = 255, 255, 0  # shares 7/8, 1/8, 0
    torch.testing.assert_close(class_weights(scores, 0.0), torch.ones(3))
    weights = class_weights(scores, 0.5)
    torch.testing.assert_close(weights[:2], torch.tensor([8 / 21, 8 / 3]).sqrt())
    assert torch.isfinite(weights).all()
    target = F.one_hot(torch.tensor([[[0, 1]]]), 3).permute(0, 3, 1, 2).float()
    wrong_on_common = torch.tensor([[0.0, 0.0], [4.0, 4.0], [0.0, 0.0]]).reshape(1, 3, 1, 2)
    wrong_on_rare = torch.tensor([[4.0, 4.0], [0.0, 0.0], [0.0, 0.0]]).reshape(1, 3, 1, 2)
    assert distillation_loss(wrong_on_rare, target, weights) > distillation_loss(
        wrong_on_common, target, weights
    )


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_light_varies_brightness_and_nothing_else(seed: int) -> None:
    frame = np.full((24, 32, 3), (40, 80, 120), np.uint8)
    lit = vary_light(np.random.default_rng(seed), frame, Augmentation(shade=1.0, dim=1.0)).astype(int)
    inside = (lit.max(2) < 255) & (lit.min(2) > 20)
    assert (abs(lit[..., 1] - 2 * lit[..., 0]) <= 3)[inside].all()
    assert (abs(lit[..., 2] - 3 * lit[..., 0]) <= 4)[inside].all()
    untouched = vary_light(np.random.default_rng(seed), frame, Augmentation(shade=0.0, dim=0.0))
    np.testing.assert_array_equal(untouched, frame)


@pytest.mark.parametrize("edge_weight", [0.0, 1.0])
def test_the_loss_agrees_with_a_loop_over_cells(edge_weight: float) -> None:
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(2, 3, 7, 8, generator=generator).mul(2).softmax(1)
    logits, weights = torch.randn(2, 3, 7, 8, generator=generator), torch.tensor([0.5, 1.0, 2.0])
    t, p = target.double().numpy(), logits.double().log_softmax(1).numpy()
    total = weight_sum = 0.0
    for b, y, x in np.ndindex(2, 7, 8):
        here = t[b, :, y, x]
        near = t[b, :, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        edge = (near.max((1, 2)) - near.min((1, 2))).max()
        weight = max(0.0, (here.max() - 1 / 3) / (2 / 3)) * (1 + edge_weight * edge)
        weight *= float((weights.double().numpy() * here).sum())
        total += weight * float((here * (np.log(here) - p[b, :, y, x])).sum())
        weight_sum += weight
    found = distillation_loss(logits, target, weights, edge_weight)
    assert float(found) == pytest.approx(total / max(weight_sum, 1.0), rel=1e-4)


def distiller(**settings: object) -> Distiller:
    frames = [two_halves(edge) for edge in (40, 96)]
    targets = compute_targets([ColourTeacher()], frames, SIZE)
    tokens = np.random.default_rng(0).normal(size=(2, 5, 3, 6)).astype(np.float16)
    targets = Targets(targets.scores, tokens, targets.class_names)
    torch.manual_seed(0)
    recipe = DistillRecipe(batch=2, crop=(96, 128), **settings)  # type: ignore[arg-type]
    return Distiller(Student(spec(targets.class_names)), [png(f) for f in frames], targets, recipe)


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    rate = distiller(steps=105).learning_rate
    assert [rate(i) for i in range(6)] == pytest.approx([4e-4, 8e-4, 1.2e-3, 1.6e-3, 2e-3, 2e-3])
    assert [rate(30), rate(55), rate(80)] == pytest.approx([1.7071e-3, 1e-3, 2.929e-4], rel=1e-3)
    assert rate(105) == pytest.approx(0.0)
    assert distiller(steps=2).learning_rate(0) == 2e-3  # one step of warm-up at least


def test_matrices_are_decayed_and_the_rest_is_not() -> None:
    d = distiller(steps=20)
    decayed, rest = d.optimizer.param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.02, 0.0)
    assert {p.ndim for p in decayed["params"]} == {4}
    assert {p.ndim for p in rest["params"]} == {1}
    assert d.projection is not None
    assert any(p is d.projection.weight for p in decayed["params"])


@pytest.mark.parametrize(("step", "keep"), [(0, 0.1), (8, 0.5), (10_000, 0.998)])
def test_the_average_follows_the_student_with_a_short_memory_first(step: int, keep: float) -> None:
    d = distiller(steps=20)
    name = "classify.weight"
    with torch.no_grad():
        d.student.classify.weight.add_(1.0)
    before, own = d.average.state_dict()[name].clone(), d.student.state_dict()[name]
    d._update_average(step)
    torch.testing.assert_close(d.average.state_dict()[name], keep * before + (1 - keep) * own)


def test_a_step_takes_the_rate_of_its_place_and_half_of_the_feature_loss() -> None:
    d = distiller(steps=20, augmentation=Augmentation(zoom=1.0, tilt=0.0))
    lesson = d.prepare(d.batches(7))
    assert lesson.tokens is not None
    assert d.projection is not None
    assert d.student.classify.bias is not None
    before = d.student.classify.bias.detach().clone()
    with torch.no_grad():
        fine, coarse = d.student.features(lesson.images)
        kl = distillation_loss(d.student.classify(fine), lesson.target, d.class_weight, 1.0, lesson.weight)
        projected = d.projection(coarse)
    cosine = (projected * lesson.tokens).sum(1) / (projected.norm(dim=1) * lesson.tokens.norm(dim=1))
    losses = d.step(7)
    assert float(losses["kl"]) == pytest.approx(float(kl), rel=1e-3)
    assert float(losses["features"]) == pytest.approx(0.5 * (1 - float(cosine.mean())), rel=1e-3)
    rate = d.learning_rate(7)
    assert all(group["lr"] == rate for group in d.optimizer.param_groups)
    moved = (d.student.classify.bias.detach() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=1e-2, atol=0)


def run(steps: int, seed: int = 0) -> tuple[Student, list[float]]:
    frames = [two_halves(edge) for edge in (20, 40, 60, 80, 96, 110, 130, 150)]
    targets = compute_targets([ColourTeacher()], frames, SIZE)
    recipe = DistillRecipe(steps=steps, batch=6, crop=(96, 128), seed=seed)
    torch.manual_seed(seed)
    losses: list[float] = []
    distiller = Distiller(Student(spec(targets.class_names)), [png(f) for f in frames], targets, recipe)
    return distiller.run(lambda report: losses.append(report.losses["kl"])), losses


def test_a_student_learns_its_teacher() -> None:
    student, losses = run(50)
    labels, _ = student.predict(torch.from_numpy(two_halves(100))[None])
    expected = np.where(np.arange(192) < 100, 1, 0)
    assert losses[-1] < 0.5 * losses[0]
    assert (labels[0].numpy() == expected).mean() > 0.9


def test_the_same_seed_trains_the_same_student() -> None:
    (a, losses), (b, _), (_, other) = run(2), run(2), run(2, seed=1)
    assert all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())
    assert losses != other


def test_sizes_keep_the_aspect_in_whole_strides() -> None:
    assert fitting_size((360, 640), 512, 32) == (288, 512)
    assert fitting_size((480, 640), 512, 32) == (384, 512)
    assert crop_size((288, 512), 32) == (192, 352)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, r"steps must be between 1 and"),
        ({"scales": (1.0, 9.0)}, r"scales must be between 0.25 and 4 \(got 9.0\)"),
        ({"student": "x"}, "known"),
        ({"batch": 1}, "batch must be between 2 and"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        distill(DistillConfig(teacher=Path("nowhere"), **change))  # type: ignore[arg-type]


def test_the_command_distils_a_checkpoint_of_the_train_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from il2vseg.models.checkpoint import load_checkpoint
    from il2vseg.train import TrainConfig, train

    teacher, out = tmp_path / "teacher", tmp_path / "lite"
    train(
        TrainConfig(
            backbone="tiny",
            size=(64, 96),
            limit=4,
            steps=4,
            out=teacher,
            cache=tmp_path,
            whitening=4,
            centre=False,
        )
    )
    arguments = ["--teacher", str(teacher), "--out", str(out), "--limit", "5", "--steps", "2", "--batch", "2"]
    arguments += ["--size", "64", "96", "--scales", "1"]
    assert main(arguments) == 0
    student = load_checkpoint(out)
    assert isinstance(student, Student)
    assert student.class_names == ["class 0", "class 1", "class 2"]
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [0, 1]
    assert {"kl", "features"} <= set(records[0])
    assert (out / "preview.png").is_file()
    before = (out / "targets.npz").stat().st_mtime_ns
    assert not (out / "agreement.json").exists()
    assert main([*arguments, "--held-out", "3"]) == 0
    assert (out / "targets.npz").stat().st_mtime_ns == before
    assert json.loads((out / "agreement.json").read_text())["frames"] == 1
    assert "1 frame that it did not learn from: the student agrees" in capsys.readouterr().err

    (tmp_path / "one").mkdir()  # a batch of one frame has no statistics
    cv2.imwrite(str(tmp_path / "one" / "a.png"), np.full((64, 96, 3), 90, np.uint8))
    assert main([*arguments, "--dataset", "folder", "--root", str(tmp_path / "one")]) == 2
    assert "distillation needs two frames or more" in capsys.readouterr().err


def test_a_teacher_is_loaded_once_per_size(monkeypatch: pytest.MonkeyPatch) -> None:
    from il2vseg.models import checkpoint

    loaded: list[tuple[int, int]] = []

    def load(_: Path, *, size: tuple[int, int] = SIZE, weights: Path | None = None) -> SimpleNamespace:
        loaded.append(size)
        return SimpleNamespace(size=size, patch=16)

    monkeypatch.setattr(checkpoint, "load_checkpoint", load)
    teachers = load_teachers(DistillConfig(teacher=Path("nowhere"), scales=(1.0, 1.5, 1.0)))
    assert [t.size for t in teachers] == [SIZE, (144, 288), SIZE]
    assert loaded == [SIZE, (144, 288)]


def test_a_missing_teacher_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--teacher", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "no such checkpoint" in capsys.readouterr().err
