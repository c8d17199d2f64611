"""What tests need from outside the repository: got where it can be, else a skip with the reason.

IL2VSEG_STRICT=1, which continuous integration sets, turns every such skip into a failure.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from il2vseg.base.errors import UserError

# Small models on a busy machine: one thread is several times faster than two. Subprocesses inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A machine that is busy is no fault of what is tested.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

ROOT = Path(__file__).parent.parent
STRICT = os.environ.get("IL2VSEG_STRICT", "0") not in ("", "0")


def _require(condition: object, reason: str) -> None:
    if condition:
        return
    if STRICT:
        pytest.fail(f"IL2VSEG_STRICT is set and {reason}", pytrace=False)
    pytest.skip(reason)


Require = Callable[[object, str], None]


@pytest.fixture(scope="session")
def require() -> Require:
    """`require(condition, reason)`: go on only if `condition` holds."""
    return _require


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: $IL2VSEG_DATA, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("IL2VSEG_DATA") or ROOT.parent / "shared" / "data")
    _require(folder.is_dir(), f"there are no real data at {folder} (set IL2VSEG_DATA)")
    return folder


@pytest.fixture(scope="session")
def dinov2_weights() -> Path:
    """Weights of dinov2_vits14, from the user's cache or fetched into it."""
    from il2vseg.models.weights import resolve_weights

    path, problem = None, ""
    try:
        path = resolve_weights("dinov2_vits14")
    except UserError as error:
        problem = str(error)
    _require(path is not None, problem)
    assert path is not None
    return path


@pytest.fixture(scope="session")
def densecrf() -> None:
    """The package `pydensecrf` of the extra `crf`."""
    _require(find_spec("pydensecrf"), "pydensecrf is not installed (pip install 'il2vseg[crf]')")


CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, driven by Playwright, to look at our pages."""
    chromium = shutil.which("chromium")
    _require(chromium, "chromium is not installed")
    for module, extra in (("playwright", "dev"), ("uvicorn", "web")):
        _require(find_spec(module), f"{module} is not installed (pip install 'il2vseg[{extra}]')")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        launched = p.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield launched
        launched.close()
