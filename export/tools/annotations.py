"""il2vseg-annotate: predictions as pre-annotations for CVAT, Label Studio and COCO; people only correct.

CVAT and Label Studio get outlines of connected pieces, large ones first: drawn in that order, a piece inside
another lies on top of it, and no hole is needed. Readers of COCO do not draw in order, so there a piece with
holes is written as run lengths.
"""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.classes import merge
from il2vseg.base.command import IGNORE_MASK_HELP, Settings, flag, parse
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.files import IMAGE_SUFFIXES, list_files, require_writable_dir, write_text
from il2vseg.base.ignore import IGNORED, IgnoreMask
from il2vseg.base.images import Labels, read_frame, resize_frame, resize_labels
from il2vseg.base.outputs import model_files, protect
from il2vseg.export.tools.naming import NamedModel, open_model
from il2vseg.export.tools.outlines import regions
from il2vseg.runtime.catalog import find_model

PROGRAM = "il2vseg-annotate"
MODEL_VERSION = "il2vseg"


@dataclass
class AnnotateConfig(Settings):
    """Write what a model sees in a folder of images as pre-annotations for people to correct."""

    model: Path = flag(
        dataclasses.MISSING, "folder of a checkpoint or of an export, or a bundled model", metavar="DIR"
    )
    images: Path = flag(dataclasses.MISSING, "folder of images", metavar="DIR")
    out: Path = flag(dataclasses.MISSING, "file to write: .json, or .xml for cvat", metavar="FILE")
    ignore_mask: str | None = flag(None, IGNORE_MASK_HELP, metavar="FILE|POLYGON")
    format: Literal["coco", "coco-rle", "cvat", "labelstudio"] = flag("coco", "which tool reads it")
    min_area: float = flag(
        0.0005, "leave out pieces smaller than this share of the image", low=0, high=1, metavar="SHARE"
    )
    tolerance: float = flag(
        1.0, "outlines may differ from the mask by this much", low=0, high=1000, metavar="PIXELS"
    )
    weights: Path | None = flag(None, "weights file of the backbone", metavar="FILE")


@dataclass(frozen=True)
class Annotated:
    """An image's name and the class of every pixel (H, W)."""

    name: str
    labels: Labels


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed run lengths of a mask (H, W): column by column, zeros first."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes])).tolist()
    rest = mask.size - sum(counts)
    return [*counts, rest] if rest else counts


