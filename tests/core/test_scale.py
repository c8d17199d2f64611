"""Several processes train one model; a killed run goes on exactly; one cache serves all."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from il2vseg import train
from il2vseg.base.errors import UserError
from il2vseg.bench import RandomStore
from il2vseg.data import Dataset, open_dataset
from il2vseg.learning import features
from il2vseg.learning.draws import step_generator
from il2vseg.learning.precision import MixedPrecision
from il2vseg.learning.processes import Processes
from il2vseg.learning.selection import token_statistics
from il2vseg.learning.trainer import Trainer
from il2vseg.methods.base import Context, Recipe
from il2vseg.methods.joint import FusedSmoothness, Joint
from il2vseg.methods.stego import Correspondence
from il2vseg.models.checkpoint import FILE_NAME, load_tensors

T = TypeVar("T")

SHORT = Recipe(
    Joint(
        correspondence=Correspondence(steps=4, samples=12),
        smoothness=FusedSmoothness(steps=5, samples=12, eigen_samples=8),
    ),
    batch=7,
)
LONG = ["--method", "joint", "--backbone", "tiny", "--size", "48", "64", "--limit", "6", "--steps", "130"]


def trainer(recipe: Recipe, processes: Processes | None = None) -> Trainer:
    torch.manual_seed(0)
    store = RandomStore(12, (6, 8), 12)
    return Trainer(store, token_statistics(store).whitening(4, False), recipe, processes)


def losses_of(t: Trainer) -> list[dict[str, float]]:
    """Train to the end and return the losses of all steps."""
    seen: list[dict[str, float]] = []
    t.run(lambda report: seen.append(report.losses))
    return seen


# --- micro-batches ------------------------------------------------------------------------------------------


class Thread(Processes):
    """Processes played by threads: everybody leaves a value on the table, everybody takes what all left."""

    def __init__(self, rank: int, barrier: threading.Barrier, table: dict[int, object]) -> None:
        super().__init__()
        self.rank, self.count = rank, barrier.parties
        self._barrier, self._table = barrier, table

    def _exchange(self, value: T) -> list[T]:
        self._table[self.rank] = value
        self._barrier.wait(30)
        values = [self._table[i] for i in range(self.count)]
        self._barrier.wait(30)
        return values  # type: ignore[return-value]

    def from_main(self, make: Callable[[], T]) -> T:
        return self._exchange(make() if self.main else None)[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        return self._exchange(value)

    def sum(self, values: list[Tensor]) -> list[Tensor]:
        return [torch.stack(column).sum(0) for column in zip(*self._exchange(values), strict=True)]


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


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("own_cache")
def test_precision_of_accelerate_launch_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = [*LONG[:-1], "3", "--out", str(tmp_path / "out")]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert train.main(short) == 0
    assert "mixed_precision: bf16" in (tmp_path / "out" / "config.yaml").read_text()
    folders = [p.name for p in (tmp_path / "cache" / "features").iterdir()]
    assert len(folders) == 1
    assert folders[0].endswith("-bf16")  # tokens of another precision are other tokens
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    assert train.main(short) == 2
    assert "--mixed-precision fp8: one of no, bf16, fp16" in capsys.readouterr().err


# --- whole runs, killed and launched -----------------------------------------------------------------------


def victim(*command: str) -> "subprocess.Popen[str]":
    """Start a command, at low priority, so that whoever is to kill it in time can."""
    nice = ["nice", "-n", "10", sys.executable, *command]
    return subprocess.Popen(nice, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_steps(out: Path, steps: int, process: "subprocess.Popen[str]") -> None:
    metrics = out / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < steps:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)


def worker_ids(process: "subprocess.Popen[str]") -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children]


@pytest.mark.usefixtures("own_cache")
def test_sigkill_at_a_random_step_and_resuming_give_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train.main([*LONG, "--out", str(whole)]) == 0
    step = random.SystemRandom().randint(51, 90)
    process = victim("-m", "il2vseg.train", *LONG, "--out", str(killed))
    wait_for_steps(killed, step, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / FILE_NAME).exists()
    assert train.main([*LONG, "--out", str(killed), "--resume"]) == 0
    metrics = [(folder / "metrics.jsonl").read_text() for folder in (killed, whole)]
    assert metrics[0] == metrics[1], f"killed after step {step}"
    assert (killed / FILE_NAME).read_bytes() == (whole / FILE_NAME).read_bytes(), f"killed after step {step}"


def close(a: Path, b: Path) -> None:
    """Assert that two runs took the same steps and ended with the same model, but for rounding."""
    steps = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (a, b)
    ]
    assert len(steps[0]) == len(steps[1])
    for x, y in zip(*steps, strict=True):
        assert (x.pop("stage"), x.pop("step")) == (y.pop("stage"), y.pop("step"))
        assert x == pytest.approx(y, abs=1e-4)
    tensors = [load_tensors(folder / FILE_NAME)[0] for folder in (a, b)]
    for name, value in tensors[0].items():
        torch.testing.assert_close(value, tensors[1][name], atol=1e-4, rtol=1e-4, msg=name)


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "il2vseg.train"]
# Without a GPU, --multi_gpu means several processes over gloo; --cpu would ask for MPI.
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
ACCELERATE += ["--main_process_port=0", "-m", "il2vseg.train"]


@pytest.mark.parametrize("launch", [TORCHRUN, pytest.param(ACCELERATE, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("own_cache")
def test_two_processes_over_gloo_give_the_model_of_one(launch: list[str], tmp_path: Path) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    command = [sys.executable, *launch, *LONG[:-1], "12", "--out", str(two)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("trained on 6 frames") == 1  # the main process speaks, and it alone
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 12  # 6 frames and their jittered copies
    # The configuration that was saved gives the same result without a launcher.
    assert train.main(["--config", str(two / "config.yaml"), "--out", str(one)]) == 0
    assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}
    close(two, one)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_a_run_that_lost_a_process_goes_on_with_two_or_with_one(tmp_path: Path) -> None:
    two, one, whole = tmp_path / "two", tmp_path / "one", tmp_path / "whole"
    process = victim(*TORCHRUN, *LONG, "--out", str(two))
    wait_for_steps(two, random.SystemRandom().randint(51, 90), process)
    workers = worker_ids(process)
    os.kill(random.SystemRandom().choice(workers), signal.SIGKILL)
    process.communicate()
    assert process.returncode != 0
    assert len(workers) == 2
    shutil.copytree(two, one)
    assert subprocess.run([sys.executable, *TORCHRUN, *LONG, "--out", str(two), "--resume"]).returncode == 0
    assert train.main([*LONG, "--out", str(one), "--accumulate", "2", "--resume"]) == 0
    assert train.main([*LONG, "--out", str(whole), "--accumulate", "2"]) == 0
    close(two, whole)
    close(one, whole)


# --- reading together --------------------------------------------------------------------------------------


def images(folder: Path, count: int, broken: frozenset[int] = frozenset()) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        file = folder / f"{i}.png"
        cv2.imwrite(str(file), np.full((8, 8, 3), i, np.uint8))
        if i in broken:
            file.write_bytes(b"")
    return folder


def values(dataset: Dataset) -> list[int]:
    return [int(sample.frame[0, 0, 0]) for sample in dataset]


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 9), limit=st.none() | st.integers(1, 12))
def test_shares_of_a_data_set_in_their_order_are_the_whole(
    count: int, limit: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "seven"
    if not folder.exists():
        images(folder, 7, frozenset({2}))
    whole = open_dataset("folder", folder, "train", limit=limit)
    shares = [whole.share(i, count) for i in range(count)]
    assert [v for share in shares for v in values(share)] == values(whole)
    assert [line for share in shares for line in share.skipped] == whole.skipped
    assert sum(map(len, shares)) == len(whole)


class Fake(torch.nn.Module):
    """A backbone whose tokens are the mean colours of the patches."""

    name, patch, dim, size, grid = "fake", 4, 3, (8, 8), (2, 2)
    exposure = None

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(images, 4)


def cache(folder: Path) -> features.FeatureCache:
    return features.FeatureCache(Fake(), "0" * 12, folder)  # type: ignore[arg-type]


class Far(Thread):
    """A process on a machine of its own: it does not see the files of the others."""

    def gather(self, value: T) -> list[T]:
        values: list[Any] = super().gather(value)
        for rank, (paths, *rest) in enumerate(values):
            if rank != self.rank:
                values[rank] = ([path.with_name("elsewhere.npy") for path in paths], *rest)
        return values


def build_together(
    datasets: list[Dataset], folder: Path, kind: type[Thread] = Thread
) -> list[features.CachedFeatures | UserError]:
    """The stores, or errors, of one process for each data set."""
    barrier, table = threading.Barrier(len(datasets)), dict[int, object]()
    stores: dict[int, features.CachedFeatures | UserError] = {}

    def build(rank: int) -> None:
        try:
            stores[rank] = features.build_feature_store(
                datasets[rank], cache(folder), processes=kind(rank, barrier, table)
            )
        except UserError as error:
            stores[rank] = error

    threads = [threading.Thread(target=build, args=(rank,)) for rank in range(len(datasets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [stores[rank] for rank in sorted(stores)]


@pytest.mark.parametrize("count", [2, 3, 9])  # nine processes: some get nothing
def test_processes_read_a_data_set_together(count: int, tmp_path: Path) -> None:
    folder = images(tmp_path / "frames", 7, frozenset({2}))
    alone = features.build_feature_store(open_dataset("folder", folder, "train"), cache(tmp_path / "alone"))
    datasets = [open_dataset("folder", folder, "train") for _ in range(count)]
    every = torch.arange(6)
    for store, dataset in zip(build_together(datasets, tmp_path), datasets, strict=True):
        assert isinstance(store, features.CachedFeatures)
        torch.testing.assert_close(store.tokens(every), alone.tokens(every))
        torch.testing.assert_close(store.view_tokens(every), alone.view_tokens(every))
        torch.testing.assert_close(store.colours(every, 2), alone.colours(every, 2))
        assert len(dataset.skipped) == 1


def test_processes_that_do_not_share_a_cache_or_find_nothing_say_so(tmp_path: Path) -> None:
    folder = images(tmp_path / "frames", 4)
    datasets = [open_dataset("folder", folder, "train") for _ in range(2)]
    for error in build_together(datasets, tmp_path, Far):
        assert isinstance(error, UserError)
        assert "--cache must be a folder that all share" in str(error)
    folder = images(tmp_path / "broken", 2, frozenset({0, 1}))
    datasets = [open_dataset("folder", folder, "train") for _ in range(2)]
    for error in build_together(datasets, tmp_path):
        assert "none of 2 images could be read" in str(error)


RACER = """
import random, sys
from pathlib import Path
import numpy as np
import torch
from il2vseg.learning.features import FeatureCache

