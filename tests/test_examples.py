"""The examples run, on rendered scenes and bundled models."""

import ast
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest

import il2vseg

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


def main_of(script: str) -> Any:
    return runpy.run_path(str(EXAMPLES / script))["main"]


def test_all_examples_are_tested_here() -> None:
    assert SCRIPTS == ["export_and_verify.py", "own_footage.py", "picture.py", "stream.py"]
    assert [path.name for path in EXAMPLES.glob("*.ipynb")] == ["quickstart.ipynb"]


def test_a_picture(tmp_path: Path) -> None:
    result = main_of("picture.py")(overlay=str(tmp_path / "o.png"))
    assert cv2.imread(str(tmp_path / "o.png")).shape == (360, 640, 3)
    assert result.fractions["water"] > 0.2
    assert result.obstacles


def test_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main_of("stream.py")("synthetic:frames=3,size=90x160", "o.mp4", "o.jsonl")
    assert len(Path("o.jsonl").read_text().splitlines()) == 3
    assert Path("o.mp4").stat().st_size > 1000


def test_own_footage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    student = train_tiny()
    assert set(student.names) <= {"obstacle", "water", "sky"}
    assert Path("runs/example-lite/checkpoint.safetensors").is_file()
    compile((EXAMPLES / "export_and_verify.py").read_text(), "export_and_verify.py", "exec")


@pytest.mark.slow
def test_an_export_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train_tiny()
    exported = main_of("export_and_verify.py")("runs/example", verify_frames=1)
    assert exported.provider != "torch"


def train_tiny() -> il2vseg.Model:
    tiny = {"size": (64, 96), "limit": 4}
    model: il2vseg.Model = main_of("own_footage.py")(
        train={"backbone": "tiny", "method": "kmeans", "whitening": 8, "centre": False, **tiny},
        distil={"steps": 1, "batch": 2, **tiny},
    )
    return model


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell after cell; what a cell ends with is shown as Jupyter would show it."""
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "quickstart.ipynb").read_text())["cells"]
    names: dict[str, Any] = {}
    pictures = 0
    for cell in cells:
        assert not cell.get("outputs"), "clear the outputs before a commit"
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), names)
        if last is not None:
            shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            pictures += hasattr(shown, "_repr_png_") and shown._repr_png_().startswith(b"\x89PNG")
            assert repr(shown)
    assert pictures == 2
    assert Path("overlay.mp4").stat().st_size > 1000


def test_an_example_is_a_command(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "picture.py"), str(tmp_path / "missing.jpg")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "UserError" in done.stderr
    assert "missing.jpg" in done.stderr
