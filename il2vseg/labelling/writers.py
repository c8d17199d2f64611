"""Labels as files: one PNG per frame, or runs of class ids in one Parquet file per image or clip."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Labels, encode_labels
from il2vseg.data.archive import Place, is_clip

FRAMES_A_GROUP = 256
"""Frames in a row group of a Parquet file."""


def run_lengths(labels: Labels) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Runs of equal class ids of (H, W) labels, row after row: their values and lengths."""
    flat = labels.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return flat[starts], np.diff(starts, append=flat.size).astype(np.uint32)


def labels_of_runs(values: Any, lengths: Any, size: tuple[int, int]) -> Labels:
    """Labels (H, W) of the runs that `run_lengths` made."""
    return np.repeat(np.asarray(values, np.uint8), np.asarray(lengths)).reshape(size)


class PngWriter:
    """SOURCE.png for an image, SOURCE/000000.png … for the frames of a clip."""

    def __init__(self, out: Place, source: str) -> None:
        self._out, self._source = out, source
        self.name = f"labels/{source}" if is_clip(source) else f"labels/{source}.png"

    def add(self, number: int, labels: Labels, seconds: float | None) -> None:
        """Write the labels of a frame."""
        name = f"{self.name}/{number:06d}.png" if is_clip(self._source) else self.name
        self._out.put(name, encode_labels(labels))

    def close(self) -> None:
        """All frames are written already."""


class RunWriter:
    """SOURCE.parquet: a row per frame with its number, its time in the clip, its size, and its runs."""

    def __init__(self, out: Place, source: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.name = f"labels/{source}.parquet"
        self._out = out
        runs = [pa.field("values", pa.list_(pa.uint8())), pa.field("lengths", pa.list_(pa.uint32()))]
        numbers = [pa.field(n, pa.int32()) for n in ("frame", "height", "width")]
        self._schema = pa.schema([*numbers, pa.field("seconds", pa.float64()), *runs])
        self._buffer = io.BytesIO()
        self._writer: Any = pq.ParquetWriter(self._buffer, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def add(self, number: int, labels: Labels, seconds: float | None) -> None:
        """Keep the labels of a frame."""
        values, lengths = run_lengths(labels)
        height, width = labels.shape
        row = {"frame": number, "seconds": seconds, "height": height, "width": width}
        self._rows.append(row | {"values": values, "lengths": lengths})
        if len(self._rows) == FRAMES_A_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()

    def close(self) -> None:
        """Write the file."""
        if self._rows:
            self._flush()
        self._writer.close()
        self._out.put(self.name, self._buffer.getvalue())


WRITERS: dict[str, type[PngWriter] | type[RunWriter]] = {"png": PngWriter, "rle": RunWriter}
