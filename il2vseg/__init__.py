"""IL2Vseg: semantic segmentation learned from unlabelled footage (Qing et al., AAAI 2025).

The public interface; everything else may change:

    model = il2vseg.load("marine-lite")       # a bundled model, an export or a checkpoint
    result = model("river.jpg")               # a path or a BGR array; several give a list
    result.fractions, result.obstacles, result.labels
    result.save("overlay.png")
    for result in il2vseg.stream("river.mp4", model):
        print(result)

Names are imported when they are first used: `import il2vseg` alone loads nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from il2vseg.api import load, stream
    from il2vseg.base.errors import CheckFailed, UserError
    from il2vseg.runtime.model import Model
    from il2vseg.runtime.result import Result
    from il2vseg.runtime.sources import open_source

__version__ = "0.1.0"

__all__ = ["CheckFailed", "Model", "Result", "UserError", "load", "open_source", "stream"]

_HOMES = {
    "CheckFailed": "il2vseg.base.errors",
    "Model": "il2vseg.runtime.model",
    "Result": "il2vseg.runtime.result",
    "UserError": "il2vseg.base.errors",
    "load": "il2vseg.api",
    "open_source": "il2vseg.runtime.sources",
    "stream": "il2vseg.api",
}


def __getattr__(name: str) -> Any:
    """Import a name of the public interface (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'il2vseg' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
