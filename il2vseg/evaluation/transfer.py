"""The transfer table: trained on each site, scored on every other, under one assignment per model."""

import csv
import io
import itertools
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from il2vseg.base.errors import UserError
from il2vseg.base.files import write_json, write_text
from il2vseg.data import open_dataset
from il2vseg.evaluation.grids import Variant
from il2vseg.evaluation.scoring import judge
from il2vseg.evaluation.sites import Place, by_prefix, pair_scores, parse_sites, places_of, score_places
from il2vseg.evaluation.tables import markdown_table, shown

if TYPE_CHECKING:
    from il2vseg.experiment import ExperimentConfig
    from il2vseg.models.network import Predictor
    from il2vseg.train import TrainConfig

Load = Callable[[Path], "Predictor"]
Results = dict[str, list[dict[str, dict[str, float]]]]
"""For every row, for every seed, metric to the scores of `pair_scores`."""

SCORES_NAME = "places.json"


def frames_of(config: "ExperimentConfig", split: str, match: str) -> int:
    """Number of frames of a split that belong to a site."""
    dataset = open_dataset(config.dataset, config.root, split)
    if not any(re.match(match, name) for name in dataset.names):
        return 0
    return len(open_dataset(config.dataset, config.root, split, match=match))


def sites_of(config: "ExperimentConfig") -> dict[str, str]:
    """The sites of the frames to train on: those that the user gave, or one per prefix.

    Raises:
        UserError: fewer than two.
    """
    footage = open_dataset(config.dataset, config.root, config.train_split)
    sites = parse_sites(config.sites) if config.sites else by_prefix(footage.names)
    if len(sites) < 2:
        raise UserError(
            f"transfer needs two sites, {config.root} has {', '.join(sites)}; tell them apart with --sites"
        )
    return sites


def run_cell(
    config: "ExperimentConfig",
    variant: Variant,
    training: "TrainConfig",
    places: dict[Place, str],
    train: Callable[["TrainConfig", dict[str, Any]], Any],
    load: Load,
) -> None:
    """Train on one site and score on all places, unless that was done."""
    from il2vseg.models.checkpoint import FILE_NAME

    assert training.out is not None
    path = training.out / SCORES_NAME
    if path.exists():
        return
    if not (training.out / FILE_NAME).exists():
        print(f"── {variant.name} on {training.match}, seed {training.seed}", file=sys.stderr)
        train(replace(training, **variant.train), variant.recipe)
    model = load(training.out)
    judged = {}
    for place, expression in places.items():
        labelled = open_dataset(
            config.dataset, config.root, place.split, labelled=True, limit=config.limit, match=expression
        )
        judged[place.label] = judge(model, labelled)
    write_json(path, score_places(judged))


@dataclass(frozen=True)
class Plan:
    """What is trained where, scored where, and where the results are kept.

    Attributes:
        out: folder of the grid. grid: its rows.
        trainable: name and regular expression of the sites that are trained on.
        places: what is scored, and the regular expression of its frames.
    """

    out: Path
    grid: list[Variant]
    trainable: dict[str, str]
    places: dict[Place, str]

    @classmethod
    def of(cls, config: "ExperimentConfig", grid: list[Variant], out: Path) -> Self:
        """Find the sites in the data.

        Raises:
            UserError: there is no pair of different sites.
        """
        sites = sites_of(config)
        splits = [config.split] + ([config.transfer_split] if config.transfer_split else [])
        found = {
            split: [s for s, match in sites.items() if frames_of(config, split, match)] for split in splits
        }
        places = {place: sites[place.site] for place in places_of(found)}
        trainable = {s: m for s, m in sites.items() if frames_of(config, config.train_split, m) > 1}
        if not any(place.site != site for place in places for site in trainable):
            raise UserError(f"no site of {' '.join(splits)} is another than those of {config.train_split}")
        return cls(out, grid, trainable, places)

    def folder(self, variant: Variant, site: str, seed: int) -> Path:
        """Where a row's training on a site is kept."""
        return self.out / "runs" / "transfer" / site / f"{variant.run_name}_seed{seed}"

    def results(self) -> Results:
        """What was scored so far, of rows with at least one seed on all sites."""
        results: Results = {}
        for variant in self.grid:
            for seed in itertools.count():
                files = {site: self.folder(variant, site, seed) / SCORES_NAME for site in self.trainable}
                if not all(file.exists() for file in files.values()):
                    break
                trained = {site: json.loads(file.read_text()) for site, file in files.items()}
                scores = {m: pair_scores(trained, list(self.places), m) for m in ("miou", "many_to_one")}
                results.setdefault(variant.name, []).append(scores)
        return results


def run_transfer(
    config: "ExperimentConfig",
    grid: list[Variant],
    out: Path,
    training: "TrainConfig",
    train: Callable[["TrainConfig", dict[str, Any]], Any],
    load: Load,
) -> str:
    """Run the cells that were not run before, seed by seed, and write the table anew after every row.

    Returns:
        the table of all that was ever run, so that rows may have unlike numbers of seeds.
    """
    plan = Plan.of(config, grid, out)
    wanted = [v for v in grid if config.rows is None or v.name in config.rows]
    for seed in range(config.seeds or 3):
        for variant in wanted:
            for site, match in plan.trainable.items():
                cell = replace(training, match=match, seed=seed, out=plan.folder(variant, site, seed))
                run_cell(config, variant, cell, plan.places, train, load)
            markdown = write(plan.results(), out)
    return markdown


def table(results: Results) -> str:
    """The Markdown table: a row per method, a column per pair of sites, mean IoU with its spread."""
    pairs = list(next(iter(results.values()))[0]["miou"])
    header = ["mIoU, one assignment per model", *pairs, "mean, many to one", "seeds"]
    rows = []
    for name, seeds in results.items():
        cells = [shown([seed["miou"][pair] for seed in seeds]) for pair in pairs]
        cells += [shown([seed["many_to_one"]["mean"] for seed in seeds]), str(len(seeds))]
        rows.append([name, *cells])
    return markdown_table(header, rows)


def write(results: Results, out: Path) -> str:
    """Write transfer.csv and transfer.md; return the table."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["variant", "seed", "metric", "pair", "score"])
    for name, seeds in results.items():
        for seed, metrics in enumerate(seeds):
            for metric, pairs in metrics.items():
                for pair, value in pairs.items():
                    writer.writerow([name, seed, metric, pair, value])
    markdown = table(results)
    write_text(out / "transfer.csv", buffer.getvalue())
    write_text(out / "transfer.md", markdown)
    return markdown
