"""Tables and curves of `il2vseg.experiment`: mean and spread of scores over seeds."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from il2vseg.evaluation.grids import Variant

METRICS = (
    "consistency",
    "accuracy",
    "miou",
    "many_to_one",
    "boundary_f2",
    "boundary_f5",
    "water_edge",
    "transfer_water_iou",
)
HEADINGS = (
    "outlines like those at twice the size (no masks)",
    "Acc",
    "mIoU",
    "mIoU many-to-one",
    "boundary F (2 px)",
    "boundary F (5 px)",
    "water edge RMSE (px)",
    "water IoU elsewhere",
)


def shown(values: list[float | None]) -> str:
    """Mean and, of several seeds, standard deviation: "68.9 ± 0.8"; "" without values."""
    known = [v for v in values if v is not None]
    if not known:
        return ""
    return f"{mean(known):.1f}" + (f" ± {stdev(known):.1f}" if len(known) > 1 else "")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, of cells that are text."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]]) + "\n"


def markdown(results: dict[str, list[dict[str, Any]]]) -> str:
    """The table of all variants, with the mIoU of every seed; columns without values are left out."""
    columns = [
        i
        for i, m in enumerate(METRICS)
        if any(r.get(m) is not None for rows in results.values() for r in rows)
    ]
    seeds = len(next(iter(results.values())))
    header = ["", *(HEADINGS[i] for i in columns), f"mIoU of seeds 0-{seeds - 1}"]
    lines = []
    for name, rows in results.items():
        cells = [shown([r.get(METRICS[i]) for r in rows]) for i in columns]
        lines.append([name, *cells, ", ".join(f"{r['miou']:.1f}" for r in rows)])
    return markdown_table(header, lines)


def plot(grid: list[Variant], results: dict[str, list[dict[str, Any]]], path: Path, title: str) -> None:
    """Draw the mean mIoU with a dot for every seed: curves of a sweep, else bars."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    miou = {name: [r["miou"] for r in rows] for name, rows in results.items()}
    curves: dict[str, list[tuple[float, list[float]]]] = {}
    for variant in grid:
        if variant.curve is not None:
            curves.setdefault(variant.curve[0], []).append((variant.curve[1], miou[variant.name]))
    height = 4.0 if curves else 1.0 + 0.3 * len(miou)
    figure, axes = plt.subplots(figsize=(7, height), layout="constrained")
    for name, points in curves.items():
        (line,) = axes.plot([x for x, _ in points], [mean(values) for _, values in points], label=name)
        for x, values in points:
            axes.plot([x] * len(values), values, "o", color=line.get_color(), markersize=3, alpha=0.6)
    if curves:
        axes.set_xlabel("α")
        axes.set_ylabel("mIoU (%)")
        axes.legend(frameon=False)
    else:
        for i, values in enumerate(miou.values()):
            axes.barh(i, mean(values), color="#4c78a8", alpha=0.6)
            axes.plot(values, [i] * len(values), "o", color="#1f3d5c", markersize=3)
        axes.set_yticks(range(len(miou)), list(miou))
        axes.invert_yaxis()
        axes.set_xlabel("mIoU (%)")
    axes.set_title(title)
    figure.savefig(path, dpi=90)
    plt.close(figure)
