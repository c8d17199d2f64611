"""Samples, the parts that a data set is made of, and the data set that iterates over them."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np

from il2vseg.base.errors import UserError
from il2vseg.base.ignore import IGNORED, IgnoreMask
from il2vseg.base.images import Frame, Labels, read_frame, read_labels, resize_labels
from il2vseg.base.media.clips import Clip
from il2vseg.data.classes import Classes, Color

RangeAt = Callable[[float, float], float | None]
"""Metres from the camera to the water at a column and row of an image, None above the horizon."""


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    Attributes:
        name: path below the root without its suffix; a clip's frame is `CLIP/FRAME`.
        frame: BGR (H, W, 3) uint8.
        labels: class ids (H', W') uint8 at the mask's own size, 255 = ignore; None without masks.
        seconds: of a clip's frame, its time after the clip's start; None of images.
        range_at: ranges in a frame whose camera is known, and whose labels have its size; else None.
    """

    name: str
    frame: Frame
    labels: Labels | None = None
    seconds: float | None = None
    range_at: RangeAt | None = None


class UnreadableError(Exception):
    """An image, mask or clip that cannot be decoded, or not all of it: the data set goes on and says so."""


class Part(Protocol):
    """A piece of a data set that is read in one go: one image, or one clip."""

    @property
    def name(self) -> str:
        """What to call the part where it cannot be read."""
        ...

    @property
    def count(self) -> int:
        """Number of samples in it."""
        ...

    def read(self, wanted: Sequence[int]) -> Iterator[Sample]:
        """Yield the samples with the `wanted` indices (ascending, below `count`).

        Raises:
            UnreadableError: the file, or a part of it, cannot be decoded; after what can be.
        """
        ...


@dataclass(frozen=True)
class ImagePart:
    """An image file, with its mask where the data set is opened with labels."""

    name: str
    image: Path
    mask: Path | None
    classes: Classes

    @property
    def count(self) -> int:
        return 1

    def read(self, wanted: Sequence[int]) -> Iterator[Sample]:
        """Yield the image: see `Part.read`."""
        try:
            frame = read_frame(self.image)
            mask = None if self.mask is None else read_labels(self.mask)
        except UserError as error:
            raise UnreadableError(str(error)) from None
        labels = None if mask is None else self.classes.decode(mask, str(self.mask))
        yield Sample(self.name, frame, labels)


@dataclass(frozen=True)
class ClipPart:
    """A video file, decoded from its start: seeking is not exact in every container."""

    name: str
    path: Path
    count: int

    def read(self, wanted: Sequence[int]) -> Iterator[Sample]:
        """Yield frames: see `Part.read`. What is damaged or missing is reported after the others."""
        faults: list[str] = []
        try:
            with Clip(self.path, lambda kind, message, **data: faults.append(message)) as clip:
                # All of it: to its end, where the account is settled.
                for picture in clip.pictures(None if len(wanted) == self.count else wanted):
                    name = f"{self.name}/{picture.number:06d}"
                    yield Sample(name, picture.frame, seconds=picture.seconds)
        except UserError as error:
            faults.append(str(error))
        if faults:
            raise UnreadableError("; ".join(faults))


@dataclass(frozen=True)
class MaskedPart:
    """Another part, without labels on what belongs to the own vessel."""

    inner: Part
    ignore: IgnoreMask

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def count(self) -> int:
        return self.inner.count

    def read(self, wanted: Sequence[int]) -> Iterator[Sample]:
        """Yield samples: see `Part.read`.

        Raises:
            UserError: a frame has another shape than the mask.
        """
        for sample in self.inner.read(wanted):
            own = self.ignore.pixels(sample.frame.shape)
            if sample.labels is None:
                yield sample
                continue
            own = resize_labels(own.view(np.uint8), sample.labels.shape[:2]) > 0
            yield replace(sample, labels=np.where(own, np.uint8(IGNORED), sample.labels))


Crop = Literal["none", "center", "five"]
"""How the literature fits images to a model: the whole image, its central square, or five crops of half
its height and width (the corners and the centre), each a sample of its own."""

_Image = TypeVar("_Image", Frame, Labels)


