"""Several processes of one training, played by threads of this one."""

import threading
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from il2vseg.learning.processes import Processes

T = TypeVar("T")


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
