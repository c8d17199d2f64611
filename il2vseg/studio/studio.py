"""What the page asks for and does, without HTTP: one object per project."""

import dataclasses
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from il2vseg.base.errors import UserError
from il2vseg.base.files import sha256_file
from il2vseg.studio import shown
from il2vseg.studio.footage import Sample, check_rest, load_sample, take_sample
from il2vseg.studio.jobs import Job, Report
from il2vseg.studio.project import Project, State
from il2vseg.studio.steps import (
    CHECKPOINT,
    COMMANDS,
    STATE_NAME,
    Options,
    as_typed,
    exported,
    name_words,
    run_words,
)
from il2vseg.studio.tasks import Progress, Tasks
from il2vseg.studio.trial import Trial, clips

if TYPE_CHECKING:
    from il2vseg.studio.desk import Desk

NAMING = frozenset({"name", "accept", "click", "unclick", "divide", "undo", "redo"})


class Studio:
    """A project at work.

    Attributes:
        naming_only: serve no other step (`il2vseg name --serve`).
    """

    def __init__(self, project: Project, options: Options, *, naming_only: bool = False) -> None:
        self.project, self.options, self.naming_only = project, options, naming_only
        self.tasks, self.trial = Tasks(), Trial(project.folder / "tried")
        self.jobs = {kind: Job(project.jobs / kind) for kind in COMMANDS}
        self.sample: Sample | None = load_sample(project.cache, project.state.footage)
        self.desk: Desk | None = None
        self.busy = threading.RLock()
        self._seen: tuple[int, int] | None = None
        self._digests: dict[Path, tuple[tuple[int, int], str]] = {}

    # --- what happens by itself --------------------------------------------------------------------------

    def refresh(self) -> None:
        """Begin what can be done without being asked: read the footage, look at the clusters."""
        if self.sample is None:
            if not self.tasks.failed("footage"):
                self.tasks.start("footage", self._read)
            return
        if self.jobs["train"].running() or self.tasks.busy("clusters"):
            return
        if self.busy.acquire(blocking=False):  # else someone writes the checkpoint right now
            try:
                changed = self._changed()
            finally:
                self.busy.release()
            if changed:
                self.tasks.start("clusters", self._look)

    def _changed(self) -> bool:
        """Whether there is a checkpoint that the clusters are not of."""
        return _stamp(self.project.model / CHECKPOINT) not in (None, self._seen)

    def _read(self, progress: Progress) -> None:
        footage = self.project.state.footage
        self.sample = take_sample(self.project.cache, footage, progress)
        self.tasks.start("check", self._check)

    def _check(self, progress: Progress) -> None:
        assert self.sample is not None
        self.sample = check_rest(self.sample, self.project.state.footage, progress)

    def _look(self, progress: Progress) -> None:
        from il2vseg.studio.desk import Desk

        assert self.sample is not None
        with self.busy:
            self._seen = _stamp(self.project.model / CHECKPOINT)
            before, self.desk = self.desk, None
            desk = Desk(self.project, self.sample, self.options.weights, progress)
            if before is not None:
                desk.keep_proposals(before)
            self.desk = desk
            self._seen = _stamp(self.project.model / CHECKPOINT)

    def retry(self, task: str) -> None:
        """Try again what failed."""
        self.tasks.forget(task)
        self._seen = None

    def digest(self, folder: Path) -> str | None:
        """SHA-256 of a checkpoint, None where there is none."""
        path = folder / CHECKPOINT
        stamp = _stamp(path)
        if stamp is None:
            return None
        if path not in self._digests or self._digests[path][0] != stamp:
            self._digests[path] = (stamp, sha256_file(path))
        return self._digests[path][1]

    # --- what the page shows -----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything but the clusters, as plain values."""
        self.refresh()
        state, sample = self.project.state, self.sample
        reports = {kind: job.report() for kind, job in self.jobs.items()}
        return {
            "revision": state.revision,
            "project": self.project.folder.resolve().name,
            "naming_only": self.naming_only,
            "footage": {
                "title": state.footage.title,
                "total": None if sample is None else sample.total,
                "kept": 0 if sample is None else len(sample.names),
                "names": [] if sample is None else list(sample.names),
                "checked": 0 if sample is None else sample.checked,
                "unreadable": [] if sample is None else list(sample.unreadable),
            },
            "settings": state.settings,
            "method": self.options.training_method,
            "takes_steps": self.options.takes_steps,
            "jobs": {kind: self._job(kind, report) for kind, report in reports.items()},
            "tasks": self.tasks.report(),
            "named": shown.named(state.session),
            "agreement": shown.agreement(self.project),
            "ready": {
                "model": (self.project.model / CHECKPOINT).exists(),
                "clusters": self.desk is not None,
                "student": (self.project.student / CHECKPOINT).exists(),
                "export": (self.project.export / "manifest.json").exists(),
                "resumable": (self.project.model / STATE_NAME).exists(),
                "tried": self.trial.tried(self.project.export),
            },
            "like": [title for title, _ in self.named_models()],
            "clips": [title for title, _ in self.clips()],
            "device": as_typed(["run", "--model", str(self.project.export), "--camera", "0"]),
            "trial": self.trial.status,
        }

    def _job(self, kind: str, report: Report) -> dict[str, Any]:
        values = {k: v for k, v in vars(report).items() if k not in ("losses", "facts")}
        of = report.facts.get("of")
        folder = {"distill": self.project.model, "export": self.project.folder / str(of)}.get(kind)
        made_of = report.facts.get("digest")
        outdated = bool(folder and made_of and made_of != self.digest(folder))
        return values | {"outdated": outdated and report.state == "done", "losses": len(report.losses)}

    def losses(self) -> list[list[Any]]:
        """(step, losses) of the training."""
        return [list(pair) for pair in self.jobs["train"].report().losses]

    def parity(self) -> dict[str, Any] | None:
        """The parity report of the export, or of one that was refused."""
        return shown.parity(self.project)

    def clips(self) -> list[tuple[str, str]]:
        """What the export can be tried on: (title, source)."""
        return clips(self.project.state.footage, self.options.clips)

    def command(self, kind: str, settings: Mapping[str, Any]) -> str:
        """The command of a step, as a person would type it.

        Args:
            settings: of the step; of "try": clip, its number.
        Raises:
            UserError: there is no such step, or it cannot be done yet.
        """
        if kind == "name":
            session = self.project.state.session
            return as_typed(name_words(self.project, () if session is None else session.naming.names))
        if kind == "try":
            sources, number = self.clips(), settings.get("clip", 0)
            if not isinstance(number, int) or not 0 <= number < len(sources):
                raise UserError("there is no such clip")
            return as_typed(run_words(self.project, sources[number][1]))
        if kind not in COMMANDS:
            raise UserError("there is no such step")
        return as_typed(COMMANDS[kind](self.project, self.options, settings))

    def clusters(self, like: int | None = None) -> dict[str, Any]:
        """The clusters, their classes and the clicks, as plain values.

        Raises:
            UserError: they are not there yet.
        """
        with self.busy:
            desk = self.need_desk()
            revision = self.project.state.revision
            title = None if like is None else str(self.named_model(like)[1])
            return shown.clusters(desk, revision, title)

    def clicks(self) -> dict[str, Any]:
        """The clicks, what the model says there now, and how good that is, as plain values.

        Raises:
            UserError: the clusters are not there yet.
        """
        desk = self.need_desk()
        for frame in desk.clicked_frames():  # one at a time: others want the clusters meanwhile
            with self.busy:
                desk.labels(frame)
        with self.busy:
            return desk.clicks()

    def need_desk(self) -> "Desk":
        """The clusters.

        Raises:
            UserError: they are not there yet.
        """
        if self.desk is None:
            raise UserError("the clusters are not there yet")
        return self.desk

    def need_sample(self) -> Sample:
        """The frames kept.

        Raises:
            UserError: they are not there yet.
        """
        if self.sample is None:
            raise UserError("the footage is not read yet")
        return self.sample

    def named_models(self) -> list[tuple[str, Path | str]]:
        """Models with names that may propose some: (title, what to open)."""
        from il2vseg.runtime.catalog import bundled

        found: list[tuple[str, Path | str]] = [(folder.name, folder.name) for folder in bundled()]
        if self.options.like is not None:
            found.insert(0, (self.options.like.name, str(self.options.like)))
        return found

    def named_model(self, number: int) -> tuple[str, Path | str]:
        """One of them.

        Raises:
            UserError: there is no such number.
        """
        models = self.named_models()
        if not 0 <= number < len(models):
            raise UserError("there is no such model")
        return models[number]

    # --- what the page does ------------------------------------------------------------------------------

    def act(self, revision: int, action: Mapping[str, Any]) -> None:
        """Do what a person asked for.

        Args:
            revision: of the state that the page showed. action: its "do" says what.
        Raises:
            Stale: the state is another one. UserError: it cannot be done.
        """
        do = action.get("do")
        if do in NAMING:
            self._decide(revision, action)
        elif do == "start":
            self._start(revision, str(action.get("job")), action.get("settings") or {})
        elif do == "stop":
            self._job_of(action).stop()
        elif do == "retry":
            self.retry(str(action.get("task")))
        elif do == "like":
            what = str(self.named_model(int(action.get("model", -1)))[1])
            self.tasks.start("proposals", lambda progress: self.need_desk().look_like(what, progress))
        elif do == "stop trial":
            self.trial.stop()
        else:
            raise UserError(f"there is no such action: {do}")

    def _job_of(self, action: Mapping[str, Any]) -> Job:
        job = self.jobs.get(str(action.get("job")))
        if job is None:
            raise UserError("there is no such step")
        return job

    def _decide(self, revision: int, action: Mapping[str, Any]) -> None:
        if self.jobs["train"].running():
            raise UserError("training runs: name the clusters of the new model when it has ended")
        with self.busy:
            desk = self.need_desk()
            if self._changed():
                raise UserError("the model has just changed; this page shows the new one in a moment")

            def change(state: State) -> State:
                session = state.session
                assert session is not None
                if action["do"] == "undo":
                    session = session.undo()
                elif action["do"] == "redo":
                    session = session.redo()
                elif action["do"] == "divide":
                    session = session.doing(desk.divided(action.get("cluster", -1), action.get("parts", 2)))
                else:
                    session = session.doing(_with_frame(action, self.need_sample()))
                return dataclasses.replace(state, session=session)

            self.project.change(revision, change)
            desk.write()
            self._seen = _stamp(self.project.model / CHECKPOINT)

    def _start(self, revision: int, kind: str, settings: Mapping[str, Any]) -> None:
        if self.naming_only or kind not in COMMANDS:
            raise UserError("there is no such step")
        if not isinstance(settings, Mapping):
            raise UserError("settings are a mapping")
        words = COMMANDS[kind](self.project, self.options, settings)
        running = next((k for k, job in self.jobs.items() if job.running()), None)
        if running is not None:
            raise UserError(f"wait until the step {running} has ended, or stop it")
        kept = {k: v for k, v in settings.items() if k != "resume"}

        def change(state: State) -> State:
            return dataclasses.replace(state, settings=state.settings | {kind: kept})

        with self.busy:
            self.project.change(revision, change)
            facts: dict[str, Any] = {}
            if kind == "distill":
                facts = {"digest": self.digest(self.project.model)}
            elif kind == "export":
                folder = exported(self.project, settings)
                facts = {"digest": self.digest(folder), "of": folder.name}
            self.jobs[kind].start(words, facts)

    def close(self) -> list[str]:
        """Let go of everything; return the commands that go on running."""
        self.trial.stop()
        self.tasks.close()
        return [kind for kind, job in self.jobs.items() if job.running()]


def _with_frame(action: Mapping[str, Any], sample: Sample) -> dict[str, Any]:
    """A step as it is kept: frames by name, since another sample has other numbers."""
    step = dict(action)
    if step.get("do") == "click":
        number = step.get("frame")
        if not isinstance(number, int) or not 0 <= number < len(sample.names):
            raise UserError("there is no such frame")
        step["frame"] = sample.names[number]
    return step


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file does; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
