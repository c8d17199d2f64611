"""Pictures of an evaluation: IoU bars, the confusion matrix, and image / prediction / truth side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.files import atomic_path
from il2vseg.base.images import Frame, Labels, resize_frame, resize_labels, write_image
from il2vseg.base.palette import Color, color_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NO_CLASS: Color = (40, 40, 40)
_IGNORED: Color = (255, 255, 255)
_INK = "#1c2b33"
_SERIES = ("#1b7fa6", "#f2a541")


def _save(figure: "Figure", path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight", facecolor="white")


def _figure(width: float, height: float) -> tuple["Figure", Any]:
    """Make a figure that needs no display and leaves no global state behind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.tick_params(colors=_INK, length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure, axes


def iou_bars(
    path: Path, names: Sequence[str], series: Mapping[str, Sequence[float | None]], title: str
) -> None:
    """Draw horizontal IoU bars, one group per class and one bar per series.

    Args:
        path: picture to write.
        names: class names.
        series: label -> IoU of every class in %, None where the class does not occur.
        title: shown above.
    """
    figure, axes = _figure(7, 0.9 + 0.22 * len(names) * (len(series) + 0.8))
    thickness = 0.8 / len(series)
    for i, (label, values) in enumerate(series.items()):
        rows = np.arange(len(names)) + (i - (len(series) - 1) / 2) * thickness
        color = _SERIES[i % len(_SERIES)]
        axes.barh(rows, [v or 0 for v in values], thickness * 0.9, color=color, label=label)
        for row, value in zip(rows, values, strict=True):
            text = "not in this split" if value is None else f"{value:.1f}"
            axes.text((value or 0) + 1, row, text, va="center", fontsize=7.5, color=_INK)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.grid(axis="x", color="#d5dde1", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("IoU, %", color=_INK, fontsize=9)
    axes.set_title(title, loc="left", color=_INK, fontsize=11, pad=22)
    if len(series) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=2, frameon=False, fontsize=8.5)
    _save(figure, path)


def stability_curve(
    path: Path, counts: Sequence[int], stability: Sequence[float], spread: Sequence[float], chosen: int
) -> None:
    """Draw how stable every number of classes is, with its standard deviation, and which was chosen.

    Args:
        path: picture to write.
    """
    figure, axes = _figure(6, 3)
    axes.errorbar(counts, stability, spread, color=_SERIES[0], marker="o", markersize=4, capsize=2)
    axes.axvline(chosen, color=_SERIES[1], linewidth=1.5)
    axes.set_xticks(list(counts))
    axes.set_xlabel("number of classes", color=_INK, fontsize=9)
    axes.set_ylabel("adjusted Rand index", color=_INK, fontsize=9)
    axes.set_title(f"Stability of the classes across scenes: {chosen}", loc="left", color=_INK, fontsize=11)
    _save(figure, path)


def confusion_matrix(
    path: Path, counts: NDArray[np.int64], rows: Sequence[str], columns: Sequence[str], title: str
) -> None:
    """Draw where the pixels of every true class went, in % of the class.

    Args:
        path: picture to write.
        counts: pixels of cluster k on class c (K, C).
        rows: a name for every cluster.
        columns: class names.
        title: shown above.
    """
    share = 100 * counts / np.maximum(counts.sum(0), 1)
    figure, axes = _figure(2.2 + 0.52 * len(columns), 1.6 + 0.42 * len(rows))
    axes.imshow(share, cmap="GnBu", vmin=0, vmax=100, aspect="auto")
    if counts.size <= 400:
        for (k, c), value in np.ndenumerate(share):
            if value >= 0.05:
                color = "white" if value > 60 else _INK
                axes.text(
                    c,
                    k,
                    f"{value:.0f}" if value >= 1 else "<1",
                    ha="center",
                    va="center",
                    color=color,
                    fontsize=8,
                )
    axes.set_xticks(
        range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor", fontsize=8.5
    )
    axes.set_yticks(range(len(rows)), rows, fontsize=8.5)
    axes.set_xlabel("true class", color=_INK, fontsize=9)
    axes.set_ylabel("predicted cluster", color=_INK, fontsize=9)
    axes.set_title(title, loc="left", color=_INK, fontsize=11, pad=10)
    _save(figure, path)


def colorize(labels: Labels, palette: Sequence[Color]) -> Frame:
    """Paint class ids (H, W) in their colours: BGR (H, W, 3); 255 is white, any other id dark grey."""
    table = color_table(palette, _NO_CLASS)
    table[255] = _IGNORED
    return np.asarray(table[labels], dtype=np.uint8)


@dataclass(frozen=True)
class SheetRow:
    """One line of the sheet: frame, predicted classes and, where there is one, the truth."""

    name: str
    frame: Frame
    predicted: Labels
    truth: Labels | None = None


def _write(image: Frame, text: str, at: tuple[int, int], color: Color) -> int:
    """Write `text` and return where it ends."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    cv2.putText(image, text, at, font, size, color, 1, cv2.LINE_AA)
    return at[0] + int(cv2.getTextSize(text, font, size, 1)[0][0])


def sheet(
    path: Path, rows: Sequence[SheetRow], names: Sequence[str], palette: Sequence[Color], width: int = 320
) -> None:
    """Write a contact sheet: image, prediction and truth of every row, with the legend on top.

    Args:
        path: picture to write.
        rows: what to show.
        names: class names for the legend.
        palette: one RGB colour per class.
        width: pixels of one picture.
    """
    gap = 4
    columns = 3 if any(row.truth is not None for row in rows) else 2
    total = columns * width + (columns - 1) * gap
    # The legend breaks into as many lines as it needs.
    lines: list[Frame] = []
    x = total
    for name, color in zip(names, palette, strict=True):
        length = int(cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)[0][0]) + 34
        if x + length > total:
            lines.append(np.full((22, total, 3), 255, np.uint8))
            x = 6
        cv2.rectangle(lines[-1], (x, 5), (x + 14, 17), color[::-1], -1)
        _write(lines[-1], name, (x + 19, 16), (40, 40, 40))
        x += length
    strips = lines
    for row in rows:
        height = round(width * row.frame.shape[0] / row.frame.shape[1])
        size = (height, width)
        pictures = [
            resize_frame(row.frame, size).copy(),
            colorize(resize_labels(row.predicted, size), palette),
        ]
        if columns == 3:
            truth = np.full(size, 255, np.uint8) if row.truth is None else resize_labels(row.truth, size)
            pictures.append(colorize(truth, palette))
        for offset, color in ((1, (0, 0, 0)), (0, (255, 255, 255))):
            _write(pictures[0], row.name, (6 + offset, height - 7 + offset), color)
        strip = np.full((height + gap, total, 3), 255, np.uint8)
        for i, picture in enumerate(pictures):
            strip[gap:, i * (width + gap) : i * (width + gap) + width] = picture
        strips.append(strip)
    write_image(path, np.vstack(strips))
