"""il2vseg-annotate: pre-annotations read back as the masks they came from."""

import json
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from il2vseg.base.images import Labels
from il2vseg.export.tools.annotations import (
    AnnotateConfig,
    Annotated,
    coco,
    cvat,
    label_studio,
    main,
    regions,
    run_lengths,
)

NAMES = ("water", "sky", "obstacle")
CONFIG = AnnotateConfig(model=Path(), images=Path(), out=Path())
RLE = AnnotateConfig(model=Path(), images=Path(), out=Path(), format="coco-rle")


def scene() -> Labels:
    """Sky above water, with a ring-shaped obstacle that holds water."""
    labels = np.zeros((60, 80), np.uint8)
    labels[:25] = 1
    cv2.circle(labels, (40, 40), 12, 2, -1)
    cv2.circle(labels, (40, 40), 5, 0, -1)
    return labels


def painted(pieces: list[tuple[int, np.ndarray]]) -> Labels:
    out = np.full((60, 80), 255, np.uint8)
    for class_id, outline in pieces:
        cv2.fillPoly(out, [outline.round().astype(np.int32)], class_id)
    return out


def test_pieces_painted_large_first_give_the_mask_back() -> None:
    found = regions(scene(), 3, tolerance=0.0)
    assert (painted([(r.class_id, r.outline) for r in found]) == scene()).mean() > 0.99


def test_small_pieces_are_left_out() -> None:
    labels = scene()
    labels[30, 3:6] = 2
    assert len(regions(labels, 3, min_area=0.01)) == len(regions(scene(), 3, min_area=0.01))


@settings(deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_run_lengths_spell_the_mask_column_by_column(mask: np.ndarray) -> None:
    counts = run_lengths(mask)
    assert sum(counts) == mask.size
    values = np.repeat(np.arange(len(counts)) % 2, counts)
    np.testing.assert_array_equal(values.reshape(mask.T.shape).T, mask)


def test_coco_is_read_by_pycocotools(tmp_path: Path) -> None:
    reader = pytest.importorskip("pycocotools.coco")
    for config in (CONFIG, RLE):
        path = tmp_path / f"{config.format}.json"
        path.write_text(json.dumps(coco([Annotated("a.jpg", scene())], NAMES, config)))
        api = reader.COCO(str(path))
        assert [c["name"] for c in api.loadCats(api.getCatIds())] == list(NAMES)
        sky = [a for a in api.loadAnns(api.getAnnIds(imgIds=[1])) if a["category_id"] == 2]
        mask = np.any([api.annToMask(a) for a in sky], axis=0)
        assert (mask == (scene() == 1)).mean() > 0.97


def test_cvat_lists_every_image_with_points_inside_it() -> None:
    root = ElementTree.fromstring(
        cvat([Annotated("a.jpg", scene()), Annotated("b.jpg", scene())], NAMES, CONFIG)
    )
    assert root.findtext("version") == "1.1"
    assert [i.get("name") for i in root.findall("image")] == ["a.jpg", "b.jpg"]
    pieces = []
    for polygon in root.findall("image")[0].findall("polygon"):
        points = np.array([p.split(",") for p in str(polygon.get("points")).split(";")], float)
        assert (points >= 0).all()
        assert (points < [80, 60]).all()
        pieces.append((NAMES.index(str(polygon.get("label"))), points))
    assert (painted(pieces) == scene()).mean() > 0.97


def test_label_studio_has_shares_of_the_image() -> None:
    (task,) = label_studio([Annotated("a.jpg", scene())], NAMES, CONFIG)
    results = task["predictions"][0]["result"]
    pieces = [
        (
            NAMES.index(r["value"]["polygonlabels"][0]),
            np.array(r["value"]["points"]) * [r["original_width"], r["original_height"]] / 100,
        )
        for r in results
    ]
    assert (painted(pieces) == scene()).mean() > 0.97


def test_a_folder_without_images_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(tmp_path), "--images", str(tmp_path), "--out", str(tmp_path / "a.json")]
    assert main(arguments) == 2
    assert "no images" in capsys.readouterr().err
