"""il2vseg-annotate: predictions as pre-annotations for CVAT, Label Studio and COCO; people only correct.

Regions are outlines of connected pieces, large ones first: drawn in that order, a piece inside another lies
on top of it, and no hole is needed. COCO also takes exact masks as run lengths.
"""

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.classes import merge
from il2vseg.base.command import Settings, flag, parse
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.files import IMAGE_SUFFIXES, list_files, write_json, write_text
from il2vseg.base.images import Labels, read_frame, resize_frame, resize_labels
from il2vseg.export.tools.naming import NamedModel, open_model

PROGRAM = "il2vseg-annotate"
MODEL_VERSION = "il2vseg"


@dataclass
class AnnotateConfig(Settings):
    """Write what a model sees in a folder of images as pre-annotations that people correct."""

    model: Path = flag(dataclasses.MISSING, "folder of a checkpoint or of an export", metavar="DIR")
    images: Path = flag(dataclasses.MISSING, "folder of images", metavar="DIR")
    out: Path = flag(dataclasses.MISSING, "file to write: .json, or .xml for cvat", metavar="FILE")
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


@dataclass(frozen=True)
class Region:
    """A connected piece of a class: corners (N, 2) of its outline, x before y, and its area, in pixels."""

    class_id: int
    outline: NDArray[np.float64]
    area: float


def regions(labels: Labels, classes: int, min_area: float = 0.0, tolerance: float = 1.0) -> list[Region]:
    """Outlines of all connected pieces, largest first.

    Args:
        labels: class ids (H, W).
        min_area: share of the image that a piece has at least. tolerance: of the outline, in pixels.
    """
    found = []
    for class_id in range(classes):
        mask = (labels == class_id).astype(np.uint8)
        # Two levels: outlines of pieces, also of those inside another's hole, and outlines of holes.
        contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        pieces = [c for c, node in zip(contours, tree[0] if contours else (), strict=True) if node[3] < 0]
        for contour in pieces:
            area = float(cv2.contourArea(contour))
            outline = cv2.approxPolyDP(contour, tolerance, closed=True)[:, 0].astype(np.float64)
            if len(outline) >= 3 and area >= max(1.0, min_area * labels.size):
                found.append(Region(class_id, outline, area))
    return sorted(found, key=lambda region: -region.area)


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed run lengths of a mask (H, W): column by column, zeros first."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes])).tolist()
    rest = mask.size - sum(counts)
    return [*counts, rest] if rest else counts


def coco(items: Iterable[Annotated], names: Sequence[str], config: AnnotateConfig) -> dict[str, Any]:
    """COCO: one annotation a piece (polygons), or one a class with its exact mask (run lengths)."""
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
            for class_id in np.unique(item.labels).tolist():
                mask = item.labels == class_id
                box = cv2.boundingRect(mask.astype(np.uint8))
                lengths = {"counts": run_lengths(mask), "size": [height, width]}
                add(class_id, lengths, float(mask.sum()), box, crowd=True)
            continue
        for region in regions(item.labels, len(names), config.min_area, config.tolerance):
            corner, far = region.outline.min(0), region.outline.max(0)
            polygon = [region.outline.ravel().tolist()]
            add(region.class_id, polygon, region.area, [*corner, *(far - corner)], crowd=False)
    categories = [{"id": i + 1, "name": n, "supercategory": ""} for i, n in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def cvat(items: Iterable[Annotated], names: Sequence[str], config: AnnotateConfig) -> str:
    """The XML of "CVAT for images 1.1"."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for number, item in enumerate(items):
        height, width = item.labels.shape
        size = {"width": str(width), "height": str(height)}
        image = ElementTree.SubElement(root, "image", id=str(number), name=item.name, attrib=size)
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
        source = f"/data/local-files/?d={item.name}"
        prediction = {"model_version": MODEL_VERSION, "result": results}
        tasks.append({"data": {"image": source}, "predictions": [prediction]})
    return tasks


def predict(model: NamedModel, folder: Path) -> Iterable[Annotated]:
    """Yield the named classes of every image in a folder, at the image's own size.

    Raises:
        UserError: an image cannot be read.
    """
    table = np.array(merge(model.names)[1], np.uint8)
    for path in list_files(folder, IMAGE_SUFFIXES):
        frame = read_frame(path)
        clusters = model.predict(resize_frame(frame, model.size))
        labels = resize_labels(table[clusters], (frame.shape[0], frame.shape[1]))
        yield Annotated(path.relative_to(folder).as_posix(), labels)


def annotate(config: AnnotateConfig) -> None:
    """Run the command.

    Raises:
        UserError: no such model or images.
    """
    if not list_files(config.images, IMAGE_SUFFIXES):
        raise UserError(f"{config.images}: no images")
    model = open_model(config.model, config.weights)
    names, _ = merge(model.names)
    items = predict(model, config.images)
    if config.format == "cvat":
        write_text(config.out, cvat(items, names, config))
    else:
        write = label_studio if config.format == "labelstudio" else coco
        write_json(config.out, write(items, names, config))
    print(f"{config.out}: {config.format}, classes {', '.join(names)}", file=sys.stderr)


def main(argv: list[str] | None = None, prog: str = PROGRAM) -> int:
    """Entry point of `il2vseg-annotate`."""

    def command() -> None:
        annotate(parse(AnnotateConfig, prog, argv))

    return run_command(command, prog)


if __name__ == "__main__":
    raise SystemExit(main())