def coco(items: Iterable[Annotated], names: Sequence[str], config: AnnotateConfig) -> dict[str, Any]:
    """COCO: an annotation for each piece, or for each class with its exact mask (`coco-rle`).

    A piece is a polygon; one with holes, which a polygon cannot have, its run lengths.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []

    def add(class_id: int, segmentation: Any, area: float, box: Sequence[float], crowd: bool) -> None:
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": len(images),
                "category_id": class_id + 1,
                "segmentation": segmentation,
                "area": area,
                "bbox": [float(v) for v in box],
                "iscrowd": int(crowd),
            }
        )

    for item in items:
        height, width = item.labels.shape
        images.append({"id": len(images) + 1, "file_name": item.name, "height": height, "width": width})
        if config.format == "coco-rle":
            for class_id in np.unique(item.labels[item.labels < len(names)]).tolist():
                mask = item.labels == class_id
                box = cv2.boundingRect(mask.astype(np.uint8))
                lengths = {"counts": run_lengths(mask), "size": [height, width]}
                add(class_id, lengths, float(mask.sum()), box, crowd=True)
            continue
        for region in regions(item.labels, len(names), config.min_area, config.tolerance):
            segmentation: Any = [region.outline.ravel().tolist()]
            if region.holes:
                whole = np.zeros((height, width), np.bool_)
                left, top = region.corner
                whole[top : top + len(region.mask), left : left + region.mask.shape[1]] = region.mask
                segmentation = {"counts": run_lengths(whole), "size": [height, width]}
            add(region.class_id, segmentation, region.area, region.box, crowd=False)
    categories = [{"id": i + 1, "name": n, "supercategory": ""} for i, n in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}


_NOT_XML = re.compile("[^\\t\\n\\r\\x20-\\uD7FF\\uE000-\\uFFFD\\U00010000-\\U0010FFFF]")


def cvat(
    items: Iterable[Annotated],
    names: Sequence[str],
    config: AnnotateConfig,
    left_out: list[str] | None = None,
) -> str:
    """The XML of "CVAT for images 1.1".

    Args:
        left_out: gets a line for every image whose name XML cannot hold.
    Raises:
        UserError: XML cannot hold the name of a class.
    """
    if unfit := [name for name in names if _NOT_XML.search(name)]:
        raise UserError(f"the class name {unfit[0]!r} cannot be written as XML; rename it with il2vseg-name")
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    # CVAT itself goes without, but Datumaro takes no file that does not say which labels there are.
    labels = ElementTree.SubElement(
        ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels"
    )
    for name in names:
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "attributes")
    for item in items:
        if _NOT_XML.search(item.name):
            if left_out is not None:
                left_out.append(f"{item.name!r}: a name that XML cannot hold; rename the file")
            continue
        height, width = item.labels.shape
        size = {"width": str(width), "height": str(height)}
        number = str(len(root) - 2)
        image = ElementTree.SubElement(root, "image", id=number, name=item.name, attrib=size)
        for order, region in enumerate(regions(item.labels, len(names), config.min_area, config.tolerance)):
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in region.outline)
            settings = {"label": names[region.class_id], "source": "auto", "occluded": "0"}
            settings |= {"points": points, "z_order": str(order)}
            ElementTree.SubElement(image, "polygon", settings)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)


def label_studio(
    items: Iterable[Annotated], names: Sequence[str], config: AnnotateConfig
) -> list[dict[str, Any]]:
    """Label Studio tasks with predictions, for an interface whose PolygonLabels is called `label`.

    Images are named as its local storage serves them; edit the prefix for another one.
    """
    tasks = []
    for item in items:
        height, width = item.labels.shape
        results = [
            {
                "type": "polygonlabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    "points": (region.outline * 100.0 / [width, height]).round(3).tolist(),
                    "polygonlabels": [names[region.class_id]],
                    "closed": True,
                },
            }
            for region in regions(item.labels, len(names), config.min_area, config.tolerance)
        ]
        source = f"/data/local-files/?d={quote(os.fsencode(item.name))}"
        prediction = {"model_version": MODEL_VERSION, "result": results}
        tasks.append({"data": {"image": source}, "predictions": [prediction]})
    return tasks


def predict(
    model: NamedModel,
    files: Sequence[Path],
    folder: Path,
    left_out: list[str],
    ignore: IgnoreMask | None = None,
) -> Iterable[Annotated]:
    """Yield the named classes of every image, at the image's own size.

    Args:
        files: images below `folder`. left_out: gets a line for every one that cannot be read.
        ignore: what belongs to the own vessel in every image, and is of no class.
    """
    table = np.array(merge(model.names)[1], np.uint8)
    for path in files:
        try:
            frame = read_frame(path)
            own = None if ignore is None else ignore.pixels(frame.shape)
        except UserError as error:
            left_out.append(str(error))
            continue
        clusters = model.predict(resize_frame(frame, model.size))
        labels = resize_labels(table[clusters], (frame.shape[0], frame.shape[1]))
        if own is not None:
            labels = np.where(own, np.uint8(IGNORED), labels)
        yield Annotated(path.relative_to(folder).as_posix(), labels)


def annotate(config: AnnotateConfig) -> None:
    """Run the command. Images that cannot be read or named are left out, counted and named.

    Raises:
        UserError: no such model or images, none of them can be read, or the output is one of them.
    """
    files = list_files(config.images, IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"{config.images}: no images")
    folder = find_model(config.model)
    protect([config.out], [*files, *model_files(folder)], advice="choose another --out")
    require_writable_dir(config.out.parent)
    model = open_model(folder, config.weights)
    names, _ = merge(model.names)
    left_out: list[str] = []
    items = predict(model, files, config.images, left_out, IgnoreMask.of(config.ignore_mask))
    if config.format == "cvat":
        text = cvat(items, names, config, left_out)
    else:
        write = label_studio if config.format == "labelstudio" else coco
        text = json.dumps(write(items, names, config), indent=2, allow_nan=False) + "\n"
    if len(left_out) == len(files):
        raise UserError(f"none of {len(files)} images could be annotated (first: {left_out[0]})")
    write_text(config.out, text)
    if left_out:
        more = "" if len(left_out) == 1 else f" and {len(left_out) - 1} more"
        print(f"left out {len(left_out)} of {len(files)} images: {left_out[0]}{more}", file=sys.stderr)
    done = len(files) - len(left_out)
    print(f"{config.out}: {config.format}, {done} images, classes {', '.join(names)}", file=sys.stderr)


def main(argv: list[str] | None = None, prog: str = PROGRAM) -> int:
    """Entry point of `il2vseg-annotate`."""

    def command() -> None:
        annotate(parse(AnnotateConfig, prog, argv))

    return run_command(command, prog)


if __name__ == "__main__":
    raise SystemExit(main())