class Backbone(torch.nn.Module):
    name, size, mean, exposure = "fake", (8, 8), torch.zeros(1), None
    def forward(self, images):
        return torch.nn.functional.avg_pool2d(images, 4)

folder, seed, go = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
frames = [np.full((8, 8, 3), i, np.uint8) for i in range(200)]
random.Random(seed).shuffle(frames)
cache = FeatureCache(Backbone(), "0" * 12, folder)
print("ready", flush=True)
while not go.exists():
    pass
for frame in frames:
    path = cache.compute([frame])[0]
    assert np.abs(np.load(path) - frame[0, 0, 0] / 255).max() < 1e-3
"""


def test_processes_that_race_for_one_cache_never_read_half_a_file(tmp_path: Path) -> None:
    go = tmp_path / "go"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), str(seed), str(go)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for seed in (0, 0, 1)  # two in the same order: they meet at every file
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n", racer.communicate()[1]
    go.touch()
    for racer in racers:
        error = racer.communicate()[1]
        assert racer.returncode == 0, error
    files = [p for p in (tmp_path / "features").rglob("*") if p.is_file()]
    assert len(files) == 200
    assert not [p for p in files if p.name.startswith(".")]


def test_a_bank_too_large_for_memory_gives_the_same_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset("folder", images(tmp_path / "frames", 5), "train")
    held = features.build_feature_store(dataset, cache(tmp_path))
    monkeypatch.setattr(features, "MEMORY_BUDGET", 0)
    read = features.build_feature_store(dataset, cache(tmp_path))
    wanted = torch.tensor([3, 0, 4])
    torch.testing.assert_close(read.tokens(wanted), held.tokens(wanted))
    torch.testing.assert_close(read.view_tokens(wanted), held.view_tokens(wanted))


def test_features_that_overflow_are_refused(tmp_path: Path) -> None:
    class Huge(Fake):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * 1e6

    loud = features.FeatureCache(Huge(), "0" * 12, tmp_path, "fp16")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="overflows in fp16"):
        loud.compute([np.full((8, 8, 3), 255, np.uint8)])
    assert not list(tmp_path.rglob("*.npy"))
