"""il2vseg.label, killed: nothing is lost, and nothing is done twice."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from il2vseg.base.images import read_frame, read_labels
from il2vseg.labelling.index import PARTS
from tests.waiting import eventually

from .test_label import IMAGES, agrees, clip_frames, pq, read_index, write_archive

# --- killed ------------------------------------------------------------------------------------------------


def descendants(pid: int) -> dict[int, str]:
    """Processes below a process: their ids and titles."""
    parents: dict[int, list[int]] = {}
    titles = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            titles[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found, queue = {}, [pid]
    while queue:
        for child in parents.get(queue.pop(), []):
            found[child] = titles[child]
            queue.append(child)
    return found


def start(archive: Path, model: Path, out: Path) -> "subprocess.Popen[str]":
    # Recorded at once, so that a driver can be killed with a part of the work on record.
    code = "from il2vseg.labelling import index; index.FLUSH_S = 0.0\n"
    code += "from il2vseg import label; raise SystemExit(label.main())"
    command = [sys.executable, "-c", code, "--source", archive, "--model", model, "--out", out]
    command += ["--provider", "cpu", "--workers", "2"]
    return subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE, text=True)


def wait(process: "subprocess.Popen[str]", condition: Callable[[], object], what: str) -> None:
    def happened() -> object:
        assert process.poll() is None, f"ended before {what}: {process.communicate()[1]}"
        return condition()

    eventually(happened, 120, what)


def title(pid: int) -> str:
    """The command of a process; "" for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_until_gone(processes: dict[int, str]) -> None:
    for pid, name in processes.items():
        eventually(lambda pid=pid, name=name: title(pid) != name, 60, f"the end of {name}")  # type: ignore[misc]


def parts(out: Path) -> set[Path]:
    return set((out / PARTS).glob("[0-9]*.parquet"))


@pytest.mark.slow
def test_killed_driver_and_killed_worker_lose_nothing_and_do_nothing_twice(
    tmp_path: Path, model: Path, clip: Path
) -> None:
    archive, out = write_archive(tmp_path / "archive", IMAGES, clip), tmp_path / "out"

    process = start(archive, model, out)
    wait(process, lambda: parts(out), "the first part of the index")
    of_ray = descendants(process.pid)
    process.kill()
    process.communicate()
    before = parts(out)
    rows = [row for part in before for row in pq.read_table(part).to_pylist()]
    recorded = [row["labels"] for row in rows if row["error"] is None]
    assert 0 < len(recorded) < IMAGES
    # Two of Ray's agents spend a minute on telling their dead driver of its death.
    for pid, name in of_ray.items():
        if name.startswith(("ray::Dashboard", "ray::RuntimeEnv")):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    wait_until_gone(of_ray)
    times = {name: (out / name).stat().st_mtime_ns for name in recorded}

    process = start(archive, model, out)
    wait(process, lambda: parts(out) - before, "a part of the index by the second run")
    of_ray = descendants(process.pid)
    workers = [pid for pid, name in of_ray.items() if name.startswith("ray::MapWorker")]
    assert workers, of_ray
    os.kill(workers[0], signal.SIGKILL)
    error = process.communicate()[1]
    assert process.returncode == 0, error
    assert "1 unreadable" in error
    wait_until_gone(of_ray)

    index = read_index(out)
    names = {str(p.relative_to(archive)) for p in archive.rglob("*") if p.suffix in (".jpg", ".mp4")}
    assert set(index) == names
    assert {name for name, row in index.items() if row["error"]} == {"broken.jpg"}
    assert not (out / PARTS).exists()
    frames = {f"{n}.png": read_frame(archive / n) for n in names if n.startswith("boat")}
    frames |= {f"river.mp4/{i:06d}.png": f for i, f in enumerate(clip_frames(archive / "river.mp4"))}
    assert {str(p.relative_to(out / "labels")) for p in (out / "labels").rglob("*") if p.is_file()} == set(
        frames
    )
    for name, frame in frames.items():
        assert agrees(read_labels(out / "labels" / name), frame), name
    assert times == {name: (out / name).stat().st_mtime_ns for name in recorded}, "done twice"
