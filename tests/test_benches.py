"""The benchmarks run; what they measure is for people."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = ("--backbone", "tiny", "--rounds", "1", "--threads", "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "rows"),
    [
        (
            "student.py",
            ("--size", "64", "96", *TINY),
            ("teacher, tiny, int8", "mobilenetv4_small", "lraspp", "confidence"),
        ),
        ("export.py", ("--size", "112", "128", *TINY), ("eager", "ONNX Runtime, int8", "FCM")),
    ],
)
def test_a_table_is_printed(script: str, options: tuple[str, ...], rows: tuple[str, ...]) -> None:
    command = [sys.executable, str(ROOT / "bench" / script), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    for row in rows:
        assert row in done.stdout
