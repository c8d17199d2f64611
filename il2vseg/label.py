"""python -m il2vseg.label: run an exported model over an archive, on Ray Data.

The same command uses this machine, or the cluster that RAY_ADDRESS names. Every file of the archive is a
task: a worker reads it, writes its labels, each file whole or not at all, and only then reports it; what is
reported is recorded in one Parquet index. So a worker that dies has its task done again by another one, a
command that died goes on where its index ends, and neither leaves a trace in the result.
"""

import dataclasses
import io
import json
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.command import MAX_THREADS, Settings, flag, parse
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.files import require_writable_dir, sha256_file
from il2vseg.base.images import Labels, encode_image, read_frame
from il2vseg.base.media.clips import Clip, Picture
from il2vseg.base.redact import redacting, scrubbed
from il2vseg.data.archive import Place, is_clip, list_footage
from il2vseg.runtime.backends.providers import open_engine
from il2vseg.runtime.catalog import find_model
from il2vseg.runtime.engine import Engine
from il2vseg.runtime.manifest import FILE_NAME, Manifest, verify_file
from il2vseg.runtime.result import class_fractions

PROGRAM = "python -m il2vseg.label"
INDEX = "index.parquet"
PARTS = "index.parts"
SETTINGS = "label.json"
FATAL = ""
"""Stands in place of a source in a row that ends the whole run."""
FLUSH_S = 5.0
IMAGES_A_TASK = 16
FRAMES_A_GROUP = 256
OBJECT_STORE_BYTES = 200 << 20


@dataclass
class LabelConfig(Settings):
    """Label an archive of images and clips with an exported model; run it again to continue or add files."""

    source: str = flag(
        dataclasses.MISSING,
        "folder, image, clip or pattern (* within a name, ** across folders), local or s3://…",
        metavar="DIR|FILE|URI",
    )
    out: str = flag(
        dataclasses.MISSING, "folder of the labels and their index, local or s3://…", metavar="DIR|URI"
    )
    model: str | None = flag(
        None,
        "exported model, local or s3://…; default: the newest under runs/, else the bundled one",
        metavar="DIR|URI",
    )
    format: Literal["png", "rle"] = flag(
        "png",
        "png: class ids, one file per frame; rle: runs of class ids, one Parquet file per image or clip",
    )
    provider: Literal["auto", "cpu", "cuda", "tensorrt", "openvino"] = flag(
        "auto", "which runtime runs the model"
    )
    workers: int | None = flag(
        None,
        "engines at work; default: as many as the CPUs or GPUs allow",
        low=1,
        high=4096,
        metavar="N",
    )
    cpus: int = flag(1, "CPUs, and threads, of a worker", low=1, high=1024, metavar="N")
    gpus: float = flag(0.0, "GPUs of a worker; 0.5: two workers share one", low=0, high=64, metavar="N")


def require_ray() -> None:
    """Make sure that the extra is installed.

    Raises:
        UserError: it is not.
    """
    from importlib.util import find_spec

    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise UserError("Ray is not installed (pip install 'il2vseg[cluster]')")


# --- labels ------------------------------------------------------------------------------------------------


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
        self._out.put(name, encode_image(".png", labels))

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


# --- the index ---------------------------------------------------------------------------------------------


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


# --- workers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What every worker is told."""

    model: Place
    archive: Place
    out: Place
    format: str
    provider: str
    threads: int


@contextmanager
def model_folder(model: Place) -> Iterator[Path]:
    """Yield a local folder with the files of an exported model: its own, or that of a temporary copy.

    Raises:
        UserError: there is no model, or it is damaged.
    """
    with ExitStack() as stack:
        folder = Path(model.root)
        if not model.local:
            if not model.is_file(FILE_NAME):
                raise UserError(f"{model.root}: no exported model there (il2vseg-export makes one)")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="il2vseg-model-")))
            for name in (name for name in model.names() if "/" not in name):
                (folder / name).write_bytes(model.get(name))
        for entry in Manifest.load(folder).files:
            verify_file(folder, entry)
        yield folder


