"""Recorded sources: images and clips. They never lose a frame that can be decoded, and report the others."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from il2vseg.base.errors import UserError
from il2vseg.base.files import is_clip_file
from il2vseg.base.images import read_picture
from il2vseg.base.media.clips import Clip, Picture
from il2vseg.base.outputs import frame_names
from il2vseg.runtime.sources.base import Captured, Report, Source

IMAGE_S = 0.1
"""Seconds that an image takes in a video."""


@dataclass
class _File:
    """A file, what its frames are named after, and its clip where that is open already."""

    path: Path
    name: str
    clip: Clip | None = None


class RecordedSource(Source):
    """Images and clips in the given order.

    An image's frame is named after its file, relative to the root; frames of a clip are frame_000042, below
    the clip's name where there are several files. Events: those of `Clip`, and frame_unreadable and
    clip_unreadable for files that cannot be read at all.
    """

    def __init__(self, files: Sequence[Path], root: Path, report: Report) -> None:
        """Take files below `root`.

        Raises:
            UserError: they are clips, and not one of them can be opened.
        """
        self._report = report
        names = frame_names(files, root)
        self._files = [_File(path, name) for path, name in zip(files, names, strict=True)]
        self._several = len(files) > 1
        self._deep = False
        self._index = 0
        self._timeline = 0.0
        self._frames = self._all()
        if not files:
            return
        if any(not is_clip_file(file) for file in files):
            self.total = None if any(map(is_clip_file, files)) else len(files)
        else:
            self._describe(self._first_clip())

    @classmethod
    def of_clip(cls, clip: Clip, report: Report) -> "RecordedSource":
        """Take a clip that is open already, behind an address for one."""
        source = cls((), Path(), report)
        source._files = [_File(Path(clip.name), "", clip)]
        source._describe(clip)
        return source

    def _describe(self, clip: Clip) -> None:
        self.fps, self.total = clip.fps, None if self._several else clip.promised

    def _first_clip(self) -> Clip:
        """Open the first clip that can be opened, and leave out those before it."""
        failures: list[UserError] = []
        while self._files:
            try:
                self._files[0].clip = Clip(self._files[0].path, self._report)
            except UserError as error:
                failures.append(error)
                self._pass_over("clip_unreadable", self._files.pop(0), error)
            else:
                return self._files[0].clip
        more = f" (nor can {len(failures) - 1} other files be read)" if self._several else ""
        raise UserError(f"{failures[0]}{more}")

    def _pass_over(self, kind: str, file: _File, error: UserError) -> None:
        self.skipped += 1
        self._report(kind, str(error), file=str(file.path))

    def read(self) -> Captured | None:
        return next(self._frames, None)

    def _all(self) -> Iterator[Captured]:
        for file in self._files:
            yield from self._of_clip(file) if file.clip or is_clip_file(file.path) else self._of_image(file)

    def _of_image(self, file: _File) -> Iterator[Captured]:
        start = time.perf_counter()
        self._index += 1
        try:
            frame, bits = read_picture(file.path)
        except UserError as error:
            self._pass_over("frame_unreadable", file, error)
            return
        elapsed = 1e3 * (time.perf_counter() - start)
        if bits > 8 and not self._deep:
            self._deep = True
            message = f"{file.path}: 16-bit samples of which {bits} bits are used; scaled to 8 bits"
            self._report("deep_image", message, file=str(file.path), bits=bits)
        yield Captured(frame, self._index - 1, file.name, elapsed, timeline_s=self._timeline)
        self._timeline += IMAGE_S

    def _of_clip(self, file: _File) -> Iterator[Captured]:
        try:
            clip = file.clip or Clip(file.path, self._report)
        except UserError as error:
            self._pass_over("clip_unreadable", file, error)
            return
        first, begin, skipped = self._index, self._timeline, self.skipped
        prefix = f"{file.name}/" if self._several else ""
        with clip:
            pictures = clip.pictures()
            while (picture := self._next(pictures, clip)) is not None:
                self.skipped = skipped + clip.lost
                self.damaged += picture.damaged
                self._timeline = begin + picture.seconds
                yield Captured(
                    picture.frame,
                    first + picture.number,
                    f"{prefix}frame_{picture.number:06d}",
                    self._read_ms,
                    position_s=picture.seconds,
                    timeline_s=self._timeline,
                    recorded=None if clip.recorded is None else clip.recorded + picture.seconds,
                )
        self.skipped = skipped + max(clip.lost, not clip.read)
        self._index = first + clip.read + clip.lost
        self._timeline += 1 / clip.fps if clip.fps else IMAGE_S

    def _next(self, pictures: Iterator[Picture], clip: Clip) -> Picture | None:
        start = time.perf_counter()
        try:
            return next(pictures, None)
        except UserError as error:
            self._report("clip_unreadable", str(error), file=clip.name)
            return None
        finally:
            self._read_ms = 1e3 * (time.perf_counter() - start)

    def close(self) -> None:
        self._frames = iter(())
        for file in self._files:
            if file.clip is not None:
                file.clip.close()
        self._files = []