def _crop(image: _Image, crop: Crop, index: int) -> _Image:
    """Cut the crop number `index` out of a frame (H, W, 3) or labels (H, W)."""
    height, width = image.shape[:2]
    rows, columns = (height // 2, width // 2) if crop == "five" else (min(height, width),) * 2
    low, right = height - rows, width - columns
    center = (low // 2, right // 2)
    top, left = ((0, 0), (0, right), (low, 0), (low, right), center)[index] if crop == "five" else center
    return np.ascontiguousarray(image[top : top + rows, left : left + columns])


@dataclass(frozen=True)
class CroppedPart:
    """Another part, every sample of it cut into one crop or five."""

    inner: Part
    crop: Crop

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def crops(self) -> int:
        """Crops of one image."""
        return 5 if self.crop == "five" else 1

    @property
    def count(self) -> int:
        return self.crops * self.inner.count

    def read(self, wanted: Sequence[int]) -> Iterator[Sample]:
        """Yield crops: see `Part.read`."""
        images = {image: list(crops) for image, crops in groupby(wanted, lambda index: index // self.crops)}
        for sample, indices in zip(self.inner.read(list(images)), images.values(), strict=False):
            for index in indices:
                number = index % self.crops
                yield replace(
                    sample,
                    name=f"{sample.name}/{number}" if self.crops > 1 else sample.name,
                    frame=_crop(sample.frame, self.crop, number),
                    labels=None if sample.labels is None else _crop(sample.labels, self.crop, number),
                    range_at=None,
                )


def spread(total: int, limit: int) -> list[int]:
    """Return `limit` indices below `total` at even distances (all of them when limit >= total)."""
    if limit >= total:
        return list(range(total))
    return [(2 * i + 1) * total // (2 * limit) for i in range(limit)]


Shape = tuple[int, int]
"""Height and width."""

LOOKED_AT = 64
SAME_ASPECT = 0.05
"""Aspects that differ by less are one: the input is rounded to whole patches."""


class Dataset:
    """Samples in a fixed order; iterate over it as often as you like.

        for sample in open_dataset("folder", Path("footage"), "train", limit=500):
            show(sample.name, sample.frame)

    Attributes:
        name: the registry's name, `intcatch` for one.
        class_names: () where the data set defines no classes.
        palette: one RGB colour per class.
        skipped: what could not be read in the last iteration, one line per file.
        lost: how many samples were not read in it, though counted.
        shapes: (height, width) of the frames that were read, and how many have it.
    """

    lost: int = 0

    def __init__(self, name: str, classes: Classes, parts: Sequence[Part], limit: int | None = None):
        """Make a data set of `parts`, thinned evenly to at most `limit` samples."""
        self.name = name
        self.class_names: tuple[str, ...] = classes.names
        self.palette: tuple[Color, ...] = classes.palette
        self.skipped: list[str] = []
        self.shapes: Counter[Shape] = Counter()
        total = sum(part.count for part in parts)
        chosen = spread(total, total if limit is None else limit)
        self._length = len(chosen)
        self._whole = True
        self._plan: list[tuple[Part, list[int]]] = []
        start = position = 0
        for part in parts:
            end = start + part.count
            wanted = []
            while position < len(chosen) and chosen[position] < end:
                wanted.append(chosen[position] - start)
                position += 1
            if wanted:
                self._plan.append((part, wanted))
            start = end

    def share(self, index: int, count: int) -> "Dataset":
        """Return the `index`-th of `count` consecutive parts; it may be empty, or hold nothing readable.

        For processes that read a data set together: the parts in their order are the whole.
        """
        return self.only(range(len(self) * index // count, len(self) * (index + 1) // count))

    def only(self, chosen: Sequence[int]) -> "Dataset":
        """Return the samples with the indices `chosen` (ascending), nothing else is read; it may be empty, or
        hold nothing readable."""
        some = copy(self)
        some.skipped, some._plan, some._whole, some._length = [], [], False, len(chosen)
        some.lost, some.shapes = 0, Counter()
        position = 0
        for part, wanted in self._plan:
            low, high = (bisect_left(chosen, end) for end in (position, position + len(wanted)))
            if low < high:
                some._plan.append((part, [wanted[i - position] for i in chosen[low:high]]))
            position += len(wanted)
        return some

    @property
    def names(self) -> list[str]:
        """Names of its images and clips, in their order."""
        return [part.name for part, _ in self._plan]

    def __len__(self) -> int:
        """Number of samples, counting those that will turn out to be unreadable."""
        return self._length

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples in order.

        Raises:
            UserError: not one of them can be read, or a mask holds a value that is no class.
        """
        self.skipped, self.lost = [], 0
        self.shapes = Counter()
        yielded = 0
        for part, wanted in self._plan:
            try:
                for sample in part.read(wanted):
                    yielded += 1
                    self.shapes[sample.frame.shape[:2]] += 1
                    yield sample
            except UnreadableError as error:
                self.skipped.append(str(error))
        self.lost = len(self) - yielded
        if not yielded and self._whole:
            raise UserError(f"none of {len(self)} images could be read (first: {self.skipped[0]})")

    def common_shape(self) -> Shape:
        """Return the (height, width) that most frames have, by a look at LOOKED_AT files at most.

        Raises:
            UserError: not one of them can be read.
        """
        looked_at = [self._plan[i] for i in spread(len(self._plan), LOOKED_AT)]
        if not any(isinstance(part, ImagePart | ClipPart) for part, _ in looked_at):
            looked_at = looked_at[:1]  # rendered or cut to one size
        found: Counter[Shape] = Counter()
        for part, wanted in looked_at:
            with suppress(UnreadableError):
                for sample in part.read(wanted[:1]):
                    found[sample.frame.shape[:2]] += len(wanted)
        return found.most_common(1)[0][0] if found else next(iter(self)).frame.shape[:2]

    def shape_note(self, shape: Shape) -> str | None:
        """Return a line about frames that were read and have another aspect than `shape`, else None."""
        aspect = shape[1] / shape[0]
        other = {s: n for s, n in self.shapes.items() if abs(s[1] / s[0] / aspect - 1) > SAME_ASPECT}
        if not other:
            return None
        (height, width), _ = max(other.items(), key=lambda item: item[1])
        return (
            f"{sum(other.values())} of {self.shapes.total()} frames have another aspect and are stretched "
            f"to {shape[1]}x{shape[0]}, most of them from {width}x{height}"
        )

    def skipped_note(self) -> str | None:
        """Return the one line to print at the end of a command when something was skipped, else None."""
        if not self.skipped:
            return None
        more = "" if len(self.skipped) == 1 else f" and {len(self.skipped) - 1} more"
        return f"skipped {self.lost} of {len(self)} images: {self.skipped[0]}{more}"