class Worker:
    """An engine in a process of its own, called with sources."""

    def __init__(self, job: Job) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._job = job
        self._engine: Engine | None = None

    def __call__(self, table: Any) -> Any:
        """Label the files in the column `source` of an Arrow table; return their rows of the index.

        What ends the whole run (the model does not run here, the disk is full) is the last row, with the
        source FATAL: Ray would wrap an exception in its own.
        """
        import pyarrow as pa

        rows = []
        try:
            for source in table.column("source").to_pylist():
                rows.append(self.label(source))
        except (UserError, OSError) as error:
            rows.append({"source": FATAL, "error": f"{self.name}: {error}"})
        return pa.Table.from_pylist(rows, schema=index_schema())

    @property
    def engine(self) -> Engine:
        """The model, loaded at its first use: Ray starts an actor that fails at its start for ever."""
        if self._engine is None:
            with model_folder(self._job.model) as folder:
                self._engine = open_engine(
                    folder, self._job.provider, threads=self._job.threads, say=lambda _: None
                )
        return self._engine

    def label(self, source: str) -> dict[str, Any]:
        """Label one file; return its row of the index.

        Raises:
            UserError: the model does not run here. OSError: the labels cannot be written.
        """
        engine = self.engine
        started = time.perf_counter()
        row: dict[str, Any] = dict.fromkeys(index_schema().names)
        row |= {
            "source": source,
            "frames": 0,
            "worker": self.name,
            "provider": engine.provider,
        }
        classes = len(engine.manifest.classes)
        sums = np.zeros(classes)
        writer = WRITERS[self._job.format](self._job.out, source)
        notes: list[str] = []
        try:
            for picture in self._pictures(source, notes):
                labels = engine(picture.frame).labels
                writer.add(picture.number, labels, picture.seconds if is_clip(source) else None)
                sums += class_fractions(labels, classes)
                row |= {"frames": row["frames"] + 1, "height": labels.shape[0], "width": labels.shape[1]}
        except _UnreadableError as error:
            return row | {"error": str(error), "frames": 0}
        writer.close()
        return row | {
            "labels": writer.name,
            "fractions": (sums / row["frames"]).tolist(),
            "seconds": time.perf_counter() - started,
            "note": "; ".join(notes) or None,
        }

    def _pictures(self, source: str, notes: list[str]) -> Iterator[Picture]:
        """Yield the frames of a file; what cannot be read is told apart from what cannot be written."""
        try:
            with self._job.archive.on_disk(source) as path:
                if is_clip(source):
                    with Clip(path, lambda kind, message, **_: notes.append(_bare(message))) as clip:
                        yield from clip
                else:
                    yield Picture(read_frame(path), 0, 0.0)
        except (UserError, OSError) as error:
            raise _UnreadableError(_bare(str(error))) from None
        except (cv2.error, MemoryError, ValueError) as error:
            raise _UnreadableError(f"{type(error).__name__}: {error}") from None


def _bare(message: str) -> str:
    """Leave out the name of the file: that of a copy of a remote file says nothing."""
    return message.partition(": ")[2] or message


class _UnreadableError(Exception):
    """A file of the archive cannot be read."""


# --- the command -------------------------------------------------------------------------------------------


def settle(job: Job, index: Index) -> None:
    """Write OUT/label.json or, where something is labelled already, make sure that it says the same.

    Raises:
        UserError: the folder holds labels of another archive, model or format; the model is damaged.
    """
    out = job.out
    with model_folder(job.model) as folder:
        manifest, digest = Manifest.load(folder), sha256_file(folder / FILE_NAME)
    settings = {
        "archive": job.archive.root,
        "format": job.format,
        "model": f"{manifest.name}, manifest {digest[:16]}",
        "classes": [dataclasses.asdict(c) for c in manifest.classes],
    }
    data = (json.dumps(settings, indent=2) + "\n").encode()
    known = _known_settings(out)
    if not index.rows:
        if known is None and (found := out.names("labels")):
            raise UserError(f"{out.path(found[0])}: il2vseg.label did not write this; choose another --out")
        out.put(SETTINGS, data)
        return
    known = known or {}
    for key in ("archive", "format", "model"):
        if known.get(key) != settings[key]:
            raise UserError(
                f"{out.root}: holds labels of another {key} ({known.get(key)}, not {settings[key]}); "
                "choose another --out"
            )


def _known_settings(out: Place) -> dict[str, Any] | None:
    """What OUT/label.json says; None where there is none.

    Raises:
        UserError: another program wrote a file of that name.
    """
    if not out.is_file(SETTINGS):
        return None
    try:
        known = json.loads(out.get(SETTINGS))
    except ValueError:
        known = None
    if not isinstance(known, dict) or "archive" not in known:
        raise UserError(f"{out.path(SETTINGS)}: il2vseg.label did not write this; choose another --out")
    return known


