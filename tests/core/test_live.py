"""A network that is trained whole: what moves, what is kept, and what it sees."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from il2vseg.base.errors import UserError
from il2vseg.base.images import resize_frame
from il2vseg.data import open_dataset
from il2vseg.learning.features import jitter_colours
from il2vseg.learning.live import LiveFeatures
from il2vseg.learning.processes import Processes
from il2vseg.learning.surveyed import divide_checkpoint
from il2vseg.learning.trainer import Trainer
from il2vseg.methods import load_method
from il2vseg.methods.base import Context, Recipe
from il2vseg.models.backbones import build_backbone
from il2vseg.models.checkpoint import load_checkpoint
from il2vseg.models.network import frames_to_images
from il2vseg.models.segmenter import Classifier
from il2vseg.models.whitening import identity
from il2vseg.train import TrainConfig, main, train
from tests.threads import Thread

SIZE, IMAGES = (32, 40), 4


def features(seed: int = 0, taught: bool = False) -> LiveFeatures:
    dataset = open_dataset("synthetic", None, "train", limit=IMAGES)
    return LiveFeatures(dataset, build_backbone("resnet18_fpn", SIZE, None, seed=seed), taught=taught)


def trainer(
    method: str = "iic", steps: int = 2, seed: int = 0, processes: Processes | None = None, **settings: Any
) -> Trainer:
    store = features(seed, load_method(method).teaches_network)
    recipe = Recipe(load_method(method)().with_steps(steps), batch=IMAGES, seed=seed, **settings)
    return Trainer(store, identity(128), recipe, processes, **store.networks)


def frames() -> list[Any]:
    return [resize_frame(s.frame, SIZE) for s in open_dataset("synthetic", None, "train", limit=IMAGES)]


def images(some: list[Any]) -> Tensor:
    return torch.stack([frames_to_images(torch.from_numpy(frame)[None])[0] for frame in some])


def weights(t: Trainer, of: str = "network") -> dict[str, Tensor]:
    return {k: v.clone() for k, v in getattr(t, of).state_dict().items()}


def started(t: Trainer) -> str:
    """Begin the first stage; return its name."""
    name = next(iter(t.stages))
    t.begin(name)
    return name


def test_the_pyramid_sums_the_stages_of_the_resnet() -> None:
    network: Any = build_backbone("resnet18_fpn", (64, 96), None).vit
    stages = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    stages.load_state_dict(network.resnet.state_dict())
    x = torch.randn(2, 3, 64, 96)
    total = torch.zeros(2, 128, 2, 3)
    for level, lateral in zip(reversed(stages(x)), reversed(network.lateral), strict=True):
        total = F.interpolate(total, size=level.shape[2:], mode="bilinear") + lateral(level)
    assert total.shape == (2, 128, 16, 24)
    torch.testing.assert_close(network.forward_features(x), total)


def test_tokens_are_those_of_the_images_and_of_their_jittered_copies() -> None:
    store, chosen = features(), torch.tensor([2, 0])
    backbone = store._backbone
    some = [frames()[i] for i in chosen]
    with torch.no_grad():
        expected = backbone(images(some)).flatten(2).transpose(1, 2)
        torch.testing.assert_close(store.tokens(chosen), expected)
        expected = backbone(images([jitter_colours(f) for f in some])).flatten(2).transpose(1, 2)
        torch.testing.assert_close(store.view_tokens(chosen), expected)
    colours = store.colours(chosen, 2)
    torch.testing.assert_close(colours, F.avg_pool2d(images(some), 2))


def test_crops_are_crops_of_pixels() -> None:
    store, chosen = features(), torch.tensor([1, 3])
    mirrored = torch.tensor([[-1.0, 1.0, 0.0, 0.0]]).expand(2, -1)
    some = [frames()[i] for i in chosen]
    classifier = Classifier(identity(128), 3)
    recipe, generator = Recipe(load_method("picie")()), torch.Generator()
    context = Context(store, classifier, recipe, torch.device("cpu"), chosen, generator, 0)
    with torch.no_grad():
        for found, seen in (
            (context.cropped(mirrored), some),
            (context.cropped_view(mirrored), [jitter_colours(frame) for frame in some]),
        ):
            expected = store._backbone(images(seen).flip(3)).flatten(2).transpose(1, 2)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_batch_norm_learns_where_gradients_flow_and_nowhere_else() -> None:
    store = features()
    norm = store._backbone.vit.resnet.bn1
    before = norm.running_mean.clone()
    with torch.no_grad():
        together, alone = store.tokens(torch.arange(3)), store.tokens(torch.tensor([0]))
    torch.testing.assert_close(together[:1], alone)
    assert torch.equal(norm.running_mean, before)
    learning = store.tokens(torch.arange(3))
    assert learning.requires_grad
    assert not torch.equal(norm.running_mean, before)
    assert not torch.allclose(learning, together, atol=1e-2)
    assert not norm.training


def test_the_student_sees_with_gradients_what_the_teacher_sees_without() -> None:
    t = trainer("slotcon")
    name, seen = started(t), list[tuple[str, bool, Tensor]]()

    def watch(of: str, module: Any) -> None:
        module.register_forward_pre_hook(lambda m, given: seen.append((of, m.training, given[0])))

    watch("student", t.network.resnet.conv1)  # type: ignore[union-attr]
    watch("teacher", t.teacher.resnet.conv1)  # type: ignore[union-attr]
    t.step(name, 0)
    # For the centre before the step, two crops of the student, the same of the teacher.
    who = [("teacher", False), *[("student", True)] * 2, *[("teacher", False)] * 2]
    assert [(of, training) for of, training, _ in seen] == who
    _, first, second, first_again, second_again = (x for *_, x in seen)
    assert torch.equal(first, first_again)
    assert torch.equal(second, second_again)
    assert not torch.allclose(first, second, atol=0.1)


@pytest.mark.parametrize(("step", "keeps"), [(0, 0.99), (1, 0.9925), (2, 0.9975)])
def test_the_teacher_follows_by_a_half_cosine(step: int, keeps: float) -> None:
    t = trainer("slotcon", steps=3)
    name = started(t)
    with torch.no_grad():
        for value in t.teacher.parameters():
            value *= 1.1
    before, head = weights(t, "teacher"), weights(t, "classifier")
    t.step(name, step)
    student, after = weights(t), weights(t, "teacher")
    for key in ("resnet.conv1.weight", "lateral.3.bias", "resnet.bn1.running_mean"):
        assert not torch.equal(before[key], student[key])
        expected = keeps * before[key] + (1 - keeps) * student[key]
        torch.testing.assert_close(after[key], expected, atol=1e-6, rtol=1e-6)
    now = weights(t, "classifier")
    expected = keeps * head["global_prototypes"] + (1 - keeps) * now["local_prototypes"]
    torch.testing.assert_close(now["global_prototypes"], expected, atol=1e-6, rtol=1e-6)


def test_at_first_a_network_is_the_same_in_evaluation_and_in_training() -> None:
    store, every = features(), torch.arange(IMAGES)
    with torch.no_grad():
        evaluated = store.tokens(every)
    assert float(F.cosine_similarity(evaluated, store.tokens(every).detach(), dim=-1).min()) > 0.99
    norms = [m for m in store.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}


@pytest.mark.parametrize("method", ["iic", "mdc", "picie", "picie_h", "slotcon"])
def test_a_step_moves_every_weight_of_the_network(method: str) -> None:
    t = trainer(method)
    name = started(t)
    before = weights(t)
    t.step(name, 0)
    after = weights(t)
    still = [k for k in before if torch.equal(before[k], after[k])]
    # Adam moves what has a gradient: nothing behind the scales of zero that branches start with.
    starts = {k for k in before if k.endswith(("conv1.weight", "conv2.weight")) and "layer" in k}
    assert set(still) <= starts | {k for k in before if ".bn1." in k and "layer" in k}
    assert t.optimizer is not None
    assert t.optimizer.param_groups[-1]["lr"] == t.stages[name].lr


def test_the_same_seed_gives_the_same_weights() -> None:
    runs = [trainer(steps=1, seed=seed) for seed in (0, 0, 1)]
    for t in runs:
        t.run()
    first, again, other = (weights(t) for t in runs)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["resnet.conv1.weight"], other["resnet.conv1.weight"])


@pytest.mark.parametrize("method", ["iic", "slotcon"])
def test_resuming_takes_the_steps_that_were_left(method: str) -> None:
    class Killed(Exception):
        pass

    def kill(report: Any) -> None:
        if report.step == 0:
            raise Killed

    whole, first, second = (trainer(method) for _ in range(3))
    whole.run()
    with pytest.raises(Killed):
        first.run(kill)
    second.restore(*first.state())
    second.run()
    for of in ("classifier", "network", "teacher"):
        expected, found = weights(whole, of), weights(second, of)
        assert all(torch.equal(expected[k], found[k]) for k in expected)


def test_micro_batches_add_up_to_a_step_of_the_network() -> None:
    t = trainer(micro_batches=2)
    name = started(t)
    before = weights(t)
    t.step(name, 0)
    assert not torch.equal(before["lateral.0.weight"], weights(t)["lateral.0.weight"])


@pytest.mark.parametrize("method", ["picie", "slotcon"])
def test_two_processes_give_the_networks_of_one(method: str) -> None:
    alone = trainer(method, micro_batches=2)
    alone.run()
    barrier, table = threading.Barrier(2), dict[int, object]()
    together = [trainer(method, processes=Thread(i, barrier, table), micro_batches=2) for i in range(2)]
    threads = [threading.Thread(target=t.run) for t in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for of in ("classifier", "network", "teacher"):
        expected = weights(alone, of)
        for t in together:
            for key, found in weights(t, of).items():
                torch.testing.assert_close(found, expected[key], atol=1e-6, rtol=1e-5, msg=f"{of} {key}")


CONFIG = TrainConfig(backbone="resnet18_fpn", method="iic", size=SIZE, limit=IMAGES, steps=1)


def test_a_checkpoint_holds_the_network(tmp_path: Path) -> None:
    model = train(dataclasses.replace(CONFIG, out=tmp_path / "run"))
    loaded: Any = load_checkpoint(tmp_path / "run")
    batch = torch.from_numpy(frames()[0])[None]
    for found, expected in zip(loaded.predict(batch), model.predict(batch), strict=True):
        assert torch.equal(found, expected)
    untrained = build_backbone("resnet18_fpn", SIZE, None).vit.state_dict()
    assert not torch.equal(
        loaded.backbone.vit.state_dict()["lateral.3.weight"], untrained["lateral.3.weight"]
    )
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert len(loaded.spec.weights_sha256) == 64
    # Naming writes the checkpoint anew.
    divide_checkpoint(tmp_path / "run", loaded, open_dataset("synthetic", None, "train", limit=2), {0: 2})
    divided: Any = load_checkpoint(tmp_path / "run")
    assert len(divided.class_names) == 4
    assert torch.equal(divided.backbone(images(frames())), loaded.backbone(images(frames())))


@pytest.mark.parametrize(("method", "moved"), [("mdc", 5e-4), ("slotcon", 5e-6)])
def test_the_model_is_the_network_or_its_teacher(method: str, moved: float, tmp_path: Path) -> None:
    train(dataclasses.replace(CONFIG, method=method, out=tmp_path))
    loaded: Any = load_checkpoint(tmp_path)
    name = "lateral.3.weight"  # Adam's first step is the learning rate; a teacher takes a hundredth of it.
    untrained = build_backbone("resnet18_fpn", SIZE, None).vit.state_dict()[name]
    difference = (loaded.backbone.vit.state_dict()[name] - untrained).abs().max()
    assert float(difference) == pytest.approx(moved, rel=0.1)


def test_training_starts_from_a_weights_file(tmp_path: Path) -> None:
    file = tmp_path / "resnet18.safetensors"
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    save_file(state, file)
    backbone = build_backbone("resnet18_fpn", SIZE, file)
    assert torch.equal(
        backbone.vit.state_dict()["resnet.layer3.0.conv1.weight"], state["layer3.0.conv1.weight"]
    )
    save_file(timm.create_model("resnet50", num_classes=0).state_dict(), file)
    with pytest.raises(UserError, match="weights of another architecture"):
        build_backbone("resnet18_fpn", SIZE, file)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--method", "stego"],
            "--method stego cannot do; those that can: iic, mdc, picie, picie_h, slotcon",
        ),
        (["--method", "iic", "--whitening", "8"], "--whitening: for frozen backbones only"),
        (
            ["--method", "iic", "--num-classes", "auto", "--centre"],
            "--centre, --num-classes auto: for frozen",
        ),
        (["--method", "iic", "--loss-memory", "1"], "--loss-memory: for frozen backbones only"),
        (["--method", "iic", "--even-exposure"], "--even-exposure: for frozen backbones only"),
    ],
)
def test_what_a_trained_network_cannot_do_is_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--backbone", "resnet18_fpn", *arguments]) == 2
    assert says in capsys.readouterr().err
