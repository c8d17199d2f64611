"""il2vseg-annotate: pre-annotations read back as the masks they came from."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from il2vseg.base.errors import UserError
from il2vseg.base.images import Labels, write_image
from il2vseg.export.tools import annotations
from il2vseg.export.tools.annotations import (
    AnnotateConfig,
    Annotated,
    coco,
    cvat,
    label_studio,
    main,
    run_lengths,
)
from il2vseg.export.tools.naming import NamedModel
from il2vseg.export.tools.outlines import regions

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


def inside(outline: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels (H, W) whose centre lies in an outline (N, 2), by counting the edges to the right of it."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    odd = np.zeros(shape, np.bool_)
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, 0), strict=True):
        if y0 != y1:
            odd ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return odd


def painted(pieces: list[tuple[int, np.ndarray]], shape: tuple[int, ...] = (60, 80)) -> Labels:
    out = np.full(shape, 255, np.uint8)
    for class_id, outline in pieces:
        out[inside(outline, shape)] = class_id
    return out


def test_pieces_painted_large_first_give_the_mask_back() -> None:
    found = regions(scene(), 3, tolerance=0.0)
    assert (painted([(r.class_id, r.outline) for r in found]) == scene()).mean() > 0.99


def test_small_pieces_are_left_out() -> None:
    labels = scene()
    labels[30, 3:6] = 2
    assert len(regions(labels, 3, min_area=0.01)) == len(regions(scene(), 3, min_area=0.01))


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
        assert (points <= [80, 60]).all()
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


def test_a_bundled_model_is_called_by_its_name(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 64, 3), np.uint8))
    out = tmp_path / "out.json"
    arguments = ["--model", "marine-lite", "--images", str(tmp_path), "--out", str(out)]
    assert main(arguments) == 0
    assert {c["name"] for c in json.loads(out.read_text())["categories"]} == {"obstacle", "water", "sky"}


# --- what other tools read ------------------------------------------------------------------------------


def decoded(
    labels: Labels, config: AnnotateConfig, path: Path
) -> tuple[list[np.ndarray], list[float], Labels]:
    """What pycocotools makes of COCO: masks of pieces, their areas as written, the classes (255: none)."""
    reader = pytest.importorskip("pycocotools.coco")
    path.write_text(json.dumps(coco([Annotated("a.png", labels)], NAMES, config)))
    api = reader.COCO(str(path))
    annotations = api.loadAnns(api.getAnnIds())
    masks = [api.annToMask(a).astype(bool) for a in annotations]
    classes = np.full(labels.shape, 255, np.uint8)
    for annotation, mask in zip(annotations, masks, strict=True):
        classes[mask] = annotation["category_id"] - 1
    return masks, [a["area"] for a in annotations], classes


EVERYTHING = AnnotateConfig(model=Path(), images=Path(), out=Path(), min_area=0.0)


def masts() -> Labels:
    labels = np.zeros((60, 80), np.uint8)
    labels[5:55, 10] = labels[5:55, 20:22] = labels[5:55, 30:33] = 2
    labels[30, 50:79] = 2
    return labels


def one_pixel() -> Labels:
    labels = np.zeros((9, 9), np.uint8)
    labels[0, 0] = labels[4, 4] = labels[8, 8] = 2
    return labels


def diagonal() -> Labels:
    return np.eye(12, dtype=np.uint8) * 2


def rings() -> Labels:
    labels = np.zeros((60, 60), np.uint8)
    for size in range(4, 30, 4):
        cv2.rectangle(labels, (30 - size, 30 - size), (30 + size, 30 + size), 2, 1)
    return labels


def comb() -> Labels:
    labels = np.zeros((40, 61), np.uint8)
    labels[30:] = 2
    labels[5:, ::4] = 2
    return labels


def border() -> Labels:
    labels = np.ones((30, 40), np.uint8)
    labels[[0, -1]] = 2
    labels[:, [0, -1]] = 2
    return labels


@pytest.mark.parametrize("make", [scene, masts, one_pixel, diagonal, rings, comb, border])
def test_readers_of_coco_find_every_piece_with_its_area(make: Callable[[], Labels], tmp_path: Path) -> None:
    labels = make()
    masks, areas, classes = decoded(labels, EVERYTHING, tmp_path / "c.json")
    for class_id in range(3):
        truth, found = labels == class_id, classes == class_id
        assert (truth & found).sum() >= 0.95 * (truth | found).sum()
    assert sum(areas) == labels.size  # pieces do not overlap, holes are not counted
    for mask, area in zip(masks, areas, strict=True):
        assert mask.sum() == pytest.approx(area, rel=0.05, abs=1)
    assert np.sum(masks, axis=0).max() <= 2  # but where outlines were made simpler


@settings(max_examples=60)
@given(
    arrays(
        np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 1, 2, 255])
    )
)
def test_outlines_without_tolerance_are_exact(labels: Labels) -> None:
    found = regions(labels, 3, tolerance=0.0)
    assert sum(region.area for region in found) == (labels < 3).sum()
    for region in found:
        top, left = region.corner[1], region.corner[0]
        height, width = region.mask.shape
        whole = np.zeros(labels.shape, np.bool_)
        whole[top : top + height, left : left + width] = region.mask
        assert (labels[whole] == region.class_id).all()
        drawn = inside(region.outline, labels.shape)
        assert (drawn & ~whole).any() == region.holes
        assert not (whole & ~drawn).any()


def test_what_is_of_no_class_is_not_annotated(tmp_path: Path) -> None:
    labels = scene()
    labels[50:] = 255
    for config in (EVERYTHING, RLE):
        _, areas, classes = decoded(labels, config, tmp_path / "c.json")
        assert sum(areas) == (labels < 255).sum()
        assert (classes[52:] == 255).all()


ODD_NAMES = ("a b.jpg", "50%+&#?=.jpg", "ünï/日本.jpg", "quote\"'<>&.jpg", "12:30:05.jpg", "new\nline.jpg")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_label_studio_asks_for_the_file_that_is_meant(name: str) -> None:
    (task,) = label_studio([Annotated(name, scene())], NAMES, CONFIG)
    address = urlsplit(task["data"]["image"])
    assert address.path == "/data/local-files/"
    assert address.fragment == ""
    assert parse_qs(address.query, keep_blank_values=True) == {"d": [name]}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_cvat_and_coco_keep_any_name(name: str) -> None:
    classes = ('wat"er & <sky>', "ü", "c")
    root = ElementTree.fromstring(cvat([Annotated(name, scene())], classes, CONFIG))
    image = root.find("image")
    assert image is not None
    assert image.get("name") == name
    assert {p.get("label") for p in image} == set(classes)
    assert (
        json.loads(json.dumps(coco([Annotated(name, scene())], classes, CONFIG)))["images"][0]["file_name"]
        == name
    )


@pytest.mark.parametrize("name", ["bell\x07.jpg", os.fsdecode(b"latin-\xe9.jpg")])
def test_names_that_xml_cannot_hold_are_left_out_and_named(name: str) -> None:
    left_out: list[str] = []
    text = cvat([Annotated(name, scene()), Annotated("b.jpg", scene())], NAMES, CONFIG, left_out)
    images = ElementTree.fromstring(text.encode()).findall("image")
    assert [(i.get("id"), i.get("name")) for i in images] == [("0", "b.jpg")]
    assert len(left_out) == 1
    assert "rename the file" in left_out[0]
    with pytest.raises(UserError, match="rename it with il2vseg-name"):
        cvat([], ("bell\x07",), CONFIG)


def test_label_studio_and_coco_take_names_in_no_encoding() -> None:
    name = os.fsdecode(b"latin-\xe9.jpg")
    (task,) = label_studio([Annotated(name, scene())], NAMES, CONFIG)
    assert task["data"]["image"] == "/data/local-files/?d=latin-%E9.jpg"
    assert (
        json.loads(json.dumps(coco([Annotated(name, scene())], NAMES, CONFIG)))["images"][0]["file_name"]
        == name
    )


def test_cvat_says_which_labels_there_are() -> None:
    """Datumaro, the importer behind CVAT, refuses a file without."""
    root = ElementTree.fromstring(cvat([], NAMES, CONFIG))
    assert [label.findtext("name") for label in root.iterfind("meta/task/labels/label")] == list(NAMES)


# --- batches --------------------------------------------------------------------------------------------


@pytest.fixture
def annotate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command on the folder `images` with a model that finds water everywhere."""
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    Path("model").mkdir()
    model = NamedModel((6, 8), NAMES, lambda frame: np.zeros(frame.shape[:2], np.uint8), lambda names: None)
    monkeypatch.setattr(annotations, "open_model", lambda folder, weights: model)
    return lambda *arguments: main(["--model", "model", "--images", "images", *arguments])


