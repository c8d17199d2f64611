"""A project on disk: what footage, what was decided, and where everything lies. One studio at a time.

studio.json is the truth; the names in the checkpoint, names.yaml and clicks.json follow from it and are
written after it, so a process that is killed in between catches up when it is started again. Every change
raises the revision; a change that was asked for under an older revision is refused.
"""

import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Self

from il2vseg.base.errors import UserError
from il2vseg.base.files import require_writable_dir, write_json
from il2vseg.studio.session import Session

STATE_NAME = "studio.json"
FORMAT = 1


class Stale(UserError):
    """A change of something that another tab, or another program, changed meanwhile."""


@dataclass(frozen=True)
class Footage:
    """What is looked at: a layout of `il2vseg.data`, its root and split; what belongs to the own vessel."""

    dataset: str
    root: Path | None
    ignore_mask: str | None = None
    split: str = "train"

    @property
    def title(self) -> str:
        """What to call it."""
        return "rendered scenes" if self.root is None else self.root.name

    def flags(self) -> list[str]:
        """The flags of training and distillation that name it."""
        words = ["--dataset", self.dataset]
        words += [] if self.root is None else ["--root", str(self.root)]
        words += [] if self.split == "train" else ["--split", self.split]
        return words + ([] if self.ignore_mask is None else ["--ignore-mask", self.ignore_mask])


@dataclass(frozen=True)
class State:
    """What studio.json holds.

    Attributes:
        token: what a browser must know, kept so that an open page finds a studio that was started again.
        settings: of the commands, by command. session: None before there is a model.
    """

    footage: Footage
    token: str
    revision: int = 0
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    session: Session | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        footage = self.footage
        return {
            "format": FORMAT,
            "dataset": footage.dataset,
            "root": None if footage.root is None else str(footage.root),
            "ignore_mask": footage.ignore_mask,
            "split": footage.split,
            "token": self.token,
            "revision": self.revision,
            "settings": self.settings,
            "session": None if self.session is None else self.session.to_dict(),
        }

    @classmethod
    def load(cls, path: Path) -> "State":
        """Read a file.

        Raises:
            UserError: it is something else, or of a newer version.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["format"] > FORMAT:
                raise UserError(f"{path}: written by a newer il2vseg; update il2vseg")
            root = None if values["root"] is None else Path(values["root"])
            session = values["session"]
            return cls(
                Footage(values["dataset"], root, values["ignore_mask"], values["split"]),
                values["token"],
                values["revision"],
                values["settings"],
                None if session is None else Session.of(session),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: not the state of a studio ({error}); choose another --project"
            ) from None


class Project:
    """The folder of a project. A context manager: no other studio works on it meanwhile.

    Attributes:
        folder: of the project. model: where the checkpoint lies or will lie.
    """

    def __init__(self, folder: Path, footage: Footage | None, model: Path | None = None) -> None:
        """Open a project, or begin one.

        Args:
            footage: None for that of the project. model: folder of a checkpoint that is there already.
        Raises:
            UserError: it is a project of other footage, or cannot be read or written.
        """
        self.folder = require_writable_dir(folder)
        self.model = model or folder / "model"
        self.student, self.export = folder / "student", folder / "export"
        self.cache, self.jobs = folder / "cache", folder / "jobs"
        self.kept_names = folder / "names.yaml"
        self._path = folder / STATE_NAME
        self._lock = threading.RLock()
        self._held: IO[str] | None = None
        if self._path.exists():
            self._state = State.load(self._path)
            if footage is not None and footage != self._state.footage:
                if footage.root != self._state.footage.root:
                    raise UserError(
                        f"{folder}: a project of {self._state.footage.root or 'rendered scenes'}; "
                        "choose another --project"
                    )
                self._save(replace(self._state, footage=footage))
        else:
            rendered = Footage("synthetic", None)
            self._save(State(footage or rendered, secrets.token_urlsafe(12)))

    @property
    def state(self) -> State:
        """What holds now."""
        with self._lock:
            return self._state

    def _save(self, state: State) -> None:
        write_json(self._path, state.to_dict())
        self._path.chmod(0o600)  # it holds the token
        self._state = state

    def change(self, revision: int | None, change: Callable[[State], State]) -> State:
        """Change the state, on disk before anyone sees it.

        Args:
            revision: of the state that the change was made for; None for a change by the program itself.
        Raises:
            Stale: it is not that of now.
        """
        with self._lock:
            if revision is not None and revision != self._state.revision:
                raise Stale(
                    "something was changed elsewhere, in another tab perhaps; this page now shows it. "
                    "Please do it again"
                )
            changed = change(self._state)
            self._save(replace(changed, revision=self._state.revision + 1))
            return self._state

    def __enter__(self) -> Self:
        import fcntl

        self._held = (self.folder / ".studio.lock").open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._held.close()
            raise UserError(f"{self.folder}: another studio works on this project; use its page") from None
        return self

    def __exit__(self, *_: object) -> None:
        assert self._held is not None
        self._held.close()
