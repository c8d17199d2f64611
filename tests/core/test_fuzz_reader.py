"""Damaged files through training, labelling and the runtime: no crash, no hang, nothing lost in silence.

Files are read in a process of its own, so that a crash of a decoder is a failure of the test.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
from tests.fuzz_reader import fuzz
print(*fuzz(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
"""
ROOT = Path(__file__).parents[2]


def run(folder: Path, count: int, seed: int, timeout: float) -> list[int]:
    """Fuzz in a process of its own; return how many files were read whole, in part, and not at all."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PROGRAM, str(folder), str(count), str(seed)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENCV_LOG_LEVEL": "SILENT"},
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [int(n) for n in done.stdout.split()[-3:]]


def test_damaged_files_are_read_or_reported(tmp_path: Path) -> None:
    whole, parts, refused = run(tmp_path, 24, 1, timeout=60)
    assert whole + parts + refused == 24
    assert parts > 0
    assert refused > 0


@pytest.mark.slow
def test_five_hundred_damaged_files_are_read_or_reported(tmp_path: Path) -> None:
    assert sum(run(tmp_path, 500, 2, timeout=3000)) == 500
