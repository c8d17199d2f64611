"""What stands in the tables of IL2Vseg (Qing et al., AAAI 2025): data sets, rows, and the paper's figures.

The figures are those in our notes on the paper; what the notes lack stays empty. From their order, too: which
data set Tables 1 to 3 are on, and that every system that the paper names stands in all three. Crops and sizes
of COCO-Stuff and Cityscapes are those of STEGO and SmooSeg; those of the others are our own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from il2vseg.data import Crop
from il2vseg.evaluation.grids import Variant

Figures = tuple[float, float]
"""Accuracy and mean IoU in %."""


@dataclass(frozen=True)
class Benchmark:
    """How a data set is used: crop and size (H, W) in training and where it is scored; None = train's own."""

    dataset: str
    crop: Crop = "none"
    size: tuple[int, int] | None = None
    scored_crop: Crop = "none"
    scored_size: tuple[int, int] | None = None

    def fitting(self, patch: int) -> Self:
        """The same with sizes of whole patches."""

        def rounded(size: tuple[int, int] | None) -> tuple[int, int] | None:
            return size and (max(1, round(size[0] / patch)) * patch, max(1, round(size[1] / patch)) * patch)

        return replace(self, size=rounded(self.size), scored_size=rounded(self.scored_size))

    def describe(self) -> str:
        """Crops and sizes in words."""
        crops: dict[Crop, str] = {"none": "whole images", "center": "central squares", "five": "five crops"}
        sizes = [("its own size" if s is None else f"{s[0]}x{s[1]}") for s in (self.size, self.scored_size)]
        return (
            f"{self.dataset}: trained on {crops[self.crop]} of `train` at {sizes[0]}, scored on "
            f"{crops[self.scored_crop]} of `val` at {sizes[1]}"
        )


BENCHMARKS = {
    b.dataset: b
    for b in (
        Benchmark("cocostuff", "five", (224, 224), "center", (320, 320)),
        Benchmark("cityscapes", "five", (224, 224), "center", (320, 320)),
        Benchmark("mastr1325", "none", (384, 512), "none", (384, 512)),
        Benchmark("potsdam", "none", (224, 224), "none", (320, 320)),
    )
}

VIT = "dino_vits8"
"""The ViT of the paper, DINO ViT-S/8, which `--backbone` replaces."""

WHOLE = "resnet18_fpn"
"""The network that is trained whole where the original trains one."""


def _row(name: str, method: str, backbone: str = VIT, **options: Any) -> Variant:
    return Variant(name, {"method": method, "backbone": backbone}, **options)


TRAINED_WHOLE = {"IIC": "iic", "MDC": "mdc", "PiCIE": "picie", "PiCIE+H": "picie_h", "SlotCon": "slotcon"}


DEFAULT = "il2vseg, the default here"

NOT_THEIRS = {DEFAULT} | {f"{name}, frozen tokens" for name in TRAINED_WHOLE}
"""Rows for comparison, which the paper does not have."""


def _systems() -> list[Variant]:
    """Every system that the paper's tables name, in the order of our notes; then the default here."""
    return [
        _row("ResNet-50", "kmeans", "resnet50"),
        *(_row(name, method, WHOLE) for name, method in TRAINED_WHOLE.items()),
        *(_row(f"{name}, frozen tokens", method) for name, method in TRAINED_WHOLE.items()),
        _row("MoCoV2", "kmeans", "resnet50_mocov2"),
        _row("DINO", "kmeans"),
        _row("TransFGU", "transfgu"),
        _row("STEGO", "stego"),
        _row("HP", "hp"),
        _row("SmooSeg", "smooseg"),
        _row("EAGLE", "eagle"),
        _row("IL2Vseg, MoCoV2", "paper", "resnet50_mocov2"),
        _row("IL2Vseg", "paper"),
        _row(DEFAULT, "il2vseg"),
    ]


def _losses() -> list[Variant]:
    """Table 4: the losses of eq. 14 beside L_smo."""
    at = "method.smoothness"
    no_corr, no_eigen = {f"{at}.correspondence_weight": 0.0}, {f"{at}.gamma": 0.0, f"{at}.beta": 0.0}
    return [
        _row("L_smo", "paper", recipe=no_corr | no_eigen),
        _row("L_smo + L_fs + L_reg", "paper", recipe=no_corr),
        _row("L_smo + L_corr", "paper", recipe=no_eigen),
        _row("all", "paper"),
    ]


def _alphas() -> list[Variant]:
    """Figure 5: α of eq. 13, the same in training and at prediction."""
    return [
        _row(
            f"α = {a:g}",
            "paper",
            recipe={"method.smoothness.train_alpha": a},
            alpha=a,
            curve=("training and prediction", a),
        )
        for a in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]


@dataclass(frozen=True)
class PaperTable:
    """A table: its title, its data set, its rows and the figures of theirs that our notes have."""

    title: str
    dataset: str
    rows: Callable[[], list[Variant]]
    figures: Mapping[str, Figures]
    note: str = ""


TABLES = {
    "1": PaperTable(
        "Table 1",
        "cocostuff",
        _systems,
        {
            "STEGO": (48.3, 24.5),
            "SmooSeg": (63.2, 26.7),
            "EAGLE": (64.2, 27.2),
            "IL2Vseg, MoCoV2": (54.2, 20.1),
            "IL2Vseg": (65.1, 27.6),
        },
    ),
    "2": PaperTable("Table 2", "cityscapes", _systems, {"SmooSeg": (81.8, 19.7), "IL2Vseg": (83.0, 20.6)}),
    "3": PaperTable(
        "Table 3",
        "mastr1325",
        _systems,
        {
            "DINO": (55.1, 37.3),
            "STEGO": (70.8, 54.4),
            "HP": (82.7, 71.2),
            "SmooSeg": (88.3, 74.1),
            "EAGLE": (84.0, 70.5),
            "IL2Vseg": (93.6, 82.5),
        },
    ),
    "4": PaperTable(
        "Table 4, ablation",
        "cityscapes",
        _losses,
        {
            "L_smo": (75.7, 17.4),
            "L_smo + L_fs + L_reg": (81.1, 19.6),
            "L_smo + L_corr": (80.3, 18.3),
            "all": (83.0, 20.6),
        },
    ),
    "5": PaperTable(
        "Figure 5, α",
        "cityscapes",
        _alphas,
        {},
        "the paper: best at 0.5, far worse at 1; our notes have neither its values nor its data set",
    ),
}
