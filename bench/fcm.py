"""Fuzzy c-means in every form, for bench/export.py."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from il2vseg.base.sessions import open_session

if TYPE_CHECKING:
    import torch

EAGER = "eager"
SCIKIT = "scikit-fuzzy"
GRID, CLASSES, ITERATIONS = (40, 40), 27, 10


def write_module(module: "torch.nn.Module", inputs: "tuple[torch.Tensor, ...]", path: Path) -> None:
    """Write a module as an ONNX file with the shapes of its inputs."""
    import warnings

    import torch

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, inputs, path, dynamo=True, verbose=False)


def fcm_cases(path: Path, threads: int) -> dict[str, Callable[[], Any]]:
    """Fuzzy c-means on the same data and seed: ours, and scikit-fuzzy's where it is installed."""
    import torch

    from il2vseg.learning import fcm_kernel
    from il2vseg.models.lowlevel import fuzzy_cmeans

    class Fcm(torch.nn.Module):
        def forward(self, x: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
            return fuzzy_cmeans(x, seed, ITERATIONS, spatial=False)

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, *GRID, generator=generator)
    seed = torch.rand(1, CLASSES, *GRID, generator=generator).softmax(1)
    write_module(Fcm(), (x, seed), path)
    session = open_session(path, threads)
    values = dict(zip((v.name for v in session.get_inputs()), (x.numpy(), seed.numpy()), strict=True))

    eager = partial(Fcm(), x, seed)
    compiled = partial(fcm_kernel.fuzzy_cmeans, x, seed, ITERATIONS, spatial=False)
    torch.testing.assert_close(compiled(), eager(), atol=1e-4, rtol=0)
    cases: dict[str, Callable[[], Any]] = {
        EAGER: eager,
        "ONNX Runtime": partial(session.run, None, values),
        "compiled": compiled,
    }
    try:
        import skfuzzy
    except ImportError:
        return cases
    data, start = x[0].flatten(1).double().numpy(), seed[0].flatten(1).double().numpy()
    fuzzy = partial(skfuzzy.cmeans, data, CLASSES, 2.0, error=0, maxiter=ITERATIONS, init=start)
    np.testing.assert_allclose(eager()[0].flatten(1).numpy(), fuzzy()[1], atol=1e-4)
    return cases | {SCIKIT: fuzzy}
