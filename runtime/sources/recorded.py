"""Recorded sources: images and clips. They never lose a frame that can be decoded."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from il2vseg.base.errors import UserError
from il2vseg.base.images import read_frame
from il2vseg.base.outputs import frame_names
from il2vseg.runtime.sources.base import Captured, Report, Source


class ImageSource(Source):
    """Image files in the given order; an unreadable one is reported, counted and passed over."""

    def __init__(self, files: Sequence[Path], root: Path, report: Report) -> None:
        """Take files below `root`; a frame is named after its file, relative to `root`."""
        self.total = len(files)
        self._report = report
        self._queue = list(zip(files, frame_names(files, root), strict=True))
        self._index = 0

    def read(self) -> Captured | None:
        while self._index < len(self._queue):
            file, name = self._queue[self._index]
            self._index += 1
            start = time.perf_counter()
            try:
                frame = read_frame(file)
            except UserError as error:
                self.skipped += 1
                self._report("frame_unreadable", str(error), file=str(file))
                continue
            return Captured(frame, self._index - 1, name, 1e3 * (time.perf_counter() - start))
        return None

    def close(self) -> None:
        self._queue = self._queue[: self._index]


class ClipSource(Source):
    """Video files, one after another; frames that do not decode are counted and passed over."""

    def __init__(self, clips: Sequence[Path], root: Path, report: Report) -> None:
        """Take clips below `root`.

        Raises:
            UserError: none of them can be opened.
        """
        self._report = report
        self._clips = list(zip(clips, frame_names(clips, root), strict=True))
        self._several = len(clips) > 1
        self._index = 0
        self._open: tuple[Any, str, int] | None = None  # capture, prefix of names, number of the next frame
        if not self._next_clip():
            raise UserError(f"{clips[0]}: not a readable video")
        assert self._open is not None
        capture = self._open[0]
        rate, count = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.fps = rate if 0 < rate < 1000 else None
        self.total = count if count > 0 and not self._several else None

    def _next_clip(self) -> bool:
        while self._clips:
            clip, name = self._clips.pop(0)
            # FFmpeg takes what stands before a colon of a relative path for a protocol.
            capture = cv2.VideoCapture(str(clip.absolute()), cv2.CAP_FFMPEG)
            if capture.isOpened():
                self._open = (capture, f"{name}/" if self._several else "", 0)
                return True
            self.skipped += 1
            self._report("clip_unreadable", f"{clip}: not a readable video", file=str(clip))
        self._open = None
        return False

    def read(self) -> Captured | None:
        while self._open is not None:
            capture, prefix, number = self._open
            start = time.perf_counter()
            if not capture.grab():
                capture.release()
                self._next_clip()
                continue
            self._open = (capture, prefix, number + 1)
            self._index += 1
            ok, frame = capture.retrieve()
            if not ok or frame is None:
                self.skipped += 1
                self._report("frame_unreadable", f"frame {number} of the clip does not decode", index=number)
                continue
            elapsed = 1e3 * (time.perf_counter() - start)
            return Captured(
                np.asarray(frame, dtype=np.uint8), self._index - 1, f"{prefix}frame_{number:06d}", elapsed
            )
        return None

    def close(self) -> None:
        self._clips.clear()
        if self._open is not None:
            self._open[0].release()
            self._open = None