def start_ray(config: LabelConfig) -> int:
    """Start a Ray on this machine, or join the cluster of RAY_ADDRESS; return the number of workers.

    Raises:
        UserError: the cluster does not answer, or has not what a worker asks for.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of how Ray Data itself starts actors
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if "RAY_ADDRESS" not in os.environ:
        if (config.workers or 1) * config.cpus > MAX_THREADS:
            raise UserError(
                f"--workers times --cpus must be at most {MAX_THREADS} on this machine "
                f"(got {config.workers or 1} and {config.cpus})"
            )
        options |= {
            "address": "local",  # not one that happens to run here
            "include_dashboard": False,
            "num_cpus": max(os.cpu_count() or 1, (config.workers or 1) * config.cpus),
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"Ray did not start: {' '.join(str(error).split())[:200]}") from None
    resources = ray.cluster_resources()
    room = resources.get("CPU", 0) // config.cpus
    if config.gpus:
        room = min(room, resources.get("GPU", 0) // config.gpus)
    if room < 1:
        raise UserError(
            f"there is no room for a worker with {config.cpus} CPUs and {config.gpus:g} GPUs: Ray has "
            f"{resources.get('CPU', 0):g} and {resources.get('GPU', 0):g}"
        )
    return config.workers or int(room)


def divide(todo: list[str], workers: int) -> list[list[str]]:
    """Divide files into tasks: a clip is one, and comes first since it takes long; images go together."""
    clips, images = ([name for name in todo if is_clip(name) == kind] for kind in (True, False))
    # Few tasks for each worker would leave some idle at the end, one for each image costs as much as a frame.
    together = max(1, min(IMAGES_A_TASK, len(images) // (4 * workers)))
    parts = [images[i : i + together] for i in range(0, len(images), together)]
    return [[clip] for clip in clips] + parts


def labelled(todo: list[str], job: Job, workers: int, gpus: float) -> Iterator[list[dict[str, Any]]]:
    """Label files on Ray Data; yield the rows of the index as tasks end, in any order."""
    import pyarrow as pa
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    tasks = [pa.table({"source": names}) for names in divide(todo, workers)]
    results = ray.data.from_arrow(tasks).map_batches(
        Worker,
        fn_constructor_args=(job,),
        compute=ActorPoolStrategy(size=min(workers, len(tasks))),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=job.threads,
        num_gpus=gpus,
    )
    for table in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield table.to_pylist()


def label(config: LabelConfig) -> str:
    """Label what is not labelled yet; return one line that says what was done.

    Raises:
        UserError: bad settings, nothing to read, a model that does not run, labels that cannot be written.
    """
    require_ray()
    model = (
        config.model
        if config.model and "://" in config.model
        else str(find_model(None if config.model is None else Path(config.model)))
    )
    archive, names = list_footage(config.source)
    out = Place.of(config.out)
    if out.local:
        require_writable_dir(Path(out.root))
    job = Job(Place.of(model), archive, out, config.format, config.provider, config.cpus)
    index = Index(out)
    settle(job, index)
    own = out.real("labels") + "/"
    names = [name for name in names if not archive.real(name).startswith(own)]
    before = index.done
    todo = [name for name in names if name not in before]
    started = time.monotonic()
    if todo:
        _run(config, job, todo, index)
    frames = sum(index.rows[name]["frames"] for name in todo)
    after = index.done
    failed = [name for name in names if name not in after]
    if len(failed) == len(names):
        raise UserError(f"none of {len(names)} files could be read (first: {index.rows[failed[0]]['error']})")
    note = f"; {len(failed)} unreadable, see the index (first: {failed[0]})" if failed else ""
    if noted := [name for name in todo if index.rows[name].get("note")]:
        note += f"; {len(noted)} not read in full (first: {noted[0]}: {index.rows[noted[0]]['note']})"
    return (
        f"{out.root}: {len(names) - len(failed)} of {len(names)} files labelled, {len(todo) - len(failed)} "
        f"of them ({frames} frames) now, in {time.monotonic() - started:.0f} s{note}"
    )


def _run(config: LabelConfig, job: Job, todo: list[str], index: Index) -> None:
    """Label the files `todo` and record them.

    Raises:
        UserError: Ray does not start, or a worker says that it cannot go on.
    """
    import ray
    from rich.console import Console
    from rich.progress import Progress

    try:
        workers = start_ray(config)
        with Progress(console=Console(file=sys.stderr)) as progress:
            bar = progress.add_task("labels", total=len(todo))
            for rows in labelled(todo, job, workers, config.gpus):
                index.add([row for row in rows if row["source"] != FATAL])
                if rows[-1]["source"] == FATAL:
                    raise UserError(rows[-1]["error"])
                progress.advance(bar, len(rows))
    finally:
        index.close()
        ray.shutdown()


def main(argv: list[str] | None = None, prog: str = PROGRAM) -> int:
    """Entry point of `python -m il2vseg.label`."""

    def command() -> None:
        config = parse(LabelConfig, prog, argv)
        with redacting((config.source, config.out, config.model or "")):
            print(scrubbed(label(config)), file=sys.stderr)

    return run_command(command, prog)


if __name__ == "__main__":
    # Workers know this module by its own name.
    from il2vseg.label import main as entry

    raise SystemExit(entry())
