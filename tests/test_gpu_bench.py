"""bench/gpu.py runs every part without a GPU, so that nothing fails on one for a typing error."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """A script of the folder bench/, imported by name."""
    monkeypatch.syspath_prepend(str(BENCH))
    return __import__(request.param)


@pytest.mark.parametrize("module", ["wheels"], indirect=True)
def test_wheels_travel_in_pieces(module: ModuleType, tmp_path: Path) -> None:
    wheels, pieces, whole = tmp_path / "wheels", tmp_path / "pieces", tmp_path / "whole"
    wheels.mkdir()
    (wheels / "a-1-py3.whl").write_bytes(bytes(range(256)) * 10)
    (wheels / "b-2-py3.whl").write_bytes(b"small")
    written = module.cut(wheels, pieces, piece_bytes=1000)
    assert [p.name for p in written] == [
        "a-1-py3.whl.000", "a-1-py3.whl.001", "a-1-py3.whl.002", "b-2-py3.whl.000",
    ]  # fmt: skip
    assert max(p.stat().st_size for p in written) <= 1000
    joined, problems = module.join(pieces, whole)
    assert problems == []
    assert {p.name: p.read_bytes() for p in joined} == {p.name: p.read_bytes() for p in wheels.iterdir()}


@pytest.mark.parametrize("module", ["wheels"], indirect=True)
def test_a_wheel_with_a_damaged_or_missing_piece_is_left_out(module: ModuleType, tmp_path: Path) -> None:
    wheels, pieces = tmp_path / "wheels", tmp_path / "pieces"
    wheels.mkdir()
    for name in ("damaged.whl", "missing.whl", "whole.whl"):
        (wheels / name).write_bytes(name.encode() * 100)
    module.cut(wheels, pieces, piece_bytes=500)
    (pieces / "damaged.whl.001").write_bytes(b"x")
    (pieces / "missing.whl.000").unlink()
    joined, problems = module.join(pieces, tmp_path / "joined")
    assert [p.name for p in joined] == ["whole.whl"]
    assert [line.split(":")[0] for line in problems] == ["damaged.whl", "missing.whl"]
    assert [p.name for p in (tmp_path / "joined").iterdir()] == ["whole.whl"]


@pytest.mark.parametrize("module", ["gpu"], indirect=True)
def test_the_table_says_what_did_not_run_and_why(module: ModuleType) -> None:
    parts = {
        "train": {"rows": [{"what": "a", "s": 1.5}, {"what": "b", "value": 2}], "problem": "", "seconds": 2},
        "rtx": {"rows": [], "problem": "stopped after 150 s", "seconds": 150},
    }
    report = {"machine": {"gpu": "none", "cuda": ""}, "wheels": ["w.whl: damaged"], "parts": parts}
    text = module.markdown(report)
    assert "Machine: gpu none." in text
    assert "| what | s | value |" in text
    assert "| b |  | 2 |" in text
    assert "not run to its end: stopped after 150 s" in text
    assert "wheel left out: w.whl: damaged" in text


@pytest.mark.slow
def test_every_part_runs_dry(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "gpu.py"), "--dry", "--out", str(tmp_path), "--seconds", "600"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: part["problem"] for name, part in report["parts"].items()} == dict.fromkeys(
        ("train", "export", "parity", "rtx", "eager", "run", "distill"), ""
    )
    assert done.returncode == 0
    rows = {name: part["rows"] for name, part in report["parts"].items()}
    assert all(rows.values())
    agreement = next(r for r in rows["train"] if "agree" in r["what"])
    assert agreement["value"] == "100.000%"
    assert {r["verdict"] for r in rows["parity"]} == {"passed"}
    assert rows["rtx"][0]["verdict"].startswith("not run:")
    assert {r.get("frames", 20) for r in rows["run"]} == {20}
