"""il2vseg name without a page: divisions, proposals and clicks; and what the commands refuse."""

import shutil
from pathlib import Path

import pytest

from il2vseg.evaluation.clicks import Click, save_clicks
from il2vseg.export.tools.naming import main
from il2vseg.models.checkpoint import load_checkpoint
from il2vseg.models.names import NamedClusters
from il2vseg.studio.cli import main as studio_main

from .conftest import write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def readable(footage: Path, tmp_path: Path) -> Path:
    """The footage without the file that cannot be read."""
    shutil.copytree(footage, tmp_path / "river", ignore=shutil.ignore_patterns("*.jpg"))
    return tmp_path / "river"


def test_divided_clusters_come_last_and_keep_their_name(model: Path, readable: Path) -> None:
    words = ["--model", str(model), "--root", str(readable)]
    assert main([*words, "--set", "1=water"]) == 0
    assert main([*words, "--divide", "1", "3=3"]) == 0
    names = load_checkpoint(model).class_names
    assert names == ["class 0", "water", "class 2", "class 3", "water", "class 5", "class 6"]
    assert NamedClusters.load(model / "names.yaml").names == tuple(names)


def test_proposals_are_shown_and_accepted_only_when_asked(
    model: Path, readable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(model), "--root", str(readable), "--like", "marine-lite"]
    assert main(words) == 0
    assert "cluster 0 (class 0): " in capsys.readouterr().err
    assert load_checkpoint(model).class_names == [f"class {k}" for k in range(4)]
    assert main([*words, "--accept", "0.01", "--set", "2=boat"]) == 0
    names = load_checkpoint(model).class_names
    assert names[2] == "boat"
    assert set(names) - {"boat"} <= {"water", "sky", "obstacle"} | {f"class {k}" for k in range(4)}
    assert set(names) & {"water", "sky", "obstacle"}
    # A name that a person gave is not taken away.
    assert main([*words, "--accept", "0.01"]) == 0
    assert load_checkpoint(model).class_names == names


def test_clicks_are_scored(
    model: Path, readable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clicks = [Click("frame_0", x / 10, 0.9, "water", asked=True) for x in range(10)]
    save_clicks(tmp_path / "clicks.json", [*clicks, Click("frame_1", 0.5, 0.1, "sky")])
    words = ["--model", str(model), "--root", str(readable), "--clicks", str(tmp_path / "clicks.json")]
    before = (model / "checkpoint.safetensors").read_bytes()
    assert main([*words, "--set", *(f"{k}=water" for k in range(4))]) == 0
    said = capsys.readouterr().err
    assert "random points that agree: 10 of 10 (72 to 100 %)" in said
    assert "mistakes pointed at that agree now: 0 of 1" in said
    assert main([*words, "--set", *(f"{k}=class {k}" for k in range(4))]) == 0
    assert (model / "checkpoint.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--divide", "1"], "--root"),
        (["--like", "marine-lite"], "--root"),
        (["--accept", "0.5"], "--like"),
        (["--serve", "0"], "--root"),
        (["--root", "FOOTAGE", "--divide", "9"], "0 to 3"),
        (["--root", "FOOTAGE", "--divide", "one"], "--divide one"),
        (["--root", "FOOTAGE", "--divide", "1=1"], "--divide 1=1"),
        (["--root", "FOOTAGE", "--like", "nothing-lite"], "nothing-lite"),
        (["--root", "FOOTAGE", "--clicks", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_cannot_be_is_one_line(
    model: Path, readable: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(readable) if word == "FOOTAGE" else word for word in words]
    assert main(["--model", str(model), *words]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "random weights" not in line]
    assert len(error) == 1
    assert says in error[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["/no/such/footage"], "no such folder or clip"),
        ([".", "--clip", "/no/such.mp4"], "--clip /no/such.mp4: no such clip"),
        ([".", "--serve", "nowhere"], "--serve nowhere"),
        ([".", "--serve", "127.0.0.1:99999"], "--serve 127.0.0.1:99999"),
    ],
)
def test_the_studio_refuses_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert studio_main([*words, "--project", "p"]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
