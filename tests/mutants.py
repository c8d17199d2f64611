"""python tests/mutants.py: plant bugs, one at a time, and see which ones no test notices.

A random sample of small changes (cosmic-ray's operators and four of our own), each tried against the tests
that run the changed line. Nothing is written into the repository: the tests run in a copy of it, and the
changed module is handed to Python from memory. The heavy libraries are imported once; every mutant is a fork.
See docs/testing.md.
"""

import argparse
import ast
import importlib.abc
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from mutations import Mutant, sample

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"il2vseg.export": "export", "il2vseg.calib": "calib", "il2vseg.runtime": "runtime"}
HEAVY = (
    "numpy", "cv2", "torch", "torchvision", "torch.utils.tensorboard", "timm", "scipy.optimize",
    "scipy.sparse", "numba", "onnx", "onnxruntime", "safetensors.torch", "accelerate", "matplotlib.pyplot",
    "hypothesis", "yaml",
)  # fmt: skip
"""Imported before the forks; none of them starts a thread by that."""
BASE_S = 20.0
"""A mutant may take so long, and six times what its tests took without a bug; then it counts as noticed."""

TESTS = {
    "il2vseg/methods/*.py": (
        "core/test_method*.py",
        "core/test_rivals.py",
        "core/test_trainer*.py",
        "core/test_losses.py",
    ),
    "il2vseg/learning/trainer.py": (
        "core/test_trainer*.py",
        "core/test_method*.py",
        "core/test_micro_batches.py",
    ),
    "il2vseg/learning/crops.py": ("core/test_crops.py", "core/test_method*.py"),
    "il2vseg/learning/batches.py": ("core/test_trainer*.py", "core/test_method*.py"),
    "il2vseg/learning/clustering.py": ("core/test_clustering*.py", "core/test_trainer*.py"),
    "il2vseg/learning/selection.py": ("core/test_selection.py", "core/test_clustering.py"),
    "il2vseg/learning/distiller.py": ("core/test_distiller*.py",),
    "il2vseg/learning/targets.py": ("core/test_distiller*.py", "core/test_targets.py"),
    "il2vseg/learning/views.py": ("core/test_distiller*.py", "core/test_views.py"),
    "il2vseg/losses/*.py": ("core/test_losses*.py", "core/test_trainer*.py", "core/test_method*.py"),
    "il2vseg/models/lowlevel.py": ("core/test_lowlevel*.py",),
    "il2vseg/models/guided.py": ("core/test_guided*.py",),
    "il2vseg/models/adapt.py": ("core/test_adapt*.py",),
    "il2vseg/models/names.py": ("core/test_clusters.py",),
    "il2vseg/learning/clusters.py": ("core/test_clusters.py",),
    "il2vseg/evaluation/sites.py": ("core/test_transfer.py",),
    "calib/rounding.py": ("calib/test_quantise.py",),
    "export/parity.py": ("export/test_parity.py",),
    "runtime/pipeline.py": ("runtime/test_pipeline*.py", "runtime/test_parts.py", "runtime/test_tracks.py"),
    "runtime/meter.py": ("runtime/test_meter.py", "runtime/test_pipeline.py"),
    "runtime/channel.py": ("runtime/test_parts.py", "runtime/test_pipeline.py"),
    "runtime/overlay.py": ("runtime/test_parts.py",),
    "runtime/result.py": ("runtime/test_parts.py", "core/test_api.py"),
    "runtime/engine.py": ("runtime/test_engine.py",),
    "runtime/sinks/link.py": ("runtime/test_link.py", "runtime/test_mavlink.py", "runtime/test_nmea.py"),
    "runtime/sinks/mavlink.py": ("runtime/test_mavlink.py",),
    "runtime/sinks/nmea.py": ("runtime/test_nmea.py",),
    "runtime/sinks/signalk*.py": ("runtime/signalk/test_*.py", "runtime/test_onboard.py"),
    "runtime/sinks/own_ship.py": ("runtime/signalk/test_*.py",),
    "runtime/sinks/stream*.py": ("runtime/test_stream_out.py",),
    "runtime/sinks/ros2/*.py": ("runtime/ros2/test_*.py",),
    "runtime/marine/sectors.py": ("runtime/test_sectors.py", "runtime/test_alarm.py"),
    "runtime/sinks/*.py": ("runtime/test_sinks.py", "runtime/test_registry.py"),
    "runtime/marine/*.py": (
        "runtime/test_marine*.py",
        "runtime/test_tracks.py",
        "runtime/test_alarm.py",
        "runtime/test_own_deck.py",
        "runtime/test_sectors.py",
    ),
    "runtime/sources/live.py": ("runtime/test_sources_live*.py",),
}
"""Which tests are to notice a bug in which file: patterns of sources, patterns below tests/."""

