"""Sites: parts of a data set filmed elsewhere or at another time, told apart by the frames' names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from il2vseg.base.errors import UserError
from il2vseg.evaluation.metrics import Assignment, hungarian, many_to_one, score, transfer
from il2vseg.evaluation.scoring import Judgement


def by_prefix(names: Sequence[str]) -> dict[str, str]:
    """Name and regular expression of every site: names up to their first "_"."""
    prefixes = sorted({name.partition("_")[0] for name in names})
    return {prefix: re.escape(prefix) + "_" for prefix in prefixes}


def parse_sites(settings: Sequence[str]) -> dict[str, str]:
    """Read `NAME=REGEX` settings.

    Raises:
        UserError: one of another form.
    """
    sites = {}
    for setting in settings:
        name, equals, expression = setting.partition("=")
        if not name or not equals or not expression:
            raise UserError(f"--sites {setting}: write it as NAME=REGEX, for example day=0016E5")
        sites[name] = expression
    return sites


@dataclass(frozen=True)
class Place:
    """Labelled frames of one site in one split.

    Attributes:
        label: how tables call them; the site, and the split where a site occurs in several.
    """

    site: str
    split: str
    label: str


def places_of(found: Mapping[str, Sequence[str]]) -> list[Place]:
    """The places of splits with the sites that occur in each, in their order."""
    pairs = [(site, split) for split, sites in found.items() for site in sites]
    count = {site: sum(site == other for other, _ in pairs) for site, _ in pairs}
    return [Place(site, split, site if count[site] == 1 else f"{site}, {split}") for site, split in pairs]


def score_places(judged: Mapping[str, Judgement]) -> dict[str, dict[str, float]]:
    """Score all places of a model under one assignment: a class is one class everywhere.

    The assignment is found on all places that have the classes of the first one, and carried over to places
    with other classes by name ("not water" for all but water).

    Returns:
        for every label mean IoU one to one and many to one, in %.
    """
    first = next(iter(judged.values())).dataset.class_names
    counts = np.sum([j.counts for j in judged.values() if j.dataset.class_names == first], axis=0)
    assignments = {"miou": hungarian(counts), "many_to_one": many_to_one(counts)}

    def carried(assignment: Assignment, names: tuple[str, ...]) -> Assignment:
        return assignment if names == first else transfer(assignment.tolist(), first, names)

    return {
        label: {
            metric: score(j.counts, carried(assignment, j.dataset.class_names)).miou
            for metric, assignment in assignments.items()
        }
        for label, j in judged.items()
    }


def pair_scores(trained: Mapping[str, Any], places: Sequence[Place], metric: str) -> dict[str, float]:
    """Scores on every place of the models trained on other sites, and their mean over all pairs.

    Args:
        trained: for every site trained on, the scores of `score_places`.
    Returns:
        "A → B" to the score, and "mean".
    """
    pairs = {
        f"{site} → {place.label}": float(scores[place.label][metric])
        for site, scores in trained.items()
        for place in places
        if place.site != site
    }
    return pairs | {"mean": fmean(pairs.values())}
