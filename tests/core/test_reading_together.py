"""Processes read a data set together, each its share, through one cache."""

import multiprocessing
import random
import threading
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from il2vseg.base.errors import UserError
from il2vseg.data import Dataset, open_dataset
from il2vseg.learning import features
from tests.threads import Thread

T = TypeVar("T")


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


@settings(max_examples=30)
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


def race(folder: Path, seed: int, start: Any) -> None:
    """Compute 200 frames in the order of a seed, in a process of its own."""
    frames = [np.full((8, 8, 3), i, np.uint8) for i in range(200)]
    random.Random(seed).shuffle(frames)
    own = cache(folder)
    start.wait(60)
    for frame in frames:
        path = own.compute([frame])[0]
        assert np.abs(np.load(path) - frame[0, 0, 0] / 255).max() < 1e-3


def test_processes_that_race_for_one_cache_never_read_half_a_file(tmp_path: Path) -> None:
    forks = multiprocessing.get_context("fork")
    start = forks.Barrier(3)
    # Two in the same order: they meet at every file.
    racers = [forks.Process(target=race, args=(tmp_path, seed, start)) for seed in (0, 0, 1)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(120)
        assert racer.exitcode == 0
    files = [p for p in (tmp_path / "features").rglob("*") if p.is_file()]
    assert len(files) == 200
    assert not [p for p in files if p.name.startswith(".")]


def test_a_store_too_large_for_memory_gives_the_same_tokens(
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