CORE = (
    "il2vseg/methods/*.py", "il2vseg/learning/trainer.py", "il2vseg/learning/clustering.py",
    "il2vseg/learning/selection.py", "il2vseg/learning/distiller.py", "il2vseg/models/lowlevel.py",
    "il2vseg/models/guided.py", "calib/rounding.py", "export/parity.py", "runtime/pipeline.py",
    "runtime/marine/*.py", "runtime/sources/live.py",
)  # fmt: skip
"""The files that `make mutants` samples unless it is told others."""


# --- running ------------------------------------------------------------------------------------------------


class Tree(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports `il2vseg` from a copy of the repository, one file of it from memory."""

    def __init__(self, root: Path, mutant: Mutant | None = None) -> None:
        self.root, self.mutant = root, mutant

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        parts = name.split(".")
        if parts[0] != "il2vseg":
            return None
        folder = self.root.joinpath(*parts[1:] if ".".join(parts[:2]) in PACKAGES else parts)
        for file, package in ((folder / "__init__.py", True), (folder.with_suffix(".py"), False)):
            if file.is_file():
                changed = self.mutant and file == self.root / self.mutant.path
                return importlib.util.spec_from_file_location(
                    name,
                    file,
                    loader=self if changed else None,
                    submodule_search_locations=[str(folder)] if package else None,
                )
        return None

    def exec_module(self, module: ModuleType) -> None:
        assert self.mutant is not None
        exec(compile(self.mutant.code, str(module.__file__), "exec"), module.__dict__)


class Recorder:
    """A plugin of pytest: seconds of every test that passed, and, with coverage, the lines it ran."""

    def __init__(self, coverage: Any = None) -> None:
        self.coverage, self.seconds = coverage, dict[str, float]()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self.coverage is not None:
            self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.outcome == "passed":
            self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


def pytest_in_copy(
    copy: Path, arguments: Sequence[str], mutant: Mutant | None = None, plugin: Any = None
) -> int:
    """Run tests in this (forked) process; returns pytest's exit code."""
    os.chdir(copy)
    sys.path[:] = [
        str(copy),
        *(p for p in sys.path if Path(p or ".").resolve() not in (ROOT, ROOT / "tests")),
    ]
    sys.meta_path.insert(0, Tree(copy, mutant))
    quiet = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:warnings", "-m", "not slow"]
    return int(pytest.main([*quiet, *arguments], plugins=[plugin] if plugin else []))


def fork(work: Callable[[], int], log: Path) -> int:
    """Run `work` in a child with its output in a file; returns the child's id."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        code = work()
    finally:
        os._exit(code)


def end_group(child: int) -> None:
    """Kill what a child has left behind."""
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(child, 0)


def tests_of(path: str) -> list[str]:
    """The files of tests that are to notice a bug in a source."""
    patterns = [t for source, tests in TESTS.items() if Path(path).match(source) for t in tests]
    return sorted({str(f.relative_to(ROOT)) for p in patterns for f in (ROOT / "tests").glob(p)})


@dataclass
class Baseline:
    """What the tests do without a bug: seconds of each test, and source -> line -> tests that run it."""

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[int, list[str]]] = field(default_factory=dict)

    def add(self, measured: dict[str, Any]) -> None:
        """Take in what one file of tests measured, as `covered` wrote it."""
        self.seconds |= measured["seconds"]
        for path, by_line in measured["lines"].items():
            own = self.lines.setdefault(path, {})
            for line, tests in by_line.items():
                own.setdefault(int(line), []).extend(tests)

    def choose(self, mutant: Mutant, source: str) -> list[str]:
        """The tests that run the changed statement, quick ones first.

        What runs when a module is imported (constants, defaults) may be seen by any test of the module.
        """
        by_line = self.lines.get(mutant.path, {})
        lines = statement_lines(source, mutant.line)
        if lines is None:
            wanted = {t for t in self.seconds if t.partition("::")[0] in tests_of(mutant.path)}
        else:
            wanted = {t for n, tests in by_line.items() if n in lines for t in tests}
        return sorted(wanted & set(self.seconds), key=lambda t: self.seconds[t])


def statement_lines(source: str, line: int) -> range | None:
    """The lines of the statement, inside a function, that a line belongs to; None outside of functions."""
    found = None
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            for node in (n for part in function.body for n in ast.walk(part)):
                if isinstance(node, ast.stmt):
                    body = getattr(node, "body", None)
                    end = max(node.lineno, body[0].lineno - 1 if body else node.end_lineno or node.lineno)
                    if node.lineno <= line <= end:
                        found = range(node.lineno, end + 1)
    return found


def measure(copy: Path, paths: Sequence[str], jobs: int) -> Baseline:
    """Run all tests of the sources once, without a bug, and note which lines each one runs."""
    files = sorted({t for path in paths for t in tests_of(path)})
    waiting, running, baseline = list(files), dict[int, str](), Baseline()
    while waiting or running:
        while waiting and len(running) < jobs:
            file = waiting.pop(0)
            stem = copy.parent / Path(file).stem
            child = fork(lambda file=file, stem=stem: covered(copy, paths, file, stem), Path(f"{stem}.log"))  # type: ignore[misc]
            running[child] = file
        child, status = os.wait()
        if child not in running:
            continue
        end_group(child)
        stem = copy.parent / Path(running[child]).stem
        if not stem.with_suffix(".json").exists():
            raise SystemExit(f"{running[child]} did not run; see {stem}.log")
        if status:
            print(f"{running[child]}: some tests fail without a bug and are left out", file=sys.stderr)
            print(stem.with_suffix(".log").read_text()[-2000:], file=sys.stderr)
        del running[child]
        baseline.add(json.loads(stem.with_suffix(".json").read_text()))
    return baseline


def covered(copy: Path, paths: Sequence[str], file: str, stem: Path) -> int:
    """Run one file of tests under coverage in this (forked) process; write STEM.json."""
    import coverage

    tool = coverage.Coverage(data_file=None, include=[str(copy / p) for p in paths], config_file=False)
    recorder = Recorder(tool)
    tool.start()
    code = pytest_in_copy(copy, ["--maxfail=1000", file], None, recorder)
    tool.stop()
    data = tool.get_data()
    lines = {str(Path(f).relative_to(copy)): data.contexts_by_lineno(f) for f in data.measured_files()}
    stem.with_suffix(".json").write_text(json.dumps({"seconds": recorder.seconds, "lines": lines}))
    return code


def try_all(
    mutants: list[Mutant], sources: dict[str, str], baseline: Baseline, copy: Path, jobs: int, end: float
) -> None:
    """Run the tests of every mutant until the time is over, `jobs` at once."""
    waiting, running = list(mutants), dict[int, tuple[Mutant, float, float]]()
    while waiting or running:
        while waiting and len(running) < jobs and time.monotonic() < end:
            mutant = waiting.pop(0)
            tests = baseline.choose(mutant, sources[mutant.path])
            if not tests:
                mutant.outcome = "unreached"
                continue
            limit = BASE_S + 6 * sum(baseline.seconds[t] for t in tests)
            child = fork(
                lambda mutant=mutant, tests=tests: pytest_in_copy(copy, tests, mutant),  # type: ignore[misc]
                copy.parent / f"{len(mutants) - len(waiting)}.log",
            )
            running[child] = (mutant, time.monotonic(), limit)
        if not running:
            break
        time.sleep(0.02)
        for child, (mutant, start, limit) in list(running.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            mutant.seconds = time.monotonic() - start
            if done:
                mutant.outcome = "survived" if os.waitstatus_to_exitcode(status) == 0 else "failed"
            elif mutant.seconds > limit:
                mutant.outcome = "timeout"
            if mutant.outcome:
                end_group(child)
                del running[child]
                tried = sum(bool(m.outcome) for m in mutants)
                print(f"\r{tried}/{len(mutants)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


# --- the command --------------------------------------------------------------------------------------------


def copied(folder: Path) -> Path:
    """A copy of the files of the repository, those not yet committed included."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    copy = folder / "tree"
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


def report(mutants: list[Mutant], sources: dict[str, str]) -> str:
    """A table of the files, then what no test noticed."""
    tried = [m for m in mutants if m.outcome]
    rows = ["| file | mutants | noticed | % |", "|---|---|---|---|"]
    for path in [*sorted({m.path for m in tried}), "all"]:
        own = [m for m in tried if path in (m.path, "all")]
        noticed = sum(m.outcome in ("failed", "timeout") for m in own)
        rows.append(f"| {path} | {len(own)} | {noticed} | {100 * noticed / max(1, len(own)):.0f} |")
    parts = ["\n".join(rows)]
    for m in tried:
        if m.outcome in ("survived", "unreached"):
            what = "no test runs this line" if m.outcome == "unreached" else "no test notices"
            parts.append(f"{m.path}:{m.line} {m.operator}: {what}\n{m.diff(sources[m.path])}")
    return "\n\n".join(parts)


def main(argv: list[str] | None = None) -> int:
    """Sample, try, print; exit code 1 when fewer than --at-least percent were noticed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", help="sources, or patterns of them; default: the core")
    parser.add_argument("--sample", type=int, default=200, help="mutants to try (default: 200)")
    parser.add_argument(
        "--seconds", type=float, default=3600, help="begin none after so long (default: 3600)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="mutants at once (default: CPUs)"
    )
    parser.add_argument("--at-least", type=float, default=0, help="percent that must be noticed (default: 0)")
    options = parser.parse_args(argv)
    begun = time.monotonic()
    patterns = options.files or CORE
    paths = sorted(
        {
            str(f.relative_to(ROOT))
            for p in patterns
            for f in ROOT.glob(p)
            if tests_of(str(f.relative_to(ROOT)))
        }
    )
    if not paths:
        parser.error(f"no source of {', '.join(patterns)} has its tests listed in tests/mutants.py")
    sources = {path: (ROOT / path).read_text() for path in paths}
    mutants = sample(sources, options.sample, options.seed)
    os.environ |= {"OMP_NUM_THREADS": "1", "CI": "1"}
    os.environ.setdefault("IL2VSEG_DATA", str(ROOT.parent / "shared" / "data"))
    for name in HEAVY:
        with suppress(ImportError):
            importlib.import_module(name)
    folder = Path(tempfile.mkdtemp(prefix="il2vseg-mutants-"))
    copy = copied(folder)
    baseline = measure(copy, paths, options.jobs)
    ready = time.monotonic()
    told = f"{len(mutants)} mutants of {len(paths)} files; {len(baseline.seconds)} tests"
    print(f"{told}, measured in {ready - begun:.0f} s", file=sys.stderr)
    try_all(mutants, sources, baseline, copy, options.jobs, begun + options.seconds)
    tried = [m for m in mutants if m.outcome]
    print(report(mutants, sources))
    print(
        f"\n{len(tried)} of {len(mutants)} mutants tried in {time.monotonic() - ready:.0f} s, "
        f"seed {options.seed} ({dict(Counter(m.outcome for m in tried))})"
    )
    shutil.rmtree(folder, ignore_errors=True)
    noticed = sum(m.outcome in ("failed", "timeout") for m in tried)
    return int(not tried or 100 * noticed < options.at_least * len(tried))


if __name__ == "__main__":
    raise SystemExit(main())
