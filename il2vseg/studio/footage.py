"""Some frames of the footage, kept small in the project: what the page shows, by number and never by path."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from il2vseg.base.errors import UserError
from il2vseg.base.files import write_bytes, write_json
from il2vseg.base.images import Frame, encode_jpeg, read_frame, resize_frame
from il2vseg.studio.project import Footage

if TYPE_CHECKING:
    from il2vseg.data import Dataset

SAMPLE = 120
"""Frames that are kept, evenly spread: what naming looks at."""

CHECKED = 1000
"""Frames that are read once to see which cannot be."""

WIDTH = 960
QUALITY = 88
INDEX_NAME = "sample.json"


def open_footage(footage: Footage, limit: int | None = None, match: str | None = None) -> "Dataset":
    """The frames, as every command opens them.

    Raises:
        UserError: there are none.
    """
    from il2vseg.base.ignore import IgnoreMask
    from il2vseg.data import open_dataset

    ignore = IgnoreMask.of(footage.ignore_mask)
    return open_dataset(footage.dataset, footage.root, footage.split, limit=limit, ignore=ignore, match=match)


@dataclass(frozen=True)
class Sample:
    """The frames kept.

    Attributes:
        total: frames in the footage. names: of those kept. checked: how many were read to find the
            unreadable ones. unreadable: one line per file.
    """

    folder: Path
    total: int
    names: tuple[str, ...]
    checked: int
    unreadable: tuple[str, ...]

    def frame(self, index: int) -> Frame:
        """A frame, at most WIDTH columns wide.

        Raises:
            UserError: there is no such number.
        """
        if not 0 <= index < len(self.names):
            raise UserError(f"there is no frame {index}")
        return read_frame(self.folder / f"{index:04d}.jpg")


def _fitted(frame: Frame, width: int) -> Frame:
    height = max(1, round(frame.shape[0] * width / frame.shape[1]))
    return frame if frame.shape[1] <= width else resize_frame(frame, (height, width))


def small(frame: Frame, width: int) -> bytes:
    """A frame as JPEG, at most so wide."""
    return encode_jpeg(_fitted(frame, width), 80)


def load_sample(folder: Path, footage: Footage) -> Sample | None:
    """The frames that were kept before; None where there are none of this footage."""
    try:
        values: dict[str, Any] = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
        if values["footage"] != footage.flags():
            return None
        return Sample(
            folder, values["total"], tuple(values["names"]), values["checked"], tuple(values["unreadable"])
        )
    except (OSError, ValueError, KeyError):
        return None


def _save(sample: Sample, footage: Footage) -> None:
    values = {
        "footage": footage.flags(),
        "total": sample.total,
        "names": list(sample.names),
        "checked": sample.checked,
        "unreadable": list(sample.unreadable),
    }
    write_json(sample.folder / INDEX_NAME, values)


def _relative(text: str, footage: Footage) -> str:
    """A message without the folder that the footage lies in."""
    return text if footage.root is None else text.replace(f"{footage.root}/", "")


def take_sample(folder: Path, footage: Footage, progress: Callable[[int, int], None]) -> Sample:
    """Read frames, evenly spread, and keep them.

    Args:
        progress: told (done, total).
    Raises:
        UserError: there are none, or none can be read.
    """
    total = len(open_footage(footage))
    dataset = open_footage(footage, SAMPLE)
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    for sample in dataset:
        write_bytes(folder / f"{len(names):04d}.jpg", encode_jpeg(_fitted(sample.frame, WIDTH), QUALITY))
        names.append(sample.name)
        progress(len(names), len(dataset))
    skipped = tuple(_relative(line, footage) for line in dataset.skipped)
    found = Sample(folder, total, tuple(names), len(dataset), skipped)
    _save(found, footage)
    return found


def check_rest(sample: Sample, footage: Footage, progress: Callable[[int, int], None]) -> Sample:
    """Read up to CHECKED frames to find those that cannot be."""
    if sample.checked >= min(sample.total, CHECKED):
        return sample
    dataset = open_footage(footage, CHECKED)
    for done, _ in enumerate(dataset, 1):
        progress(done, len(dataset))
    skipped = tuple(_relative(line, footage) for line in dataset.skipped)
    found = Sample(sample.folder, sample.total, sample.names, len(dataset), skipped)
    _save(found, footage)
    return found
