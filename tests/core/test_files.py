import errno
import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from il2vseg.base.errors import CheckFailed, UserError, run_command
from il2vseg.base.files import (
    IMAGE_SUFFIXES,
    atomic_path,
    list_files,
    require_writable_dir,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)


def contents(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text("old")

    def write() -> None:
        with atomic_path(file) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert file.read_text() == "old"
    assert contents(tmp_path) == {"result.json"}


def test_full_disk_names_the_file_and_keeps_the_old_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.bin"
    file.write_bytes(b"old")

    def write() -> None:
        with atomic_path(file) as temporary:
            temporary.unlink()
            temporary.symlink_to("/dev/full")  # every write to it fails as on a full disk
            temporary.write_bytes(b"new")

    assert run_command(write, "command") == 2
    assert capsys.readouterr().err == f"command: {file}: {os.strerror(errno.ENOSPC)}\n"
    assert file.read_bytes() == b"old"
    assert contents(tmp_path) == {"result.bin"}


def test_file_in_place_of_a_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run_command(lambda: write_text(tmp_path / "file" / "result.txt", "x"), "command") == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_written_files_obey_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_folders_are_made_and_long_names_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / ("n" * 250 + ".txt")
    write_text(file, "é")
    assert file.read_text(encoding="utf-8") == "é"


def test_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "shared.bin"
    threads = [threading.Thread(target=write_bytes, args=(file, bytes([i]) * 100_000)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = file.read_bytes()
    assert len(data) == 100_000
    assert len(set(data)) == 1
    assert contents(tmp_path) == {"shared.bin"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_json_reads_back(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "v.json", value)
    assert json.loads((tmp_path / "v.json").read_text()) == value


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_listing_is_in_natural_order_without_hidden_files(tmp_path: Path) -> None:
    for name in (
        "f_10.png",
        "f_2.JPG",
        "f_1.png",
        "f_01.png",
        "a²/x.png",
        ".f_3.png",
        ".cache/f_4.png",
        "note.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "folder.png").mkdir()
    found = [p.relative_to(tmp_path).as_posix() for p in list_files(tmp_path, IMAGE_SUFFIXES)]
    assert found == ["a²/x.png", "f_01.png", "f_1.png", "f_2.JPG", "f_10.png"]


def test_listing_below_a_hidden_folder_that_was_named_works(tmp_path: Path) -> None:
    write_text(tmp_path / ".data" / "a.png", "")
    assert list_files(tmp_path / ".data", IMAGE_SUFFIXES) == [tmp_path / ".data" / "a.png"]


names = st.text(st.sampled_from("ab019²٣_"), min_size=1, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.sets(names, max_size=8))
def test_listing_takes_any_name_and_always_gives_the_same_order(
    tmp_path_factory: pytest.TempPathFactory, stems: set[str]
) -> None:
    listings = []
    for order in (sorted(stems), sorted(stems, reverse=True)):
        folder = tmp_path_factory.mktemp("listing")
        for stem in order:
            (folder / f"{stem}.png").write_bytes(b"")
        listings.append([p.stem for p in list_files(folder, IMAGE_SUFFIXES)])
    assert listings[0] == listings[1]
    assert set(listings[0]) == stems


def test_listing_a_missing_folder_or_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        list_files(tmp_path / "absent", IMAGE_SUFFIXES)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        list_files(tmp_path / "file", IMAGE_SUFFIXES)


def test_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    assert require_writable_dir(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/il2vseg")):
        with pytest.raises(UserError, match="cannot write here"):
            require_writable_dir(folder)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (CheckFailed("parity"), 1),
        (UserError("bad input"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_outcome_of_a_command(
    error: BaseException | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        if error:
            raise error

    assert run_command(command, "name") == code
    assert capsys.readouterr().err.count("\n") == (error is not None)


def test_bug_keeps_its_traceback() -> None:
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(command, "name")


def test_reader_that_leaves_is_no_error() -> None:
    import subprocess
    import sys

    code = """
from il2vseg.base.errors import run_command
def command():
    for i in range(100_000):
        print(i, flush=True)
raise SystemExit(run_command(command, "name"))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141
