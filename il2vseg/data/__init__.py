"""Data sets: `open_dataset` yields frames, and masks where evaluation asks for them."""

import re
from collections.abc import Sequence
from pathlib import Path

from il2vseg.base.errors import UserError
from il2vseg.base.ignore import IgnoreMask
from il2vseg.data import layouts, synthetic
from il2vseg.data.classes import IGNORE, Classes
from il2vseg.data.dataset import Crop, CroppedPart, Dataset, MaskedPart, Part, Sample
from il2vseg.data.layouts import Layout, Listing, Request
from il2vseg.data.potsdam import potsdam

__all__ = ["DATASETS", "IGNORE", "Crop", "Dataset", "Sample", "open_dataset"]


def _synthetic(request: Request) -> Listing:
    classes = Classes(synthetic.CLASS_NAMES, synthetic.PALETTE)
    return Listing(classes, synthetic.parts(request.split, request.seed, labelled=request.labelled))


DATASETS: dict[str, Layout] = {
    "folder": layouts.folder,
    "mastr1325": layouts.marine,
    "intcatch": layouts.marine,
    "camvid": layouts.camvid,
    "camvid7": layouts.camvid,
    "cityscapes": layouts.cityscapes,
    "cityscapes19": layouts.cityscapes,
    "cocostuff": layouts.cocostuff,
    "potsdam": potsdam,
    "synthetic": _synthetic,
}


def matching(parts: Sequence[Part], expression: str) -> list[Part]:
    """The parts whose name matches a regular expression from its start.

    Raises:
        UserError: none does, or it is no regular expression.
    """
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UserError(f"--match {expression}: not a regular expression ({error})") from None
    found = [part for part in parts if pattern.match(part.name)]
    if not found:
        raise UserError(f"--match {expression}: matches none of {len(parts)} names (first: {parts[0].name})")
    return found


def open_dataset(
    name: str,
    root: Path | None,
    split: str,
    *,
    labelled: bool = False,
    seed: int = 0,
    limit: int | None = None,
    crop: Crop = "none",
    ignore: IgnoreMask | None = None,
    match: str | None = None,
) -> Dataset:
    """Open a data set.

    Args:
        name: a key of DATASETS.
        root: its folder; `synthetic` needs none, and `folder` also takes a single clip.
        split: `train`, `val`, ...; `folder` has none and ignores it.
        labelled: give the masks. Without it samples carry no labels even where masks exist, so that
            training cannot look at them.
        seed: of the scenes of `synthetic`.
        limit: thin the samples evenly to at most this many.
        crop: give whole images, their central squares, or five crops of each.
        ignore: what belongs to the own vessel in every image; its labels are IGNORE.
        match: only images and clips whose name matches this regular expression from its start.

    Raises:
        UserError: unknown name or split, missing or empty folder, masks missing where they are needed.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set '{name}'; known: {', '.join(DATASETS)}")
    if limit is not None and limit < 1:
        raise UserError(f"a limit of {limit} images leaves nothing; it must be at least 1")
    listing = DATASETS[name](Request(name, root, split, labelled, seed))
    parts: list[Part] = list(listing.parts) if match is None else matching(listing.parts, match)
    if ignore is not None:
        parts = [MaskedPart(part, ignore) for part in parts]
    if crop != "none":
        parts = [CroppedPart(part, crop) for part in parts]
    return Dataset(name, listing.classes, parts, limit)
