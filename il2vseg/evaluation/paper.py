"""`python -m il2vseg.experiment paper`: the rows of the paper's tables, its figures beside ours.

A row is a training (method, backbone, settings of the recipe) on the table's data set, scored with our own
protocol and with the paper's (`il2vseg.evaluation.protocol`). What stands in the tables: `paper_tables`.
"""

import csv
import io
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from il2vseg.base.command import MAX_COUNT, MAX_SIDE, Settings, flag
from il2vseg.base.errors import UserError
from il2vseg.base.files import require_writable_dir, write_json, write_text
from il2vseg.data import Crop, Dataset, open_dataset
from il2vseg.evaluation.grids import Variant, check_kept
from il2vseg.evaluation.paper_tables import (
    BENCHMARKS,
    NOT_THEIRS,
    TABLES,
    VIT,
    WHOLE,
    Benchmark,
    Figures,
    PaperTable,
)
from il2vseg.evaluation.tables import markdown_table, plot, shown
from il2vseg.methods import METHODS, load_method

if TYPE_CHECKING:
    from il2vseg.models.segmenter import Segmenter

Results = dict[str, list[dict[str, Figures]]]
"""For every row, for every seed, protocol to scores."""


@dataclass
class PaperConfig(Settings):
    """Train and score the rows of the paper's tables; write table-N.md and .csv. Goes on where it stopped."""

    table: Literal["1", "2", "3", "4", "5", "all"] = flag("all", "which table; 5 is Figure 5, the sweep of α")
    root: Path | None = flag(
        None, "the data set's folder, or one that holds it under its name (DIR/cityscapes)", metavar="DIR"
    )
    dataset: str | None = flag(
        None, "run the rows on other data with masks instead of the table's", metavar="NAME"
    )
    backbone: str = flag(VIT, "frozen ViT of the rows that have one", metavar="NAME")
    weights: Path | None = flag(
        None,
        f"weights file that {WHOLE} starts from (timm names, safetensors); default: random",
        metavar="FILE",
    )
    protocol: Literal["own", "paper", "both"] = flag(
        "both", "how to score: trained prototypes, or as `evaluate --protocol paper` (extra `crf`)"
    )
    rows: tuple[str, ...] | None = flag(None, "only these rows", metavar="NAME")
    seeds: int = flag(3, "seeds 0 to N-1", low=1, high=1000, metavar="N")
    limit: int | None = flag(
        None, "use at most this many frames of every split", low=2, high=MAX_COUNT, metavar="N"
    )
    size: tuple[int, int] | None = flag(
        None, "input height and width, in training and scoring", low=1, high=MAX_SIDE, metavar="PIXELS"
    )
    steps: int | None = flag(
        None, "optimisation steps; default: the method's own", low=0, high=MAX_COUNT, metavar="N"
    )
    dry_run: bool = flag(False, "only list what every row would run, and why it cannot run here")
    out: Path | None = flag(None, "output folder; default: runs/experiments/paper", metavar="DIR")


FREE = ("table", "rows", "seeds", "protocol", "dry_run", "out")
"""Flags that results kept in one folder may differ in."""


