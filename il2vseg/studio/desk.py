"""What the page shows of clusters: a checkpoint, the frames kept, and what a person decided so far."""

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from il2vseg.base.classes import merge
from il2vseg.base.errors import UserError
from il2vseg.base.files import atomic_path
from il2vseg.base.ignore import IgnoreMask
from il2vseg.base.images import encode_png, resize_frame
from il2vseg.evaluation.clicks import FILE_NAME as CLICKS
from il2vseg.evaluation.clicks import agreement, doubts, save_clicks
from il2vseg.export.tools.proposals import Proposal, crossed, open_named, proposals
from il2vseg.learning.clusters import MIXED_BELOW, ClusterFacts, save_names
from il2vseg.learning.surveyed import Surveyed, read_tokens, with_prototypes
from il2vseg.models.checkpoint import load_checkpoint, save_checkpoint
from il2vseg.models.names import FILE_NAME as NAMES
from il2vseg.models.names import NamedClusters, carry_over
from il2vseg.models.segmenter import Segmenter
from il2vseg.studio.footage import SAMPLE, Sample, open_footage
from il2vseg.studio.pictures import exemplar_frames, exemplar_sheet, heat
from il2vseg.studio.project import Project, State
from il2vseg.studio.session import Naming, Session, encode, is_default

if TYPE_CHECKING:
    from il2vseg.base.images import Labels

VIEWS_KEPT = 4
LABELS_KEPT = 256


@dataclass(frozen=True)
class View:
    """The clusters for one set of prototypes: the cell of every token (n, h, w), facts, exemplars' frames."""

    cells: NDArray[np.uint8]
    facts: ClusterFacts
    exemplars: tuple[tuple[int, ...], ...]


