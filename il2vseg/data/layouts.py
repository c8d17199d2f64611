"""Where each data set keeps its images and masks: one function per layout."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from il2vseg.base.errors import UserError
from il2vseg.base.files import FOOTAGE_SUFFIXES, IMAGE_SUFFIXES, is_clip_file, list_files
from il2vseg.base.media.clips import count_frames
from il2vseg.data.classes import (
    CAMVID,
    CAMVID_7,
    CITYSCAPES_19,
    CITYSCAPES_27,
    COCOSTUFF_27,
    MARINE,
    WATER,
    Classes,
)
from il2vseg.data.dataset import ClipPart, ImagePart, Part


@dataclass(frozen=True)
class Request:
    """What `open_dataset` was asked for.

    Attributes:
        name: the data set.
        root: its folder; None only for data sets that need none.
        split: which part of it.
        labelled: masks are needed; without it they are not even looked at.
        seed: of data sets that are generated.
    """

    name: str
    root: Path | None
    split: str
    labelled: bool
    seed: int

    @property
    def folder(self) -> Path:
        """The root, which must exist.

        Raises:
            UserError: no root given, or no such folder.
        """
        if self.root is None:
            raise UserError(f"--dataset {self.name} needs --root DIR, the folder that holds it")
        if not self.root.exists():
            raise UserError(f"{self.root}: no such folder")
        return self.root


@dataclass(frozen=True)
class Listing:
    """What a layout found."""

    classes: Classes
    parts: Sequence[Part]


Layout = Callable[[Request], Listing]


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _pair(
    request: Request, images: Sequence[Path], mask_of: Callable[[Path], Path], root: Path, classes: Classes
) -> list[ImagePart]:
    """Join images to their masks, which are only looked for when the request is labelled.

    Raises:
        UserError: a mask is missing.
    """
    masks = [mask_of(image) if request.labelled else None for image in images]
    missing = [mask for mask in masks if mask is not None and not mask.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(images)} masks of split '{request.split}' are missing "
            f"(first: {missing[0]}); evaluation needs a mask for every image"
        )
    return [ImagePart(_name(i, root), i, m, classes) for i, m in zip(images, masks, strict=True)]


def _some_images(folder: Path) -> list[Path]:
    images = list_files(folder, IMAGE_SUFFIXES)
    if not images:
        raise UserError(f"{folder}: holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return images


def _split_folder(request: Request, *, images: str = "images", masks: str = "masks") -> Path:
    """Return ROOT/SPLIT, which holds `images`, and `masks` when the request is labelled.

    Raises:
        UserError: no such split, or one without masks; the message lists the splits that would do.
    """
    root = request.folder
    needed = [images, masks] if request.labelled else [images]
    splits = sorted(p.parent.name for p in root.glob(f"*/{images}") if p.is_dir())
    usable = [s for s in splits if all((root / s / folder).is_dir() for folder in needed)]
    if request.split in usable:
        return root / request.split
    if not splits:
        raise UserError(f"{root}: no {request.name} data here; expected {root}/SPLIT/{images}")
    if request.split in splits:
        raise UserError(
            f"split '{request.split}' of {root} has no masks; with masks: {', '.join(usable) or 'none'}"
        )
    raise UserError(f"{root} has no split '{request.split}'; it has: {', '.join(usable or splits)}")


def folder(request: Request) -> Listing:
    """List any folder of images or clips, nested as it may be, or a single clip: no splits, no masks.

    Raises:
        UserError: the folder is missing or holds neither, or labels are asked for.
    """
    root = request.folder
    if request.labelled:
        raise UserError(
            "--dataset folder has no masks to score against; put them in ROOT/SPLIT/images and "
            "ROOT/SPLIT/masks (NAMEm.png, 0 obstacle, 1 water, 2 sky, 4 ignore) and use --dataset mastr1325"
        )
    if root.is_file():
        files, root = [root], root.parent
        if files[0].suffix.lower() not in FOOTAGE_SUFFIXES:
            raise UserError(f"{files[0]}: neither an image nor a clip, by its suffix")
    else:
        files = list_files(root, FOOTAGE_SUFFIXES)
    if not files:
        raise UserError(f"{root}: holds no image and no clip; give the folder that holds your footage")
    classes = Classes()
    parts: list[Part] = []
    for path in files:
        if is_clip_file(path):
            # A clip that cannot be opened still counts as one, so that it is reported as skipped.
            parts.append(ClipPart(_name(path, root), path, max(1, count_frames(path))))
        else:
            parts.append(ImagePart(_name(path, root), path, None, classes))
    return Listing(classes, parts)


def camvid(request: Request) -> Listing:
    """List ROOT/SPLIT/images/NAME.png and ROOT/SPLIT/masks/NAME.png; 11 classes, or 7 of `camvid7`."""
    classes = CAMVID_7 if request.name == "camvid7" else CAMVID
    base = _split_folder(request)
    images = _some_images(base / "images")
    parts = _pair(request, images, lambda i: base / "masks" / f"{i.stem}.png", base / "images", classes)
    return Listing(classes, parts)


def marine(request: Request) -> Listing:
    """List a marine set: ROOT/SPLIT/{images,masks}, or MaSTr1325 as released, `NAMEm.png` for `NAME.jpg`.

    A split whose name ends in `_water` has sky merged into "not water": its masks have two values.
    """
    if request.root is not None and any(p.is_dir() for p in request.folder.glob("*/images")):
        base = _split_folder(request)
        classes = WATER if request.split.endswith("_water") else MARINE
        images = _some_images(base / "images")
        parts = _pair(request, images, lambda i: base / "masks" / f"{i.stem}m.png", base / "images", classes)
        return Listing(classes, parts)
    if request.name == "intcatch":
        _split_folder(request)
    return _mastr1325_release(request)


def _mastr1325_release(request: Request) -> Listing:
    """List MaSTr1325 as its two archives unpack: 0001.jpg... and 0001m.png..., in one folder or in two.

    The release defines no split. `all` is all of it; `train` the first four fifths in natural order and
    `val` the rest, so that neighbouring frames of a drive are not shared; a file ROOT/SPLIT.txt with one
    name per line comes before either.

    Raises:
        UserError: no image here, another split, a mask or a listed image missing.
    """
    root = request.folder
    images = [p for p in list_files(root, frozenset({".jpg", ".jpeg"}))]
    if not images:
        raise UserError(
            f"{root}: no MaSTr1325 image (0001.jpg, ...) here; run python -m il2vseg.data.fetch mastr1325"
        )
    listed = root / f"{request.split}.txt"
    cut = len(images) * 4 // 5
    official = {"all": images, "train": images[:cut], "val": images[cut:]}
    if listed.is_file():
        by_stem = {p.stem: p for p in images}
        names = [Path(line.strip()).stem for line in listed.read_text().splitlines() if line.strip()]
        unknown = [name for name in names if name not in by_stem]
        if unknown:
            raise UserError(f"{listed}: lists {unknown[0]}, which is not below {root}")
        chosen = [by_stem[name] for name in names]
    elif request.split in official:
        chosen = official[request.split]
    else:
        raise UserError(
            f"{root} has no split '{request.split}'; it has: {', '.join(official)} (or add {listed})"
        )
    masks = {p.name: p for p in list_files(root, frozenset({".png"}))} if request.labelled else {}
    parts = _pair(
        request, chosen, lambda i: masks.get(f"{i.stem}m.png", i.with_name(f"{i.stem}m.png")), root, MARINE
    )
    return Listing(MARINE, parts)


def cityscapes(request: Request) -> Listing:
    """List Cityscapes: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine/SPLIT/CITY/*_gtFine_labelIds.png.

    `cityscapes` scores 27 classes, `cityscapes19` the 19 of the benchmark.
    """
    root, classes = request.folder, CITYSCAPES_19 if request.name == "cityscapes19" else CITYSCAPES_27
    base = _named_split(root / "leftImg8bit", request.split)

    def mask_of(image: Path) -> Path:
        name = image.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
        return root / "gtFine" / base.name / image.parent.name / name

    return Listing(classes, _pair(request, _some_images(base), mask_of, base, classes))


def cocostuff(request: Request) -> Listing:
    """List COCO-Stuff: images/SPLIT2017/ID.jpg, annotations/SPLIT2017/ID.png (stuff and things), 27 classes.

    Where curated/SPLIT2017/Coco164kFull_Stuff_Coarse_7.txt is there, as IIC ships it and PiCIE and STEGO
    use it, only the images that it lists are taken.
    """
    root = request.folder
    base = _named_split(root / "images", request.split, suffix="2017")
    images = _some_images(base)
    curated = root / "curated" / base.name / "Coco164kFull_Stuff_Coarse_7.txt"
    if curated.is_file():
        listed = set(curated.read_text().split())
        images = [image for image in images if image.stem in listed]
        if not images:
            raise UserError(f"{curated}: lists none of the images in {base}")
    masks = root / "annotations" / base.name
    parts = _pair(request, images, lambda i: masks / f"{i.stem}.png", base, COCOSTUFF_27)
    return Listing(COCOSTUFF_27, parts)


def _named_split(folder: Path, split: str, suffix: str = "") -> Path:
    """Return FOLDER/SPLIT or FOLDER/SPLIT+suffix.

    Raises:
        UserError: there is none; the message lists those that exist.
    """
    for name in (split, split + suffix):
        if (folder / name).is_dir():
            return folder / name
    found = sorted(p.name.removesuffix(suffix) for p in folder.glob("*") if p.is_dir())
    if not found:
        raise UserError(f"{folder}: no such folder, or nothing in it; is --root the data set's own folder?")
    raise UserError(f"{folder} has no split '{split}'; it has: {', '.join(found)}")
