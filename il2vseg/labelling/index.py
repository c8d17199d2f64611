"""What is labelled already: a Parquet file with a row per file of the archive."""

import io
import time
from collections.abc import Iterable
from typing import Any

from il2vseg.base.errors import UserError
from il2vseg.data.archive import Place

INDEX = "index.parquet"
PARTS = "index.parts"
FLUSH_S = 5.0
"""Seconds after which finished files are on disk."""


def index_schema() -> Any:
    """Columns of the index; a row is a file of the archive.

    source: its name below the archive. labels: file or folder of its labels below --out, null if it could
    not be read. frames, height, width. fractions: share of every class, mean over the frames. seconds,
    worker, provider: how it was made. error: why it could not be read, else null.
    note: which frames of it could not be read, or are damaged, else null.
    """
    import pyarrow as pa

    return pa.schema(
        [
            ("source", pa.string()),
            ("labels", pa.string()),
            ("frames", pa.int32()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("fractions", pa.list_(pa.float32())),
            ("seconds", pa.float32()),
            ("worker", pa.string()),
            ("provider", pa.string()),
            ("error", pa.string()),
            ("note", pa.string()),
        ]
    )


class Index:
    """OUT/index.parquet, one row per source. Parts beside it hold what a run has done so far."""

    def __init__(self, out: Place) -> None:
        """Read what is done and merge the parts that a killed run left."""
        self._out = out
        parts = out.names(PARTS)
        self.rows: dict[str, dict[str, Any]] = {}
        for name in ([INDEX] if out.is_file(INDEX) else []) + parts:
            self._take(self._read(name))
        self._fresh: list[dict[str, Any]] = []
        self._flushed = time.monotonic()
        if parts:
            self._merge()

    def _read(self, name: str) -> list[dict[str, Any]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(pa.BufferReader(self._out.get(name)))
        except pa.ArrowException as error:
            raise UserError(f"{self._out.path(name)}: not a readable index ({error})") from None
        if not {"source", "labels", "error"} <= set(table.column_names):
            raise UserError(f"{self._out.path(name)}: no index of labels; choose another --out")
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def _take(self, rows: Iterable[dict[str, Any]]) -> None:
        self.rows |= {row["source"]: row for row in rows}

    @property
    def done(self) -> set[str]:
        """Sources whose labels are written."""
        return {source for source, row in self.rows.items() if row["error"] is None}

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Record finished sources; they are on disk after FLUSH_S seconds or `close`."""
        self._take(rows)
        self._fresh += rows
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last time as one more part."""
        self._flushed = time.monotonic()
        if self._fresh:
            self._write(f"{PARTS}/{time.time_ns():020d}.parquet", self._fresh)
            self._fresh = []

    def close(self) -> None:
        """Write one file of everything."""
        self.flush()
        self._merge()

    def _merge(self) -> None:
        self._write(INDEX, [self.rows[source] for source in sorted(self.rows)])
        self._out.delete_folder(PARTS)

    def _write(self, name: str, rows: list[dict[str, Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=index_schema()), buffer, compression="zstd")
        self._out.put(name, buffer.getvalue())