class Desk:
    """Clusters of the project's checkpoint. Used by one thread at a time."""

    def __init__(
        self, project: Project, sample: Sample, weights: Path | None, progress: Callable[[int, int], None]
    ) -> None:
        """Load the checkpoint and the tokens of the sample, and bring the session up to date.

        Raises:
            UserError: no such checkpoint, or a student.
        """
        self.project, self.sample = project, sample
        network = load_checkpoint(project.model, weights=weights)
        if not isinstance(network, Segmenter):
            raise UserError(f"{project.model}: a student has no clusters; name the model that taught it")
        self._segmenter = network
        held = network.classifier.global_prototypes.numpy()
        self._written = tuple(network.spec.class_names), held.tobytes()
        footage = project.state.footage
        dataset = open_footage(footage, SAMPLE)
        tokens = self._tokens(dataset, lambda done: progress(done, len(sample.names)))
        # What comes now are small products: more threads only wait for each other.
        torch.set_num_threads(1)
        self.surveyed = Surveyed(network, tokens, IgnoreMask.of(footage.ignore_mask))
        self._views: dict[str, View] = {}
        self._labels: dict[tuple[str, tuple[str, ...], int], Labels] = {}
        self._like: dict[str, tuple[tuple[str, ...], NDArray[np.uint8]]] = {}
        if not (project.model / NAMES).exists():  # of an older version
            save_names(project.model, network.spec, self.surveyed.facts())
        project.change(None, self._synchronised)
        self.write()

    def _tokens(self, dataset: Any, progress: Callable[[int], None]) -> NDArray[np.float16]:
        """The sample's tokens, kept in the project."""
        spec = self._segmenter.spec
        words = (
            spec.backbone,
            spec.weights_sha256,
            spec.size,
            spec.even_exposure,
            spec.dark_only,
            self.sample.names,
        )
        key = hashlib.sha256(repr(words).encode()).hexdigest()[:16]
        path = self.project.cache / f"tokens-{key}.npy"
        if not path.exists():
            tokens, names = read_tokens(self._segmenter, dataset, progress=progress)
            if tuple(names) != self.sample.names:
                raise UserError("the footage has changed; start the studio with another --project")
            for old in self.project.cache.glob("tokens-*.npy"):
                old.unlink()
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, tokens)
        return np.asarray(np.load(path))

    # --- the session -------------------------------------------------------------------------------------

    def _synchronised(self, state: State) -> State:
        """The state with a session of this checkpoint; names of an earlier model are carried over."""
        spec, classifier = self._segmenter.spec, self._segmenter.classifier
        held = classifier.global_prototypes.numpy()
        session = state.session
        if session is not None and _knows(session, held):
            naming = session.naming
            same = len(held) == len(naming.names) and np.array_equal(held, naming.prototypes)
            if same and spec.class_names != naming.names and not _follows(session, spec.class_names):
                # Named by another command meanwhile.
                carried = {"do": "carry", "names": list(spec.class_names), "problems": {}}
                session = session.doing(carried)
            return dataclasses.replace(state, session=session)
        start = Naming(
            spec.class_names,
            held.copy(),
            (None,) * len(held),
            () if session is None else session.naming.clicks,
        )
        fresh = Session(start)
        if self.project.kept_names.exists() and all(map(is_default, spec.class_names)):
            fresh = fresh.doing(self._carried())
        return dataclasses.replace(state, session=fresh)

    def _carried(self) -> dict[str, Any]:
        """The step that takes over the names of an earlier model."""
        known = NamedClusters.load(self.project.kept_names)
        new = NamedClusters.load(self.project.model / NAMES)
        matches = carry_over(known, new, self._segmenter.classifier)
        names = [f"class {k}" if m.problem or is_default(m.name) else m.name for k, m in enumerate(matches)]
        return {
            "do": "carry",
            "names": names,
            "problems": {str(k): m.problem for k, m in enumerate(matches) if m.problem},
        }

    @property
    def naming(self) -> Naming:
        """What was decided so far."""
        session = self.project.state.session
        assert session is not None
        return session.naming

    def write(self) -> None:
        """Bring the checkpoint, names.yaml and clicks.json up to date with what was decided.

        A checkpoint that holds it is left alone: what was made of it would seem to be of another one.
        """
        naming = self.naming
        classifier = with_prototypes(self._segmenter.classifier, torch.from_numpy(naming.prototypes))
        spec = dataclasses.replace(self._segmenter.spec, class_names=naming.names)
        facts = self.view(naming).facts
        decided = naming.names, naming.prototypes.tobytes()
        if decided != self._written:
            save_checkpoint(self.project.model, classifier, spec, self._segmenter.backbone)
            self._written = decided
        save_names(self.project.model, spec, facts)
        save_clicks(self.project.folder / CLICKS, naming.clicks)
        if not all(map(is_default, naming.names)):
            with atomic_path(self.project.kept_names) as temporary:
                shutil.copyfile(self.project.model / NAMES, temporary)

    def divided(self, cluster: int, parts: int) -> dict[str, Any]:
        """The step that divides a cluster.

        Raises:
            UserError: no such cluster, or a small one.
        """
        naming = self.naming
        self.view(naming)
        prototypes = self.surveyed.divide(naming.cluster(cluster), parts)
        return {"do": "divide", "cluster": cluster, "prototypes": encode(prototypes.numpy())}

    # --- what there is to see ----------------------------------------------------------------------------

    def view(self, naming: Naming) -> View:
        """The clusters of a naming; the last few are kept, so that undo is quick."""
        key = hashlib.sha256(naming.prototypes.tobytes()).hexdigest()
        self.surveyed.use(
            with_prototypes(self._segmenter.classifier, torch.from_numpy(naming.prototypes)),
            None if key not in self._views else self._views[key].cells,
        )
        if key not in self._views:
            cells = self.surveyed.cells()
            counts = np.stack([(cells == k).sum((1, 2)) for k in range(len(naming.names))])
            exemplars = tuple(tuple(exemplar_frames(c)) for c in counts)
            self._views[key] = View(cells, self.surveyed.facts(), exemplars)
            while len(self._views) > VIEWS_KEPT:
                self._views.pop(next(iter(self._views)))
        return self._views[key]

    def clusters(self, like: str | None = None) -> list[dict[str, Any]]:
        """One card per cluster, as plain values.

        Args:
            like: a named model whose proposals are asked for; see `look_like`.
        """
        naming = self.naming
        view = self.view(naming)
        facts, proposed = view.facts, self.proposed(like, view)
        cards = []
        for k, name in enumerate(naming.names):
            agreement = float(facts.agreement[k])
            best = proposed[k]
            cards.append(
                {
                    "id": k,
                    "name": None if is_default(name) else name,
                    "share": round(float(facts.share[k]), 5),
                    "height": round(float(facts.height[k]), 3),
                    "spread": round(float(facts.spread[k]), 3),
                    "agreement": None if np.isnan(agreement) else round(agreement, 3),
                    "mixed": bool(agreement < MIXED_BELOW),
                    "parent": naming.parents[k],
                    "problem": naming.problems.get(k),
                    "frames": list(view.exemplars[k]),
                    "proposal": None if best is None else dataclasses.asdict(best),
                }
            )
        return cards

    def exemplars(self, cluster: int) -> bytes:
        """The exemplars of a cluster, a JPEG."""
        view = self.view(self.naming)
        cluster = self.naming.cluster(cluster)
        return exemplar_sheet(
            view.exemplars[cluster], self.sample.frame, lambda index: view.cells[index] == cluster
        )

    def heat(self, cluster: int) -> bytes:
        """Where in the frame a cluster lies, a PNG."""
        return heat(self.view(self.naming).cells == self.naming.cluster(cluster))

    def labels(self, index: int) -> "Labels":
        """The cluster of every pixel of a frame of the sample, at the model's size."""
        naming = self.naming
        view = self.view(naming)
        key = (hashlib.sha256(naming.prototypes.tobytes()).hexdigest(), merged(naming.names), index)
        if key not in self._labels:
            frame = resize_frame(self.sample.frame(index), self._segmenter.size)
            labels = self.surveyed.labels(index, frame, naming.names)
            if self.surveyed.ignored is not None:
                ignore = IgnoreMask.of(self.project.state.footage.ignore_mask)
                assert ignore is not None
                labels = np.where(ignore.pixels(labels.shape), np.uint8(255), labels)
            self._labels[key] = labels
            while len(self._labels) > LABELS_KEPT:
                self._labels.pop(next(iter(self._labels)))
        assert len(view.cells)
        return self._labels[key]

    def label_picture(self, index: int) -> bytes:
        """`labels` as a PNG of one channel."""
        return encode_png(self.labels(index))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the model's frames."""
        return self._segmenter.size

    # --- proposals ---------------------------------------------------------------------------------------

    def look_like(self, what: str, progress: Callable[[int, int], None]) -> None:
        """Let a named model label the sample, for proposals.

        Raises:
            UserError: there is no such model.
        """
        names, label = open_named(what)
        height, width = self.surveyed.grid
        found = []
        for index in range(len(self.sample.names)):
            labels = label(self.sample.frame(index))
            rows = ((np.arange(height) + 0.5) / height * labels.shape[0]).astype(int)
            columns = ((np.arange(width) + 0.5) / width * labels.shape[1]).astype(int)
            found.append(labels[np.ix_(rows, columns)])
            progress(index + 1, len(self.sample.names))
        self._like[what] = (names, np.stack(found))

    def keep_proposals(self, other: "Desk") -> None:
        """Take over what named models said of the same frames."""
        if self.surveyed.grid == other.surveyed.grid:
            self._like = other._like

    def proposed(self, like: str | None, view: View) -> Sequence[Proposal | None]:
        """What a named model proposes, None per cluster where it was not asked."""
        count = len(view.exemplars)
        if like is None or like not in self._like:
            return [None] * count
        names, labels = self._like[like]
        return proposals(crossed(view.cells, labels, count, len(names)), names)

    # --- clicks ------------------------------------------------------------------------------------------

    def clicked_frames(self) -> list[int]:
        """Numbers of the frames of the sample that hold clicks."""
        clicked = {click.frame for click in self.naming.clicks}
        return [i for i, name in enumerate(self.sample.names) if name in clicked]

    def clicks(self) -> dict[str, Any]:
        """The clicks, what is said there now, and how good that is."""
        naming, numbers = self.naming, {name: i for i, name in enumerate(self.sample.names)}
        clusters: list[int | None] = []
        for click in naming.clicks:
            index = numbers.get(click.frame)
            if index is None:
                clusters.append(None)
                continue
            labels = self.labels(index)
            found = int(labels[click.pixel(labels.shape)])
            clusters.append(found if found < len(naming.names) else None)
        said = [None if k is None else naming.names[k] for k in clusters]
        shown = [
            dataclasses.asdict(click) | {"frame": numbers.get(click.frame), "cluster": k, "said": s}
            for click, k, s in zip(naming.clicks, clusters, said, strict=True)
        ]
        scores = {
            kind: {"right": a.right, "count": a.count, "interval": list(a.interval)}
            for kind, a in (
                (kind, agreement(naming.clicks, said, asked=kind == "asked")) for kind in ("asked", "seen")
            )
        }
        doubted = [
            {"cluster": d.cluster, "names": d.names, "mixed": d.mixed, "wrong": d.wrong, "advice": d.advice}
            for d in doubts(naming.clicks, clusters, naming.names)
        ]
        return {"points": shown, "scores": scores, "doubts": doubted}


def merged(names: Sequence[str]) -> tuple[str, ...]:
    """What of the names matters to labels: which clusters are one class, and which are unsure."""
    from il2vseg.base.classes import is_unsure

    return tuple("unsure" if is_unsure(n) else str(c) for n, c in zip(names, merge(names)[1], strict=True))


def _states(session: Session) -> list[Naming]:
    """The states that a session went through, and those that redo leads to."""
    states = [session.start]
    for step in (*session.steps, *reversed(session.undone)):
        states.append(states[-1].after(step))
    return states


def _knows(session: Session, prototypes: NDArray[np.float32]) -> bool:
    """Whether prototypes are those of a session, at whatever step of it: it was killed before it wrote the
    last ones, else they are of a model that was trained again."""
    return any(np.array_equal(n.prototypes, prototypes) for n in _states(session))


def _follows(session: Session, names: Sequence[str]) -> bool:
    """Whether names are those of a step of the session."""
    return any(n.names == tuple(names) for n in _states(session))
