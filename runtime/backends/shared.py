"""One backend for several streams: a graph with a batch takes the frames of all cameras in one call."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from il2vseg.runtime.engine import Backend, Outputs

PATIENCE_S = 0.005
"""Short compared with a call, but long enough for the streams to arrive together."""


@dataclass(eq=False)
class _Request:
    frames: NDArray[np.uint8]
    outputs: Outputs | None = None
    error: Exception | None = None

    @property
    def answered(self) -> bool:
        return self.outputs is not None or self.error is not None


class SharedBackend:
    """A `Backend` that streams call from their own threads.

    Whoever finds it free runs the graph for all that wait, up to the batch of the graph; it needs no thread
    of its own. A backend that raised is loaded again by the next call.
    """

    batch = 1

    def __init__(self, load: Callable[[], Backend], users: int, patience_s: float = PATIENCE_S) -> None:
        """Load the backend.

        Args:
            load: opens it, now and after a failure. users: streams that call.
            patience_s: how long a call waits for the other streams' frames.
        Raises:
            UserError: it cannot be loaded.
        """
        self._load = load
        self._backend: Backend | None = load()
        self._provider = self._backend.provider
        self._most = self._backend.batch
        self._patience_s = patience_s
        self._full = min(self._most, users)
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._busy = False

    @property
    def provider(self) -> str:
        """Name as on the command line."""
        return self._provider

    def __call__(self, frames: NDArray[np.uint8]) -> Outputs:
        """Run the graph on uint8 BGR (1, H, W, 3).

        Raises:
            UserError: the backend failed before and cannot be loaded any more.
        """
        request = _Request(frames)
        with self._changed:
            self._waiting.append(request)
            self._changed.notify_all()
        while requests := self._turn(request):
            self._answer(requests)
            with self._changed:
                self._busy = False
                self._changed.notify_all()
        if request.error is not None:
            raise request.error
        assert request.outputs is not None
        return request.outputs

    def _turn(self, request: _Request) -> list[_Request]:
        """Wait until `request` is answered, or until it is on this thread to answer the returned ones."""
        with self._changed:
            self._changed.wait_for(lambda: request.answered or not self._busy)
            if request.answered:
                return []
            self._busy = True
            if self._full > 1:
                self._changed.wait_for(lambda: len(self._waiting) >= self._full, self._patience_s)
            return [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]

    def _answer(self, requests: list[_Request]) -> None:
        try:
            if self._backend is None:
                self._backend = self._load()
            outputs = self._backend(np.concatenate([request.frames for request in requests]))
        except Exception as error:
            self._drop()
            for request in requests:
                request.error = error
            return
        for i, request in enumerate(requests):
            request.outputs = tuple(output[i : i + 1] for output in outputs)

    def _drop(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def close(self) -> None:
        """Do nothing: other streams may go on. See `shutdown`."""
        return None

    def shutdown(self) -> None:
        """Release what the backend holds, after the last stream."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            self._drop()
