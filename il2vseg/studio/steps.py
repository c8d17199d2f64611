"""The commands behind the steps of the page: their words, from a few settings."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from il2vseg.base.errors import UserError
from il2vseg.methods import DEFAULT_METHOD, WITHOUT_STEPS
from il2vseg.studio.project import Footage, Project
from il2vseg.studio.session import is_default

PRECISIONS = ("fp32", "fp16", "int8")
HELD_OUT = 20
"""Frames that the student does not learn from, at most: on them it is compared with its teacher."""
STATE_NAME = "state.safetensors"
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Options:
    """Flags of `il2vseg studio` that go on to the commands; clips: what the export is tried on, too."""

    backbone: str = "dinov2_vits14"
    method: str | None = None
    weights: Path | None = None
    like: Path | None = None
    clips: tuple[Path, ...] = ()

    @property
    def training_method(self) -> str:
        """The method that trains."""
        return self.method or DEFAULT_METHOD

    @property
    def takes_steps(self) -> bool:
        """Whether it trains in steps."""
        return self.training_method not in WITHOUT_STEPS


def as_typed(words: Sequence[str]) -> str:
    """`il2vseg WORDS` as a person would type it."""
    return shlex.join(["il2vseg", *(w for w in words if w not in ("--progress", "json"))])


def whole(settings: Mapping[str, Any], key: str, low: int, high: int) -> int | None:
    """A whole number among settings; None where it is left open.

    Raises:
        UserError: it is something else, or out of bounds.
    """
    value = settings.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{key} must be a whole number between {low} and {high}")
    return value


def train_words(project: Project, options: Options, settings: Mapping[str, Any]) -> list[str]:
    """`il2vseg train ...`

    Args:
        settings: clusters, steps, frames, seed, each may be left open; resume: go on after an interruption.
            Steps are left out where the method takes none.
    """
    clusters = whole(settings, "clusters", 2, 255)
    words = ["train", *project.state.footage.flags(), "--out", str(project.model)]
    words += ["--backbone", options.backbone, "--clusters", "auto" if clusters is None else str(clusters)]
    if clusters is not None and clusters < 3:
        words += ["--num-classes", str(clusters)]
    for flag, key, low in (("--steps", "steps", 0), ("--limit", "frames", 2), ("--seed", "seed", 0)):
        value = whole(settings, key, low, 10**9)
        if value is not None and (key != "steps" or options.takes_steps):
            words += [flag, str(value)]
    words += [] if options.method is None else ["--method", options.method]
    words += [] if options.weights is None else ["--weights", str(options.weights)]
    words += ["--resume"] if settings.get("resume") is True else []
    return [*words, "--progress", "json"]


def distill_words(project: Project, options: Options, settings: Mapping[str, Any]) -> list[str]:
    """`il2vseg distill ...`

    Args:
        settings: steps and frames, each may be left open.
    Raises:
        UserError: there is no model yet.
    """
    if not (project.model / CHECKPOINT).exists():
        raise UserError("train a model first")
    words = ["distill", "--teacher", str(project.model), *project.state.footage.flags()]
    words += ["--out", str(project.student), "--held-out", str(HELD_OUT)]
    for flag, key, low in (("--steps", "steps", 1), ("--limit", "frames", 2)):
        if (value := whole(settings, key, low, 10**9)) is not None:
            words += [flag, str(value)]
    words += [] if options.weights is None else ["--weights", str(options.weights)]
    return [*words, "--progress", "json"]


def exported(project: Project, settings: Mapping[str, Any]) -> Path:
    """The checkpoint that is to be exported: the student, or the model where that is asked for.

    Raises:
        UserError: there is none.
    """
    what = settings.get("what", "student")
    folder = {"student": project.student, "model": project.model}.get(str(what))
    if folder is None or not (folder / CHECKPOINT).exists():
        raise UserError("distil a student first" if what == "student" else "train a model first")
    return folder


def export_words(project: Project, options: Options, settings: Mapping[str, Any]) -> list[str]:
    """`il2vseg export ...`

    Args:
        settings: what (student or model), precision.
    Raises:
        UserError: there is nothing to export, or no such precision.
    """
    precision = settings.get("precision", "fp32")
    if precision not in PRECISIONS:
        raise UserError(f"precision must be one of {', '.join(PRECISIONS)}")
    footage: Footage = project.state.footage
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", project.folder.resolve().name).strip("-") or "model"
    words = ["export", "--checkpoint", str(exported(project, settings)), "--out", str(project.export)]
    words += ["--precision", precision, "--name", name]
    words += [] if footage.root is None else ["--verify", str(footage.root)]
    words += [] if options.weights is None else ["--weights", str(options.weights)]
    return [*words, "--progress", "json"]


def name_words(project: Project, names: Sequence[str]) -> list[str]:
    """`il2vseg name ...`: what gives the clusters these names; where none has one, what shows them."""
    words = ["name", "--model", str(project.model)]
    given = [f"{k}={name}" for k, name in enumerate(names) if not is_default(name)]
    return [*words, "--set", *given] if given else [*words, *project.state.footage.flags()]


def run_words(project: Project, source: str) -> list[str]:
    """`il2vseg run ...` of the export on a source."""
    return ["run", "--source", source, "--model", str(project.export), "--save-video", "overlay.mp4"]


Words = Callable[[Project, Options, Mapping[str, Any]], list[str]]
COMMANDS: dict[str, Words] = {"train": train_words, "distill": distill_words, "export": export_words}
