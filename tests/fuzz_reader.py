"""A fuzz of the reader: clips of six codecs and pictures of five formats, damaged at random.

python -m tests.fuzz_reader FOLDER COUNT SEED
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from il2vseg.base.errors import UserError
from il2vseg.base.files import is_clip_file
from il2vseg.base.images import write_image
from il2vseg.base.media.clips import Clip
from il2vseg.data import open_dataset
from il2vseg.runtime.sources import open_source
from tests.footage import damage, numbered, write_clip

CLIPS = [
    ("libx264", "yuv420p", ".mp4"),
    ("libx265", "yuv420p10le", ".mp4"),
    ("libsvtav1", "yuv420p", ".mkv"),
    ("libvpx-vp9", "yuv420p", ".webm"),
    ("mjpeg", "yuvj420p", ".avi"),
    ("mpeg2video", "yuv420p", ".ts"),
]
PICTURES = [".jpg", ".png", ".webp", ".bmp", ".tif"]
FRAMES = 10


def originals(folder: Path) -> list[Path]:
    """Write one file of every kind."""
    files = []
    for codec, pix_fmt, suffix in CLIPS:
        path = folder / f"{codec}{suffix}"
        options = {"movflags": "faststart"} if suffix == ".mp4" else {}
        files.append(
            write_clip(path, FRAMES, codec=codec, pix_fmt=pix_fmt, fps=25, gop=5, container_options=options)
        )
    for suffix in PICTURES:
        write_image(folder / f"picture{suffix}", numbered(7))
        files.append(folder / f"picture{suffix}")
    return files


class Account:
    """What one way of reading a file came to: frames read, and reports of those that were not."""

    def __init__(self) -> None:
        self.read = 0
        self.reports: list[tuple[str, dict[str, Any]]] = []

    def report(self, kind: str, message: str, **data: Any) -> None:
        assert message
        self.reports.append((kind, data))

    @property
    def reported(self) -> int:
        counted = [data for kind, data in self.reports if kind not in ("frame_damaged", "clip_gap")]
        return sum((data.get("frames") or 0) + (data.get("missing") or 0) for data in counted)


def through_training(path: Path) -> Account:
    """Read a file as training, evaluation, naming and distillation do."""
    account = Account()
    try:
        dataset = open_dataset("folder", path, "train")
        for sample in dataset:
            assert sample.frame.dtype == np.uint8
            account.read += 1
        if dataset.lost:
            assert dataset.skipped, path
            account.report("skipped", dataset.skipped[0], frames=dataset.lost)
        assert account.read + dataset.lost == len(dataset), path
        if dataset.skipped:
            account.report("skipped", dataset.skipped[0])
    except UserError as error:
        account.report("refused", str(error))
    return account


def through_labelling(path: Path) -> Account:
    """Read a file as labelling does."""
    account = Account()
    if not is_clip_file(path):
        return through_runtime(path)
    try:
        with Clip(path, account.report) as clip:
            for _ in clip:
                account.read += 1
            if clip.promised is not None:
                assert clip.read + clip.lost >= clip.promised, path
            assert clip.read == account.read
            assert account.reported == clip.lost, path
    except UserError as error:
        account.report("refused", str(error))
    return account


def through_runtime(path: Path) -> Account:
    """Read a file as il2vseg-run does."""
    account = Account()
    try:
        with open_source(path, report=account.report) as source:
            indices = [captured.index for captured in source]
            account.read = len(indices)
            assert indices == sorted(set(indices))
            assert account.read or source.skipped, path
            assert bool(account.reports) >= bool(source.skipped), path
    except UserError as error:
        account.report("refused", str(error))
    return account


def fuzz(folder: Path, count: int, seed: int) -> tuple[int, int, int]:
    """Read `count` damaged files in three ways; return how many were whole, read in part, refused.

    Raises:
        AssertionError: a file lost frames and nothing said so, or the ways of reading disagree.
    """
    rng = np.random.default_rng(seed)
    whole = originals(folder)
    counts = [0, 0, 0]
    for number in range(count):
        original = whole[number % len(whole)]
        path = folder / f"damaged-{number:04d}{original.suffix}"
        kind, data = damage(original.read_bytes(), rng)
        path.write_bytes(data)
        accounts = [through_training(path), through_labelling(path), through_runtime(path)]
        read = {account.read for account in accounts}
        assert len(read) == 1, f"{path}: {[account.read for account in accounts]} frames"
        for account in accounts:
            # What has frames in its original and not here must have been said. A transport stream that is
            # cut off is a shorter one.
            promised = FRAMES if is_clip_file(path) else 1
            told = account.reports or account.read >= promised or (path.suffix, kind) == (".ts", "cut")
            assert told, f"{path} ({kind}): {account.read} frames and no word"
        silent = not accounts[1].reports
        counts[0 if silent else 1 if accounts[1].read else 2] += 1
        path.unlink()
    return counts[0], counts[1], counts[2]


if __name__ == "__main__":
    print(*fuzz(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
