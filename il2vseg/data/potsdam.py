"""ISPRS Potsdam: orthophotos cut into blocks, three classes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.base.files import list_files
from il2vseg.base.images import Labels
from il2vseg.data.classes import IGNORE, POTSDAM_3
from il2vseg.data.dataset import Part, Sample, UnreadableError, spread
from il2vseg.data.layouts import Listing, Request

_BLOCKS = 15
_BLOCK = 400
_VAL_SHARE = 0.1
_TIFF = frozenset({".tif", ".tiff"})


def decode_potsdam(picture: NDArray[np.uint8]) -> Labels:
    """Turn the colours of an ISPRS label picture, BGR (H, W, 3), into the ids of POTSDAM_3 (H, W).

    The colours are corners of the RGB cube: white impervious surfaces, blue buildings, cyan low vegetation,
    green trees, yellow cars, red clutter. Single pixels of the release are a little off, hence the threshold;
    black and magenta mean nothing and are ignored.
    """
    high = picture > 127
    corner = high[..., 2] * 4 + high[..., 1] * 2 + high[..., 0] * 1  # red, green, blue bits
    roads, buildings, plants = 0, 1, 2
    #                 black,  blue,      green,  cyan,   red,       magenta, yellow, white
    table = np.array([IGNORE, buildings, plants, plants, buildings, IGNORE, roads, roads], np.uint8)
    return np.asarray(table[corner], dtype=np.uint8)


@dataclass(frozen=True)
class _PotsdamPart:
    """Blocks of one 6000x6000 orthophoto: 15x15 blocks of 400 pixels, shrunk to 200."""

    name: str
    image: Path
    mask: Path | None
    blocks: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.blocks)

    def read(self, wanted: Sequence[int]) -> Iterator[Sample]:
        """Yield blocks: see `Part.read`. The orthophoto is read once."""
        picture = _read_picture(self.image)
        labels = None if self.mask is None else decode_potsdam(_read_picture(self.mask)[::2, ::2])
        half = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_LINEAR)
        step = _BLOCK // 2
        for index in wanted:
            row, column = divmod(self.blocks[index], _BLOCKS)
            window = np.s_[row * step : (row + 1) * step, column * step : (column + 1) * step]
            frame = np.ascontiguousarray(half[window], dtype=np.uint8)
            block = None if labels is None else np.ascontiguousarray(labels[window])
            yield Sample(f"{self.name}/{row:02d}_{column:02d}", frame, block)


def _read_picture(path: Path) -> NDArray[np.uint8]:
    # Unchanged: a fourth channel, infrared, must not be taken for transparency.
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 3 or picture.dtype != np.uint8:
        raise UnreadableError(f"{path}: not a readable 8-bit colour picture")
    return np.asarray(picture[..., :3], dtype=np.uint8)


def potsdam(request: Request) -> Listing:
    """List ISPRS Potsdam, 3 classes, cut as by IIC.

    Layout of the release: 2_Ortho_RGB/*_RGB.tif or 4_Ortho_RGBIR/*_RGBIR.tif, and 5_Labels*/*_label.tif
    for 24 of the 38 orthophotos. `val` is a tenth of all blocks, evenly spread over the labelled ones (IIC
    draws as many at random), `train` everything else, `all` everything. Where IIC's own blocks are there
    (imgs/N.mat, gt/N.mat and its lists), they and its split are taken instead.

    Raises:
        UserError: no orthophoto here, another split, or blocks without labels asked for with labels.
    """
    root = request.folder
    splits = ("train", "val", "all")
    if request.split not in splits:
        raise UserError(f"{root} has no split '{request.split}'; it has: {', '.join(splits)}")
    if (root / "labelled_test.txt").is_file():
        return Listing(POTSDAM_3, _potsdam_prepared(request, root))
    photos = list_files(root / "2_Ortho_RGB", _TIFF) if (root / "2_Ortho_RGB").is_dir() else []
    if not photos and (root / "4_Ortho_RGBIR").is_dir():
        photos = list_files(root / "4_Ortho_RGBIR", _TIFF)
    if not photos:
        raise UserError(
            f"{root}: no orthophoto here; expected {root}/2_Ortho_RGB/top_potsdam_2_10_RGB.tif, ..."
        )
    labels = {p.name: p for folder in sorted(root.glob("5_Labels*")) for p in list_files(folder, _TIFF)}
    masks = [labels.get(f"{photo.stem.rsplit('_', 1)[0]}_label.tif") for photo in photos]
    every = [(i, block) for i in range(len(photos)) for block in range(_BLOCKS**2)]
    labelled = [pair for pair in every if masks[pair[0]] is not None]
    val = {labelled[i] for i in spread(len(labelled), round(_VAL_SHARE * len(every)))} if labelled else set()
    chosen = {"all": set(every), "val": val, "train": set(every) - val}[request.split]
    if request.labelled:
        chosen &= set(labelled)
        if not chosen:
            raise UserError(
                f"{root}: no label of split '{request.split}' here; expected {root}/5_Labels_all/*.tif"
            )
    parts = []
    for i, (photo, mask) in enumerate(zip(photos, masks, strict=True)):
        blocks = tuple(block for block in range(_BLOCKS**2) if (i, block) in chosen)
        if blocks:
            parts.append(_PotsdamPart(photo.stem, photo, mask if request.labelled else None, blocks))
    return Listing(POTSDAM_3, parts)


@dataclass(frozen=True)
class _MatPart:
    """One block of IIC's preparation, in MATLAB files; six classes in the masks."""

    name: str
    image: Path
    mask: Path | None
    count: int = 1

    def read(self, wanted: Sequence[int]) -> Iterator[Sample]:
        """Yield the block: see `Part.read`."""
        frame = np.ascontiguousarray(_read_mat(self.image, "img")[..., 2::-1], dtype=np.uint8)
        labels = None
        if self.mask is not None:
            # roads, buildings, vegetation, trees, cars, clutter
            labels = np.array([0, 1, 2, 2, 0, 1], np.uint8)[_read_mat(self.mask, "gt")]
        yield Sample(self.name, frame, labels)


def _read_mat(path: Path, key: str) -> NDArray[Any]:
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(path)[key])
    except (OSError, ValueError, KeyError) as error:
        raise UnreadableError(f"{path}: not a readable MATLAB file ({error})") from None


def _potsdam_prepared(request: Request, root: Path) -> list[Part]:
    lists = {"val": ["labelled_test"], "train": ["labelled_train", "unlabelled_train"]}
    lists["all"] = [*lists["val"], *lists["train"]]
    parts: list[Part] = []
    for name in lists[request.split]:
        listing = root / f"{name}.txt"
        if (request.labelled and name.startswith("unlabelled")) or not listing.is_file():
            continue
        for block in listing.read_text().split():
            mask = root / "gt" / f"{block}.mat" if request.labelled else None
            parts.append(_MatPart(block, root / "imgs" / f"{block}.mat", mask))
    if not parts:
        raise UserError(f"{root}: the lists of split '{request.split}' are missing or empty")
    return parts
