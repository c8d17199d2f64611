"""python -m il2vseg.label: run an exported model over an archive, on Ray Data.

The same command uses this machine, or the cluster that RAY_ADDRESS names. Every file of the archive is a
task: a worker reads it, writes its labels, each file whole or not at all, and only then reports it; what is
reported is recorded in one Parquet index. So a worker that dies has its task done again by another one, a
command that died goes on where its index ends, and neither leaves a trace in the result.
"""

import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from il2vseg.base.command import MAX_THREADS, Settings, flag, parse
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.files import require_writable_dir, sha256_file
from il2vseg.base.redact import redacting, scrubbed
from il2vseg.data.archive import Place, is_clip, list_footage
from il2vseg.labelling.index import Index
from il2vseg.labelling.worker import FATAL, Job, Worker, model_folder
from il2vseg.labelling.writers import labels_of_runs as labels_of_runs
from il2vseg.runtime.catalog import find_model
from il2vseg.runtime.manifest import FILE_NAME, Manifest

PROGRAM = "python -m il2vseg.label"
SETTINGS = "label.json"
IMAGES_A_TASK = 16
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
    except Exception as error:  # Ray itself raises no more than that where a machine is too busy
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
    unnamed, names = _unnamed(names)
    before = index.done
    todo = [name for name in names if name not in before]
    started = time.monotonic()
    if todo:
        _run(config, job, todo, index)
    frames = sum(index.rows[name]["frames"] for name in todo)
    after = index.done
    failed = [name for name in names if name not in after]
    if len(failed) == len(names):
        why = index.rows[failed[0]]["error"] if failed else unnamed[0]
        raise UserError(f"none of {len(names) + len(unnamed)} files could be read (first: {why})")
    note = f"; {len(failed)} unreadable, see the index (first: {failed[0]})" if failed else ""
    if unnamed:
        note += f"; {len(unnamed)} left out: their names are not UTF-8, rename them (first: {unnamed[0]})"
    if noted := [name for name in todo if index.rows[name].get("note")]:
        note += f"; {len(noted)} not read in full (first: {noted[0]}: {index.rows[noted[0]]['note']})"
    return (
        f"{out.root}: {len(names) - len(failed)} of {len(names)} files labelled, {len(todo) - len(failed)} "
        f"of them ({frames} frames) now, in {time.monotonic() - started:.0f} s{note}"
    )


def _unnamed(names: list[str]) -> tuple[list[str], list[str]]:
    """Part the names that the index, in Parquet, cannot hold, as they are shown, from the others."""
    shown = {name: name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in names}
    return [s for name, s in shown.items() if s != name], [name for name, s in shown.items() if s == name]


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
