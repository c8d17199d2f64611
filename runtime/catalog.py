"""The model to run by default: the newest export, else the one in the package."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from il2vseg.base.errors import UserError
from il2vseg.runtime.manifest import FILE_NAME, Manifest

BUNDLED = Path(__file__).parent / "bundled"
"""Models that ship with the package, a folder each."""

DEFAULT = "marine-lite"
"""Of those, the one that runs where nothing was exported: camera rate on the smallest computers."""

RUNS = Path("runs")
_MAX_DEPTH = 3


@dataclass(frozen=True)
class Found:
    """A model's folder, its manifest, and whether it came with the package."""

    folder: Path
    manifest: Manifest
    bundled: bool


def exports(runs: Path = RUNS) -> list[Path]:
    """List the folders of exported models below `runs`, newest first."""
    found = [p for depth in range(_MAX_DEPTH) for p in runs.glob("*/" * depth + FILE_NAME)]
    return [p.parent for p in sorted(found, key=lambda p: p.stat().st_mtime, reverse=True)]


def bundled(folder: Path = BUNDLED) -> list[Path]:
    """List the folders of the models that ship with the package: the default, then by name."""
    folders = (p.parent for p in folder.glob(f"*/{FILE_NAME}"))
    return sorted(folders, key=lambda f: (f.name != DEFAULT, f.name))


def list_models(runs: Path = RUNS) -> Iterator[Found]:
    """Yield every model that `find_model` could return, best first; a broken manifest is passed over."""
    for folder, is_bundled in [(f, False) for f in exports(runs)] + [(f, True) for f in bundled()]:
        try:
            yield Found(folder, Manifest.load(folder), is_bundled)
        except UserError:
            continue


def find_model(model: str | Path | None, runs: Path = RUNS) -> Path:
    """Return the folder of the model to run.

    Args:
        model: a folder, its manifest or a file in it, or the name of a bundled model; None for the newest
            export below `runs`, else the first bundled model.
    Raises:
        UserError: there is no such model, or none at all.
    """
    if model is None:
        if candidates := exports(runs) or bundled():
            return candidates[0]
        raise UserError(
            f"no model: nothing exported below {runs}/ and none in the package; pass --model DIR "
            "(il2vseg-export makes one)"
        )
    model = Path(model)
    if model.is_file():
        return model.parent
    if not model.exists() and (BUNDLED / model.name / FILE_NAME).is_file() and len(model.parts) == 1:
        return BUNDLED / model.name
    if not model.is_dir():
        names = ", ".join(folder.name for folder in bundled())
        raise UserError(f"{model}: no such model; name a folder, or a model of the package: {names}")
    return model
