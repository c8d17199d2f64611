"""IL2Vseg: semantic segmentation learned from unlabelled footage (Qing et al., AAAI 2025).

The public interface; everything else may change:

    model = il2vseg.load("marine-lite")       # a bundled model, an export or a checkpoint
    result = model("river.jpg")               # a path or a BGR array; several give a list
    result.fractions, result.obstacles, result.labels
    result.save("overlay.png")
    for result in il2vseg.stream("river.mp4", model):
        print(result)

    model = il2vseg.train(dataset="folder", root="footage", num_classes=3, out="runs/mine")
    il2vseg.name(model="runs/mine", set=["0=water", "1=sky", "2=water"])
    il2vseg.distill(teacher="runs/mine", dataset="folder", root="footage", out="runs/mine-lite")
    il2vseg.export(checkpoint="runs/mine-lite", verify="footage")
    il2vseg.evaluate(checkpoint="runs/mine-lite", dataset="synthetic")

Names are imported when they are first used: `import il2vseg` alone loads nothing heavy.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from il2vseg.api import distill, evaluate, export, load, name, stream, train
    from il2vseg.base.errors import CheckFailed, UserError
    from il2vseg.runtime.model import Model
    from il2vseg.runtime.result import Result
    from il2vseg.runtime.sources import open_source

__version__ = "0.1.0"

__all__ = [
    "CheckFailed",
    "Model",
    "Result",
    "UserError",
    "distill",
    "evaluate",
    "export",
    "load",
    "name",
    "open_source",
    "stream",
    "train",
]

_HOMES = {
    "CheckFailed": "il2vseg.base.errors",
    "Model": "il2vseg.runtime.model",
    "Result": "il2vseg.runtime.result",
    "UserError": "il2vseg.base.errors",
    "load": "il2vseg.api",
    "name": "il2vseg.api",
    "open_source": "il2vseg.runtime.sources",
    "stream": "il2vseg.api",
}


_COMMANDS = frozenset({"distill", "evaluate", "export", "train"})
"""Modules, or packages, of that name that are functions, too; see `_Package`."""


def __getattr__(name: str) -> Any:
    """Import a name of the public interface (PEP 562)."""
    if name in _COMMANDS:
        return import_module(f"il2vseg.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'il2vseg' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Command(ModuleType):
    """A module that can be called: `il2vseg.train` holds the command, and `il2vseg.train(...)` runs it."""

    def __call__(self, **flags: Any) -> Any:
        return getattr(import_module("il2vseg.api"), self.__name__.rpartition(".")[2])(**flags)

    @property
    def __signature__(self) -> Any:
        return import_module("il2vseg.signatures").signature(self.__name__.rpartition(".")[2])


class _Package(ModuleType):
    """This package. Whoever imports a command's module puts it here under the command's name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _COMMANDS and isinstance(value, ModuleType):
            value.__class__ = _Command
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
