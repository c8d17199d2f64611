"""il2vseg-run writes over no footage, no labels of another frame, no pictures that it did not make."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from il2vseg.base.images import Frame, write_image
from il2vseg.runtime.cli import main

Run = Callable[..., int]


@pytest.fixture
def run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main(["--model", str(model), *map(str, arguments)])


@pytest.fixture
def images(tmp_path: Path, frames: list[Frame]) -> Path:
    for number in range(3):
        write_image(tmp_path / f"frames/f{number}.png", frames[number])
    return tmp_path / "frames"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("spelling", ["frames", "frames/../frames", "link", "hard"])
def test_labels_do_not_replace_the_images(
    run: Run, images: Path, spelling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("link").symlink_to("frames")
    Path("hard").mkdir()
    os.link("frames/f2.png", "hard/f2.png")
    before = contents(images)
    assert run("--source", "frames", "--save-labels", spelling, "--jsonl", "o.jsonl") == 2
    assert contents(images) == before
    error = capsys.readouterr().err
    assert "choose another --save-labels folder" in error
    assert error.count("\n") == 1
    assert not Path("o.jsonl").exists()  # nothing at all was written


@pytest.mark.parametrize("flag", ["--save-video", "--jsonl", "--mcap"])
@pytest.mark.parametrize("spelling", ["in/river.mp4", "./in/../in/river.mp4", "link.mp4"])
def test_a_clip_is_not_written_over(run: Run, clip: Path, flag: str, spelling: str) -> None:
    Path("in").mkdir()
    shutil.copy(clip, "in/river.mp4")
    Path("link.mp4").symlink_to("in/river.mp4")
    for source in ("in/river.mp4", "in", "in/*.mp4"):
        assert run("--source", source, flag, spelling) == 2
    assert Path("in/river.mp4").read_bytes() == clip.read_bytes()


def test_model_and_settings_are_not_written_over(
    run: Run, clip: Path, make_model: Callable[[str], Path]
) -> None:
    model = make_model("m")
    before = contents(model)
    assert run("--model", model, "--source", clip, "--jsonl", model / "manifest.json") == 2
    assert contents(model) == before
    Path("boat.yaml").write_text(f"source: {clip}\n")
    assert run("--config", "boat.yaml", "--jsonl", "boat.yaml") == 2
    assert Path("boat.yaml").read_text().startswith("source")


def test_two_outputs_do_not_share_a_file(run: Run, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--source", clip, "--jsonl", "o.mkv", "--save-video", "o.mkv") == 2
    assert "one file" in capsys.readouterr().err


def test_masks_that_a_person_drew_are_not_replaced(run: Run, images: Path, frames: list[Frame]) -> None:
    write_image(Path("masks/f1.png"), frames[0][..., 0])
    before = contents(Path("masks"))
    assert run("--source", "frames", "--save-labels", "masks") == 2
    assert contents(Path("masks")) == before
    write_image(Path("old/frame_000007.png"), frames[0][..., 0])
    assert run("--source", "synthetic:frames=3,size=48x64", "--save-labels", "old") == 2


def test_labels_may_be_written_again(run: Run, images: Path) -> None:
    for _ in range(2):
        assert run("--source", "frames", "--save-labels", "labels") == 0
    assert len(list(Path("labels").glob("*.png"))) == 3


def test_clips_of_one_stem_have_labels_of_their_own(run: Run, clip: Path) -> None:
    Path("in").mkdir()
    for name in ("a.mp4", "a.mov", "A.mkv"):
        shutil.copy(clip, Path("in") / name)
    assert run("--source", "in", "--save-labels", "labels") == 0
    found = sorted(p.relative_to("labels").as_posix() for p in Path("labels").rglob("*.png"))
    assert len({name.casefold() for name in found}) == 36


@pytest.mark.parametrize(
    "name", ["12:30:05.mp4", "a%03d?.mp4", "-x.mp4", "'q' \"r\".mp4", "rtsp:x.mp4", "ü ñ.mp4"]
)
def test_names_of_clips_may_hold_any_character(run: Run, clip: Path, name: str) -> None:
    shutil.copy(clip, name)
    assert run(f"--source={name}", "--save-labels", "labels", f"--save-video=o{name}") == 0
    assert len(list(Path("labels").glob("*.png"))) == 12
    assert Path(f"o{name}").stat().st_size > 0
    assert Path(name).read_bytes() == clip.read_bytes()


def test_the_quota_deletes_recordings_only(run: Run, clip: Path, frames: list[Frame]) -> None:
    Path("rec/holiday").mkdir(parents=True)
    shutil.copy(clip, "rec/holiday/wedding.mp4")
    shutil.copy(clip, "rec/20200101-000000.mp4")  # a name as ours, but not ours
    write_image(Path("rec/photo.png"), frames[0])
    for path in Path("rec").rglob("*.*"):
        os.utime(path, (0, 0))
    before = contents(Path("rec"))
    outputs = ("--save-video", "rec/%Y%m%d-%H%M%S.mp4", "--segment", 600, "--disk-quota", 1e-9)
    assert run("--source", clip, *outputs) == 0
    (first,) = set(contents(Path("rec"))) - set(before) - {".il2vseg-recordings"}
    past = time.time() - 100
    os.utime(f"rec/{first}", (past, past))
    ledger = Path("rec/.il2vseg-recordings")
    ledger.write_text(ledger.read_text().replace(ledger.read_text().split('"ended": ')[1][:17], str(past)))
    assert run("--source", clip, *outputs) == 0
    after = contents(Path("rec"))
    assert first not in after  # ours, and old
    assert {name: after[name] for name in before} == before