@dataclass(frozen=True)
class Plan:
    """A table as it is run here.

    Attributes:
        root: folder of the data set. rows: those wanted. problems: why the data cannot be read, or None.
    """

    config: PaperConfig
    table: PaperTable
    benchmark: Benchmark
    root: Path | None
    rows: list[Variant]
    problem: str | None
    num_classes: int = 2

    @classmethod
    def of(cls, config: PaperConfig, number: str) -> "Plan":
        """Settle the rows and look for the data.

        Raises:
            UserError: `--rows` names none of this table's rows.
        """
        table = TABLES[number]
        name = config.dataset or table.dataset
        benchmark = BENCHMARKS.get(name, Benchmark(name))
        if config.size is not None:
            benchmark = replace(benchmark, size=config.size, scored_size=config.size)
        root = config.root
        if root is not None and (root / name).is_dir():
            root = root / name
        rows = [_on(variant, config.backbone) for variant in table.rows()]
        if config.rows:
            rows = [row for row in rows if row.name in config.rows]
        plan = cls(config, table, benchmark, root, rows, None)
        try:
            plan.open("train", benchmark.crop)
            labelled = plan.open("val", benchmark.scored_crop, labelled=True)
        except UserError as error:
            return replace(plan, problem=f"{error}; see `python -m il2vseg.data.fetch {name}`")
        return replace(plan, num_classes=len(labelled.class_names))

    @property
    def protocols(self) -> list[str]:
        """How rows are scored."""
        return ["own", "paper"] if self.config.protocol == "both" else [self.config.protocol]

    def open(self, split: str, crop: Crop, labelled: bool = False) -> Dataset:
        """Open a split of the data set."""
        name, limit = self.benchmark.dataset, self.config.limit
        return open_dataset(name, self.root, split, labelled=labelled, limit=limit, crop=crop)

    def theirs(self, row: Variant) -> str:
        """What the paper has for a row, in words."""
        if self.benchmark.dataset != self.table.dataset:
            return ""
        if row.name in NOT_THEIRS:
            return "not in the paper"
        found = self.table.figures.get(row.name)
        return "not in our notes" if found is None else f"{found[0]:.1f} / {found[1]:.1f}"

    def obstacle(self, row: Variant) -> str | None:
        """Why a row cannot run here at all; None if nothing but its weights may be missing."""
        from il2vseg.models.backbones import BACKBONES

        for kind, known in (("method", METHODS), ("backbone", BACKBONES)):
            if row.train[kind] not in known:
                return f"no {kind} `{row.train[kind]}` in this version"
        method, backbone = row.train["method"], row.train["backbone"]
        if BACKBONES[backbone].trained and not load_method(method).trains_network:
            return f"`{method}` needs frozen tokens here, and cannot train `{backbone}`"
        return None if self.problem is None else "no data, see above"

    def missing(self, row: Variant) -> str:
        """Everything that a row lacks as things are, its weights included; "" if it can run."""
        from il2vseg.models.backbones import BACKBONES
        from il2vseg.models.weights import weights_to_get

        backbone = row.train["backbone"]
        weights = weights_to_get(backbone) if backbone in BACKBONES else None
        return "; ".join(filter(None, (self.obstacle(row), weights)))

    def folder(self, row: Variant, seed: int, out: Path) -> Path:
        """Where a row's training is kept; rows of several tables share it."""
        return out / self.benchmark.dataset / f"{row.run_name}_seed{seed}"


def _on(row: Variant, backbone: str) -> Variant:
    """The row with another ViT in the place of the paper's."""
    return replace(row, train=row.train | {"backbone": backbone}) if row.train["backbone"] == VIT else row


Train = Callable[[dict[str, Any], dict[str, Any]], object]
"""Train with settings of `TrainConfig` and changes of the recipe."""

Load = Callable[[Path, tuple[int, int] | None], "Segmenter"]


def run_paper(config: PaperConfig, train: Train, load: Load) -> str:
    """Run the command; return the tables.

    Raises:
        UserError: wrong settings, or no row of any table can run here.
    """
    numbers = list(TABLES) if config.table == "all" else [config.table]
    plans = {number: Plan.of(config, number) for number in numbers}
    known = dict.fromkeys(row.name for number in numbers for row in TABLES[number].rows())
    if lost := set(config.rows or ()) - set(known):
        raise UserError(f"no row {', '.join(sorted(lost))}; known: {', '.join(known)}")
    plans = {number: plan for number, plan in plans.items() if plan.rows}
    if config.dry_run:
        return "\n".join(map(listing, plans.values()))
    if config.protocol != "own":
        from il2vseg.evaluation.crf import require_crf

        require_crf()
    out = require_writable_dir(config.out or Path("runs/experiments/paper"))
    check_kept(config, out, FREE)
    done = [run_table(plan, out / f"table-{number}", train, load) for number, plan in plans.items()]
    text = "\n".join(text for text, _ in done)
    if not any(ran for _, ran in done):
        raise UserError(
            f"no row can run here; {out}/table-{next(iter(plans))}.md says why, as does --dry-run"
        )
    return text


def run_table(plan: Plan, path: Path, train: Train, load: Load) -> tuple[str, bool]:
    """Run the rows that can run, and write PATH.md, .csv and .png anew after every seed.

    Returns:
        the table in Markdown, and whether any row ran.
    """
    results: Results = {row.name: [] for row in plan.rows}
    blocked = {row.name: reason for row in plan.rows if (reason := plan.obstacle(row))}
    for seed in range(plan.config.seeds):
        for row in plan.rows:
            if row.name not in blocked:
                try:
                    results[row.name].append(run_cell(plan, row, seed, path.parent, train, load))
                except UserError as error:
                    blocked[row.name] = str(error)
        text = markdown(plan, results, blocked)
        write_text(path.with_suffix(".md"), text)
        write_text(path.with_suffix(".csv"), as_csv(results))
    ran = [row for row in plan.rows if results[row.name]]
    if ran:
        first = plan.protocols[0]
        miou = {row.name: [{"miou": seed[first][1]} for seed in results[row.name]] for row in ran}
        plot(ran, miou, path.with_suffix(".png"), f"{plan.table.title}: {plan.benchmark.dataset}")
    return text, bool(ran)


