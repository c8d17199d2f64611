"""Dense CRF post-processing of scores (extra `crf`), in a process pool.

Krähenbühl and Koltun 2011, with the settings that STEGO and the literature after it evaluate with.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from importlib.util import find_spec
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame, Labels

ITERATIONS = 10
GAUSSIAN = {"sxy": 1, "compat": 3}
BILATERAL = {"sxy": 67, "srgb": 3, "compat": 4}


def refine(frame: Frame, scores: NDArray[np.float32]) -> Labels:
    """Return the labels that a dense CRF finds for one frame.

    Args:
        frame: BGR (H, W, 3) uint8.
        scores: (C, gh, gw), a distribution over C at every cell of a coarser grid.
    Returns:
        cluster ids (H, W).
    """
    import pydensecrf.densecrf as densecrf

    height, width = frame.shape[:2]
    grid = np.ascontiguousarray(scores.transpose(1, 2, 0))
    fine = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height * width, -1)
    energy = -np.log(np.clip(fine.T, 1e-6, 1))
    crf = densecrf.DenseCRF2D(width, height, len(energy))
    crf.setUnaryEnergy(np.ascontiguousarray(energy, dtype=np.float32))
    crf.addPairwiseGaussian(**GAUSSIAN)
    crf.addPairwiseBilateral(rgbim=np.ascontiguousarray(frame[..., ::-1]), **BILATERAL)
    refined = np.asarray(crf.inference(ITERATIONS)).argmax(0)
    return np.asarray(refined.reshape(height, width), dtype=np.uint8)


def require_crf() -> None:
    """Make sure that a CRF can run, before anything slow starts.

    Raises:
        UserError: the extra is not installed.
    """
    if find_spec("pydensecrf") is None:
        raise UserError(
            "the CRF of --crf and --protocol paper needs pydensecrf: pip install 'il2vseg[crf]' (or "
            "pip install pydensecrf2==1.1; it is compiled, so a C++ compiler must be there)"
        )


class CrfPool:
    """Refines frames in worker processes; use it as a context.

    with CrfPool() as pool:
        labels = list(pool.refine(zip(frames, scores)))
    """

    def __init__(self, workers: int | None = None):
        """Start `workers` processes (default: one a processor).

        Raises:
            UserError: the extra is not installed.
        """
        require_crf()
        import multiprocessing

        # Not forked: torch's threads do not survive a fork.
        self._pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))

    def submit(self, frame: Frame, scores: NDArray[np.float32]) -> "Future[Labels]":
        """Refine one frame in the background: see `refine`."""
        return self._pool.submit(refine, frame, scores)

    def refine(self, pairs: Iterable[tuple[Frame, NDArray[np.float32]]]) -> Iterator[Labels]:
        """Yield the labels of frames with scores, in order."""
        yield from [f.result() for f in [self.submit(*pair) for pair in pairs]]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
