"""The processes that train together: those of `torchrun` or `accelerate launch`, else one alone.

Randomness is a function of (seed, stage, step), so every process draws the same batch, works on its
micro-batches of it, and adds its gradients to those of the others. What is found once (whitening, prototypes)
the main process finds for all: processors of different makes differ in the last digit.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

PATIENCE = timedelta(hours=6)
"""How long a process waits for another one: features of a large archive are unevenly slow to read."""


class Processes:
    """One process alone; `LaunchedProcesses` is the same for several.

    Attributes:
        rank: which of the `count` processes this one is; 0 is the main process, which writes the files.
        device: where this process computes.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.rank, self.count = 0, 1
        self.device = device or torch.device("cpu")

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def main_first(self) -> AbstractContextManager[Any]:
        """Let the first process of every machine pass a block before the others enter it."""
        return nullcontext()

    def from_main(self, make: Callable[[], T]) -> T:
        """Call `make` in the main process; return its (picklable) result in every process."""
        return make()

    def gather(self, value: T) -> list[T]:
        """Return the (picklable) values of all processes in the order of their ranks."""
        return [value]

    def sum(self, values: list[Tensor]) -> list[Tensor]:
        """Add tensors up over the processes: the k-th result is the sum of all k-th values."""
        return values


class LaunchedProcesses(Processes):
    """Several processes, on one machine or many: gloo between CPUs, NCCL between GPUs.

    Where a machine has fewer GPUs than processes, they share them and talk over gloo: NCCL refuses that.
    """

    def __init__(self) -> None:
        from accelerate import PartialState

        gpus = torch.cuda.device_count()
        crowded = 0 < gpus < int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        options: dict[str, Any] = {"backend": "gloo"} if crowded else {}
        self._state: Any = PartialState(cpu=gpus == 0, timeout=PATIENCE, **options)
        super().__init__(self._state.device)
        self.rank, self.count = self._state.process_index, self._state.num_processes

    @contextmanager
    def main_first(self) -> Iterator[None]:
        # Not Accelerate's: its barrier names a GPU by the local rank, and processes may share one.
        first: bool = self._state.is_local_main_process
        if not first:
            torch.distributed.barrier()
        try:
            yield
        finally:
            if first:
                torch.distributed.barrier()

    def from_main(self, make: Callable[[], T]) -> T:
        from accelerate.utils import broadcast_object_list

        box: list[Any] = broadcast_object_list([make() if self.main else None])
        made: T = box[0]
        return made

    def gather(self, value: T) -> list[T]:
        from accelerate.utils import gather_object

        values: list[T] = gather_object([value])
        return values

    def sum(self, values: list[Tensor]) -> list[Tensor]:
        from accelerate.utils import reduce

        # One message: latency, not bandwidth, is what a few thousand numbers cost.
        flat: Tensor = reduce(torch.cat([v.flatten() for v in values]), "sum")
        parts = flat.split([v.numel() for v in values])
        return [part.view_as(v) for part, v in zip(parts, values, strict=True)]


def join_processes() -> Processes:
    """The processes that this one was launched with; on a GPU where there is one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return LaunchedProcesses()
    return Processes(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def leave_processes() -> None:
    """Leave the process group, if there is one, at the end of a successful command."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
