"""Outputs never land on inputs, frames never share a name, and the ledger knows its own."""

import importlib
import os
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from il2vseg.base.errors import UserError
from il2vseg.base.images import encode_labels, is_label_image, read_labels, write_image
from il2vseg.base.outputs import (
    Entry,
    Ledger,
    footage_files,
    frame_names,
    key_of,
    model_files,
    protect,
    protect_run,
    require_only,
)

# --- outputs and inputs ---------------------------------------------------------------------------------


@pytest.fixture
def footage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = Path("footage")
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.jpg", "c.mp4", "notes.txt"):
        (folder / name).write_text("mine")
    return folder


def symbolic(path: Path) -> Path:
    link = Path("link.png")
    link.symlink_to(path.resolve())
    return link


def hard(path: Path) -> Path:
    os.link(path, "hard.png")
    return Path("hard.png")


def linked_folder(path: Path) -> Path:
    Path("other").symlink_to(path.parent.resolve())
    return Path("other") / path.name


SPELLINGS: dict[str, Callable[[Path], Path]] = {
    "as given": lambda path: path,
    "absolute": lambda path: path.resolve(),
    "dots": lambda path: Path("footage/deep/../a.png"),
    "symbolic link": symbolic,
    "hard link": hard,
    "linked folder": linked_folder,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_input_is_not_written_over_however_it_is_spelt(footage: Path, spelling: str) -> None:
    output = SPELLINGS[spelling](footage / "a.png")
    with pytest.raises(UserError, match=r"is read by this run .*choose another output"):
        protect([Path("new.mp4"), output], footage_files(footage))


def test_a_file_system_that_ignores_case_hides_nothing(
    footage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = Path.stat

    def insensitive(self: Path, **options: bool) -> os.stat_result:
        return stat(self if os.path.lexists(self) else Path(str(self).lower()), **options)

    monkeypatch.setattr(Path, "stat", insensitive)
    with pytest.raises(UserError, match=r"footage/A.PNG: is footage/a.png, which is read"):
        protect([footage / "A.PNG"], footage_files(footage))


def test_outputs_beside_the_footage_are_fine(footage: Path) -> None:
    protect([footage / "overlay.mp4", footage / "notes.txt", Path("x/y.json")], footage_files(footage))


def test_two_outputs_are_not_one_file(footage: Path) -> None:
    Path("same").symlink_to(".")
    for other in (Path("o.json"), Path("same/o.json"), Path("O.JSON"), Path("footage/../o.json")):
        with pytest.raises(UserError, match="one file"):
            protect([Path("o.json"), other], [])
    protect([Path("/dev/null"), Path("/dev/null")], [])


def test_what_is_not_there_costs_no_look_at_the_footage(tmp_path: Path) -> None:
    def untouchable() -> None:
        raise AssertionError("100,000 files would be looked at")

    protect([tmp_path / "new.json"], (untouchable() for _ in range(1)))  # type: ignore[misc, func-returns-value]


def test_a_run_replaces_its_own_output_below_the_footage_and_nothing_else(footage: Path) -> None:
    out = footage / "runs/first"
    out.mkdir(parents=True)
    (out / "preview.png").touch()
    with pytest.raises(UserError, match=r"preview\.png: is read by this run"):
        protect_run(out, ["preview.png"], footage)
    (out / "metrics.jsonl").touch()  # it is the folder of a run: trained here before
    protect_run(out.resolve(), ["preview.png"], footage)
    with pytest.raises(UserError, match="is read by this run"):
        protect_run(out, ["preview.png"], footage, [out / "preview.png"])
    (footage / "metrics.jsonl").touch()
    with pytest.raises(UserError, match=r"a\.png, which is read by this run .*choose another --out"):
        protect_run(footage, ["a.png"], footage.resolve())


def test_a_folder_with_anything_else_in_it_is_not_deleted(tmp_path: Path) -> None:
    require_only(tmp_path / "missing", ("model*",))
    (tmp_path / "rejected/deep").mkdir(parents=True)
    (tmp_path / "rejected/model.onnx").touch()
    require_only(tmp_path / "rejected", ("model*", "parity*"))
    (tmp_path / "rejected/deep/holiday.jpg").touch()
    with pytest.raises(UserError, match=r"holiday\.jpg: .* is to be replaced"):
        require_only(tmp_path / "rejected", ("model*", "parity*"))


def test_a_model_is_what_it_is_loaded_from(tmp_path: Path) -> None:
    for name in ("model.onnx", "manifest.json", "parity.json", "clusters.png", "checkpoint.safetensors"):
        (tmp_path / name).touch()
    assert {p.name for p in model_files(tmp_path)} == {
        "model.onnx",
        "manifest.json",
        "checkpoint.safetensors",
    }
    assert model_files(tmp_path / "model.onnx") == [tmp_path / "model.onnx"]
    assert model_files(None) == []


@pytest.mark.parametrize(
    ("module", "flags", "kept"),
    [
        ("il2vseg.train", "--dataset folder --root here --out here", "preview.png"),
        ("il2vseg.distill", "--teacher here --out here --dataset folder --root x", "checkpoint.safetensors"),
        ("il2vseg.distill", "--teacher x --out here --dataset folder --root here", "preview.png"),
        (
            "il2vseg.evaluate",
            "--checkpoint x --dataset camvid --root here --json here/preview.png",
            "preview.png",
        ),
        ("il2vseg.evaluate", "--checkpoint x --dataset camvid --root here --plots here", "sheet.png"),
        ("il2vseg.evaluate", "--checkpoint x --assignment here/a.json --json here/../here/a.json", "a.json"),
        (
            "il2vseg.evaluate",
            "--checkpoint here --json here/checkpoint.safetensors",
            "checkpoint.safetensors",
        ),
        ("il2vseg.export.tools.naming", "--model x --root here --picture here/preview.png", "preview.png"),
        ("il2vseg.export.tools.naming", "--model x --from-masks here --picture link.png", "preview.png"),
        ("il2vseg.export.cli", "--checkpoint x --verify here --out here", "parity.png"),
        ("il2vseg.export.cli", "--checkpoint x --calib here --out here", "parity.png"),
        ("il2vseg.export.cli", "--checkpoint x --out here", "rejected/holiday.jpg"),
        ("il2vseg.export.cli", "--checkpoint x --out here --triton", "triton/notes.txt"),
    ],
)
def test_no_command_replaces_what_it_reads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: str,
    flags: str,
    kept: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (Path("here") / kept).parent.mkdir(parents=True)
    (Path("here") / kept).write_text("mine")
    Path("link.png").symlink_to(Path("here") / kept)
    assert importlib.import_module(module).main(flags.split()) == 2
    error = capsys.readouterr().err
    assert Path(kept).name in error or "link.png" in error
    assert error.count("\n") == 1
    assert [p for p in Path("here").rglob("*") if p.is_file()] == [Path("here") / kept]
    assert (Path("here") / kept).read_text() == "mine"


# --- names ----------------------------------------------------------------------------------------------


def named(*files: str) -> list[str]:
    return frame_names([Path("f") / file for file in files], Path("f"))


def test_names_are_short_where_they_can_be() -> None:
    assert named("a.jpg", "sub/b.5.png", "c.mp4") == ["a", "sub/b.5", "c"]
    assert named("a.jpg", "a.png", "b.png") == ["a.jpg", "a.png", "b"]
    assert named("a.mp4", "a.mov") == ["a.mp4", "a.mov"]


@pytest.mark.parametrize(
    "files",
    [
        ("a.jpg", "a.png", "a.png.jpg"),  # what keeps its suffix meets what has two
        ("A.jpg", "a.jpg"),  # one file on exFAT, NTFS and a Mac
        ("e\u0301.jpg", "\u00e9.jpg"),  # the same on a Mac
        ("a.mp4", "a/frame_000000.png"),  # frames of a clip beside a folder of its name
        ("A.MP4", "a/x.jpg", "a.mov"),
        ("clip", "clip.mp4", "clip.mp4.mp4"),
    ],
)
def test_two_files_never_share_a_name(files: tuple[str, ...]) -> None:
    names = named(*files)
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(files)
    frames = [
        n if Path(f).suffix == ".png" else f"{n}/frame_000000" for f, n in zip(files, names, strict=True)
    ]
    assert len({key_of(frame) for frame in frames}) == len(files)


part = st.text("aAéb.~1", min_size=1, max_size=4).filter(lambda t: t.strip(".") != "")
suffix = st.sampled_from([".jpg", ".PNG", ".mp4", ".mov", ""])


@given(
    st.lists(st.tuples(st.sampled_from(["", "a/", "b/"]), part, suffix).map("".join), unique=True, max_size=8)
)
def test_names_differ_for_any_files(files: list[str]) -> None:
    names = named(*files)
    assert len({key_of(name) for name in names}) == len(files)


# --- label images ---------------------------------------------------------------------------------------


def test_label_images_are_known_again(tmp_path: Path) -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    (tmp_path / "ours.png").write_bytes(encode_labels(labels))
    write_image(tmp_path / "theirs.png", labels)
    (tmp_path / "empty.png").touch()
    np.testing.assert_array_equal(read_labels(tmp_path / "ours.png"), labels)
    found = {p.name: is_label_image(p) for p in tmp_path.iterdir()}
    assert found == {"ours.png": True, "theirs.png": False, "empty.png": False}
    assert not is_label_image(tmp_path / "missing.png")


# --- ledger ---------------------------------------------------------------------------------------------


def recorded(folder: Path, name: str, content: bytes = b"video") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder)
    ledger.begin(path)
    path.write_bytes(content)
    ledger.record(path)
    return path


def test_the_ledger_knows_what_was_recorded_and_nothing_else(tmp_path: Path) -> None:
    recorded(tmp_path, "a.mp4")
    recorded(tmp_path, "labels/b.png")
    (tmp_path / "wedding.mp4").write_bytes(b"video")
    assert list(Ledger(tmp_path).files()) == ["a.mp4", "labels/b.png"]


def replaced(path: Path) -> None:
    path.write_bytes(b"a wedding")


def edited(path: Path) -> None:
    os.utime(path, (time.time(), time.time() + 60))


def linked(path: Path) -> None:
    path.rename(path.with_name("kept.mp4"))
    path.symlink_to("kept.mp4")


def moved(path: Path) -> None:
    path.rename(path.with_name("kept.mp4"))


@pytest.mark.parametrize("change", [replaced, edited, linked, moved])
def test_what_a_person_changed_is_no_recording_any_more(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    change(recorded(tmp_path, "a.mp4"))
    assert Ledger(tmp_path).files() == {}


def test_a_recording_that_a_power_cut_ended_is_still_ours(tmp_path: Path) -> None:
    Ledger(tmp_path).begin(tmp_path / "cut.mp4")
    (tmp_path / "cut.mp4").write_bytes(b"vid")
    assert list(Ledger(tmp_path).files()) == ["cut.mp4"]
    old = time.time() - 86_400
    os.utime(tmp_path / "cut.mp4", (old, old))  # older than its recording: somebody put it there
    assert Ledger(tmp_path).files() == {}


def test_a_clock_of_two_seconds_does_not_lose_recordings(tmp_path: Path) -> None:
    path = recorded(tmp_path, "a.mp4")
    even = path.stat().st_mtime // 2 * 2  # FAT, after it was mounted again
    os.utime(path, (even, even))
    assert list(Ledger(tmp_path).files()) == ["a.mp4"]


@pytest.mark.parametrize(
    "line",
    [
        '{"name": "../outside.mp4", "begun": 0}',
        '{"name": "/etc/passwd", "begun": 0}',
        '{"name": "", "begun": 0}',
        '{"name": "a.mp4", "beg',
        '{"name": "a.mp4", "begun": "soon"}',
        "[]",
        "\x00\x00",
    ],
)
def test_a_damaged_ledger_points_at_nothing(tmp_path: Path, line: str) -> None:
    assert Entry.parse(line) is None
    (tmp_path / ".il2vseg-recordings").write_text(line + "\n")
    recorded(tmp_path, "b.mp4")
    assert list(Ledger(tmp_path).files()) == ["b.mp4"]


def test_a_folder_that_became_a_link_leads_nowhere(tmp_path: Path) -> None:
    path = recorded(tmp_path / "rec", "sub/a.mp4")
    path.parent.rename(tmp_path / "elsewhere")
    (tmp_path / "rec/sub").symlink_to(tmp_path / "elsewhere")
    assert Ledger(tmp_path / "rec").files() == {}


def test_what_is_forgotten_stays_so(tmp_path: Path) -> None:
    recorded(tmp_path, "a.mp4")
    recorded(tmp_path, "b.mp4")
    Ledger(tmp_path).forget(["a.mp4"])
    assert list(Ledger(tmp_path).files()) == ["b.mp4"]
    assert len((tmp_path / ".il2vseg-recordings").read_text().splitlines()) == 1
