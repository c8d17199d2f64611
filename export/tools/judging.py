"""Flags of il2vseg-name that look at clusters in footage: proposals, clicks, divisions, the page."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from il2vseg.base.errors import UserError
from il2vseg.base.ignore import IgnoreMask
from il2vseg.base.images import resize_frame
from il2vseg.export.tools.proposals import joint_counts, open_named, proposals

if TYPE_CHECKING:
    from il2vseg.data import Dataset
    from il2vseg.export.tools.naming import NameConfig, NamedModel

MAX_PARTS = 16


def parse_divisions(settings: Sequence[str]) -> dict[int, int]:
    """Number of parts by cluster, of settings `N` or `N=PARTS`.

    Raises:
        UserError: a setting of another form.
    """
    wanted = {}
    for setting in settings:
        number, _, parts = setting.partition("=")
        parts = parts or "2"
        if not (number.strip().isdigit() and parts.strip().isdigit() and 2 <= int(parts) <= MAX_PARTS):
            raise UserError(f"--divide {setting}: write it as 3, or 3=4 for four parts (up to {MAX_PARTS})")
        wanted[int(number)] = int(parts)
    return wanted


def divide(
    model: "NamedModel", wanted: Mapping[int, int], footage: "Dataset", ignore: IgnoreMask | None
) -> None:
    """Divide clusters of a checkpoint, by what they are in the footage.

    Raises:
        UserError: an export or a student, or a cluster that is too small.
    """
    if model.clusters is None:
        raise UserError("--divide takes a checkpoint of il2vseg.train: nothing else has prototypes to divide")
    model.clusters.divide(wanted, footage, ignore)


def proposed_names(
    model: "NamedModel", footage: "Dataset", names: Sequence[str], like: Path, accept: float | None
) -> list[str]:
    """Say what a named model proposes; return the names with what is accepted.

    Args:
        accept: agreement from which a cluster without a name takes its proposal over; None for none.
    Raises:
        UserError: there is no such model.
    """
    known, label = open_named(like)
    counts = joint_counts(
        footage,
        lambda frame: model.predict(resize_frame(frame, model.size)),
        len(names),
        label,
        len(known),
    )
    found = list(names)
    for cluster, proposal in enumerate(proposals(counts, known)):
        if proposal is None:
            print(f"cluster {cluster}: no proposal", file=sys.stderr)
            continue
        shares = ", ".join(f"{100 * share:.0f} % {name}" for name, share in proposal.shares.items())
        print(f"cluster {cluster} ({names[cluster]}): {shares}", file=sys.stderr)
        unnamed = names[cluster] == f"class {cluster}"
        if accept is not None and unnamed and proposal.agreement >= accept:
            found[cluster] = proposal.name
    return found


def judge(config: "NameConfig", model: "NamedModel", names: Sequence[str]) -> None:
    """Say how many clicks the names agree with, and which clusters clicks contradict.

    Raises:
        UserError: no such file, or none of its frames is in the footage.
    """
    from il2vseg.data import open_dataset
    from il2vseg.evaluation.clicks import agreement, clusters_at, doubts, frames_of, load_clicks

    assert config.clicks is not None
    clicks = load_clicks(config.clicks)
    ignore = IgnoreMask.of(config.ignore_mask)
    dataset = open_dataset(config.dataset, config.root, config.split, ignore=ignore, match=frames_of(clicks))
    at = clusters_at(clicks, dataset, lambda frame: model.predict(resize_frame(frame, model.size)))
    said = [None if k is None else names[k] for k in at]
    print(f"random points that agree: {agreement(clicks, said, asked=True)}", file=sys.stderr)
    seen = agreement(clicks, said, asked=False)
    print(f"mistakes pointed at that agree now: {seen.right} of {seen.count}", file=sys.stderr)
    for doubt in doubts(clicks, at, names):
        print(f"cluster {doubt.cluster}: {doubt.advice}", file=sys.stderr)


def serve(config: "NameConfig") -> None:
    """Name a checkpoint on a page; everything but its names is kept in MODEL/studio.

    Raises:
        UserError: no checkpoint, or no footage.
    """
    from il2vseg.models.checkpoint import FILE_NAME
    from il2vseg.studio.cli import run
    from il2vseg.studio.project import Footage, Project
    from il2vseg.studio.steps import Options

    if not (config.model / FILE_NAME).is_file():
        raise UserError(f"{config.model}: --serve takes a checkpoint of il2vseg.train")
    if config.root is None and config.dataset != "synthetic":
        raise UserError("--serve needs the footage: --root DIR|CLIP")
    root = None if config.root is None else config.root.resolve()
    footage = Footage(config.dataset, root, config.ignore_mask, config.split)
    project = Project(config.model / "studio", footage, config.model)
    options = Options(weights=config.weights, like=config.like)
    run(
        project,
        options,
        serve=config.serve,
        token=config.token,
        names=config.allow_host or (),
        naming_only=True,
    )
