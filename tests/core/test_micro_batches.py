"""Micro-batches and precision: what a step computes does not depend on who computes it."""

import dataclasses
import threading

import pytest
import torch

from il2vseg.base.errors import UserError
from il2vseg.bench import RandomStore
from il2vseg.learning.draws import step_generator
from il2vseg.learning.precision import MixedPrecision
from il2vseg.learning.processes import Processes
from il2vseg.learning.selection import token_statistics
from il2vseg.learning.trainer import Trainer
from il2vseg.methods import load_method
from il2vseg.methods.base import Context, Recipe
from il2vseg.methods.joint import FusedSmoothness, Joint
from il2vseg.methods.stego import Correspondence
from tests.threads import Thread

SHORT = Recipe(
    Joint(
        correspondence=Correspondence(steps=4, samples=12),
        smoothness=FusedSmoothness(steps=5, samples=12, eigen_samples=8),
    ),
    batch=7,
)


def trainer(recipe: Recipe, processes: Processes | None = None) -> Trainer:
    torch.manual_seed(0)
    store = RandomStore(12, (6, 8), 12)
    return Trainer(store, token_statistics(store).whitening(4, False), recipe, processes)


def losses_of(t: Trainer) -> list[dict[str, float]]:
    """Train to the end and return the losses of all steps."""
    seen: list[dict[str, float]] = []
    t.run(lambda report: seen.append(report.losses))
    return seen


def train_in_threads(recipe: Recipe, count: int) -> list[Trainer]:
    barrier, table = threading.Barrier(count), dict[int, object]()
    trainers = [trainer(recipe, Thread(rank, barrier, table)) for rank in range(count)]
    threads = [threading.Thread(target=t.run) for t in trainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return trainers


@pytest.mark.parametrize(("micro_batches", "processes"), [(2, 2), (3, 2), (3, 3)])
def test_the_result_depends_on_the_micro_batches_and_not_on_who_computes_them(
    micro_batches: int, processes: int
) -> None:
    recipe = dataclasses.replace(SHORT, micro_batches=micro_batches)
    alone = trainer(recipe).run().state_dict()
    for t in train_in_threads(recipe, processes):
        for name, value in t.classifier.state_dict().items():
            torch.testing.assert_close(value, alone[name], atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("method", ["picie_h", "slotcon", "transfgu"])
def test_processes_share_the_parts_of_a_stage(method: str) -> None:
    settings = load_method(method)().with_steps(4)
    if method == "transfgu":
        settings = Recipe(settings).changed({"method.bootstrapping.round": 2}).method
    recipe = dataclasses.replace(SHORT, micro_batches=2, method=settings)
    alone = losses_of(trainer(recipe))
    barrier, table = threading.Barrier(2), dict[int, object]()
    # Made one after the other: the head's first weights come from the one generator of all threads.
    trainers = [trainer(recipe, Thread(rank, barrier, table)) for rank in range(2)]
    seen: dict[int, list[dict[str, float]]] = {}

    def work(rank: int) -> None:
        seen[rank] = losses_of(trainers[rank])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in range(2):
        for here, there in zip(seen[rank], alone, strict=True):
            assert here == {key: pytest.approx(value, abs=1e-4) for key, value in there.items()}


def test_gradients_of_micro_batches_add_up_to_the_gradient_of_their_mean_weighted_by_size() -> None:
    t = trainer(dataclasses.replace(SHORT, micro_batches=3))
    t.begin("correspondence")
    before = [p.detach().clone() for p in t.classifier.head.parameters()]
    reported = t.step("correspondence", 0)["corr"]
    images = torch.randperm(12, generator=step_generator(0, "correspondence", 0))[:7]
    values = []
    reference = trainer(SHORT)
    for micro_batch, part in enumerate(images.tensor_split(3)):
        generator = step_generator(0, "correspondence", 0, micro_batch)
        if micro_batch == 0:
            torch.randperm(12, generator=generator)  # the first micro-batch goes on where the batch was drawn
        context = Context(
            reference.store, reference.classifier, SHORT, reference.device, part, generator, step=0
        )
        values.append(len(part) / 7 * Correspondence(samples=12).losses(context)["corr"])
    torch.stack(values).sum().backward()
    assert reported == pytest.approx(sum(float(v.detach()) for v in values), abs=1e-6)
    for p, expected, old in zip(
        t.classifier.head.parameters(), reference.classifier.head.parameters(), before, strict=True
    ):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, expected.grad)
        assert not torch.equal(p, old) or not bool(p.grad.any())


def test_every_share_draws_numbers_of_its_own() -> None:
    draws = {
        float(torch.rand(1, generator=step_generator(seed, stage, step, micro_batch)))
        for seed in range(3)
        for stage in ("correspondence", "smoothness")
        for step in range(5)
        for micro_batch in range(9)
    }
    assert len(draws) == 3 * 2 * 5 * 9


def test_a_batch_too_small_for_its_micro_batches_is_refused() -> None:
    with pytest.raises(UserError, match="a batch of 7 images cannot be divided into 4 micro-batches"):
        trainer(dataclasses.replace(SHORT, micro_batches=4))
    with pytest.raises(UserError, match="--accumulate 1: fewer micro-batches"):
        trainer(SHORT, Thread(0, threading.Barrier(2), {}))


# --- mixed precision ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_stays_close_to_single(precision: MixedPrecision) -> None:
    exact, mixed = (
        losses_of(trainer(dataclasses.replace(SHORT, mixed_precision=p))) for p in ("no", precision)
    )
    assert mixed != exact
    for a, b in zip(exact, mixed, strict=True):
        assert b == pytest.approx(a, abs=0.05)


def test_half_precision_resumes_exactly_with_the_scale_of_its_gradients() -> None:
    recipe = dataclasses.replace(SHORT, mixed_precision="fp16")
    whole = losses_of(trainer(recipe))
    first = trainer(recipe)
    first.begin("correspondence")
    first.step("correspondence", 0)
    first.scaler.update(2.0**20)  # as after many steps
    first.position = (0, 1)
    second = trainer(recipe)
    second.restore(*first.state())
    assert second.scaler.get_scale() == 2.0**20
    assert losses_of(second)[0]["corr"] == pytest.approx(whole[1]["corr"], abs=1e-3)
