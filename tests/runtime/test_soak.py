"""Days of streaming in some minutes: nothing grows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FRAMES = 20_000
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


@pytest.mark.slow
def test_memory_stays_flat_and_nothing_is_lost_over_20000_frames(model: Path) -> None:
    source = f"synthetic:frames={FRAMES},loop=64,size=360x640"
    command = [sys.executable, "-m", "il2vseg.runtime.cli", "--model", str(model), "--source", source]
    process = subprocess.Popen(
        [*command, "--jsonl", "-", "--stabilise", "flow", "--benchmark"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    sizes = {}
    expected = 0
    for line in process.stdout:
        record = json.loads(line)
        assert record["index"] == expected
        assert record["dropped"] == 0
        expected += 1
        if expected % 1000 == 0:
            sizes[expected] = resident(process.pid)
    report = process.stderr.read()
    assert process.wait(30) == 0
    assert expected == FRAMES
    # The allocator settles in the first frames; from a tenth of the way on nothing may grow.
    settled = [size for frame, size in sizes.items() if frame >= FRAMES // 10]
    print(report, f"resident: {settled[0] / 2**20:.1f} to {settled[-1] / 2**20:.1f} MiB")
    assert max(settled) <= 1.02 * settled[0]
    assert re.search(r"^total\s+20000(\s+[\d.]+){4}$", report, re.MULTILINE)