def picture(name: str, cut: int | None = None) -> Path:
    path = Path("images") / name
    write_image(path, np.full((12, 16, 3), 90, np.uint8))
    if cut is not None:
        path.write_bytes(path.read_bytes()[:cut])
    return path


@pytest.mark.parametrize("format", ["coco", "coco-rle", "cvat", "labelstudio"])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_one_bad_image_is_counted_and_named(
    annotate: Callable[..., int], format: str, bad: int, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        picture(f"{number}.png", cut=40 if number == bad else None)
    assert annotate("--out", "o.txt", "--format", format) == 0
    text = Path("o.txt").read_text()
    assert [f"{n}.png" in text for n in range(3)] == [n != bad for n in range(3)]
    assert f"left out 1 of 3 images: images/{bad}.png" in capfd.readouterr().err


def test_images_of_which_none_can_be_read_are_an_error(
    annotate: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    picture("a.png", cut=40)
    Path("images/b.jpg").touch()
    assert annotate("--out", "o.json") == 2
    assert "none of 2 images" in capfd.readouterr().err
    assert not Path("o.json").exists()


@pytest.mark.parametrize("out", ["images/a.png", "link.json", "model/manifest.json"])
def test_annotations_are_not_written_over_what_is_read(annotate: Callable[..., int], out: str) -> None:
    before = picture("a.png").read_bytes()
    Path("link.json").symlink_to("images/a.png")
    Path("model/manifest.json").write_text("{}")
    assert annotate("--out", out) == 2
    assert Path("images/a.png").read_bytes() == before
    assert Path("model/manifest.json").read_text() == "{}"


def test_an_output_that_cannot_be_written_is_found_before_the_work(
    annotate: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture("a.png")
    Path("file").touch()
    monkeypatch.setattr(annotations, "open_model", lambda *arguments: pytest.fail("hours of work begin"))
    assert annotate("--out", "file/o.json") == 2