def run_cell(plan: Plan, row: Variant, seed: int, out: Path, train: Train, load: Load) -> dict[str, Figures]:
    """Train and score a row with one seed, as far as that was not done; protocol to scores.

    Raises:
        UserError: it cannot run here.
    """
    from il2vseg.evaluation.protocol import as_in_paper
    from il2vseg.evaluation.scoring import evaluate
    from il2vseg.models.backbones import backbone_spec
    from il2vseg.models.checkpoint import FILE_NAME
    from il2vseg.models.segmenter import with_alpha

    config, folder = plan.config, plan.folder(row, seed, out)
    benchmark = plan.benchmark.fitting(backbone_spec(row.train["backbone"]).patch)
    path = folder / f"paper-{row.scores_name}"
    scores: dict[str, Figures] = json.loads(path.read_text()) if path.exists() else {}
    lacking = [protocol for protocol in plan.protocols if protocol not in scores]
    if lacking and not (folder / FILE_NAME).exists():
        print(f"── {plan.table.title}, {row.name}, seed {seed}", file=sys.stderr)
        settings: dict[str, Any] = {"dataset": benchmark.dataset, "root": plan.root, "crop": benchmark.crop}
        settings |= {"size": benchmark.size, "num_classes": plan.num_classes, "limit": config.limit}
        if row.train["backbone"] == WHOLE:
            settings["weights"] = config.weights
        train(settings | {"steps": config.steps, "seed": seed, "out": folder} | row.train, row.recipe)
    for protocol in lacking:
        model = with_alpha(load(folder, benchmark.scored_size), row.alpha)
        labelled = plan.open("val", benchmark.scored_crop, labelled=True)
        if protocol == "paper":
            model = as_in_paper(model, [labelled], plan.num_classes, seed)
        found = evaluate(model, labelled, crf=protocol == "paper").one_to_one
        scores[protocol] = (found.accuracy, found.miou)
        write_json(path, scores)
    return scores


def _heading(plan: Plan) -> str:
    lines = [f"{plan.table.title}. {plan.benchmark.describe()}", plan.table.note]
    lines.append("" if plan.problem is None else f"No data: {plan.problem}")
    return "\n\n".join(filter(None, lines)) + "\n\n"


def _runs(row: Variant) -> str:
    """What a row trains, in words."""
    changed = row.recipe | ({} if row.alpha is None else {"alpha": row.alpha})
    changes = [f"{name.rpartition('.')[2]} = {value:g}" for name, value in changed.items()]
    return ", ".join([f"`{row.train['method']}` on `{row.train['backbone']}`", *changes])


def listing(plan: Plan) -> str:
    """The table of `--dry-run`: what every row would run, the paper's figures, and what is missing here."""
    rows = [[row.name, _runs(row), plan.theirs(row), plan.missing(row) or "can run"] for row in plan.rows]
    return _heading(plan) + markdown_table(["row", "runs", "the paper, Acc / mIoU", "here"], rows)


def markdown(plan: Plan, results: Results, blocked: Mapping[str, str]) -> str:
    """The table of what was run: ours by every protocol, the paper's, and why a row is empty."""
    names = {"own": "own protocol", "paper": "the paper's protocol"}
    header = ["row", "runs", *(f"Acc / mIoU, {names[p]}" for p in plan.protocols), "the paper", "note"]
    rows = []
    for row in plan.rows:
        seeds = results[row.name]
        cells = [
            " / ".join(filter(None, (shown([seed[p][i] for seed in seeds]) for i in (0, 1))))
            for p in plan.protocols
        ]
        note = blocked.get(row.name, "")
        rows.append([row.name, _runs(row), *cells, plan.theirs(row), note])
    return _heading(plan) + markdown_table(header, rows)


def as_csv(results: Results) -> str:
    """Accuracy and mean IoU of every row, seed and protocol."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["row", "seed", "protocol", "accuracy", "miou"])
    for name, seeds in results.items():
        for seed, scores in enumerate(seeds):
            for protocol, figures in scores.items():
                writer.writerow([name, seed, protocol, *figures])
    return buffer.getvalue()
