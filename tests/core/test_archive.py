"""What counts as footage, wherever it lies."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from il2vseg.base.errors import UserError
from il2vseg.data.archive import Place, list_footage

FILES = (
    "a.jpg", "b/a.jpg", "b/a.PNG", "b/c/d.mp4", "b/c/e f.jpg", "b/notes.txt", ".cache/x.jpg", "b/.hidden.jpg",
)  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path, require: Callable[[object, str], None]) -> Path:
    from importlib.util import find_spec

    require(find_spec("pyarrow"), "pyarrow is not installed (pip install 'il2vseg[cluster]')")
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


ALL = ["a.jpg", "b/a.PNG", "b/a.jpg", "b/c/d.mp4", "b/c/e f.jpg"]


@pytest.mark.parametrize(
    ("where", "root", "names"),
    [
        ("", "", ALL),
        ("/", "", ALL),
        ("/b", "/b", ["a.PNG", "a.jpg", "c/d.mp4", "c/e f.jpg"]),
        ("/*.jpg", "", ["a.jpg"]),
        ("/**", "", ALL),
        ("/**/*.jpg", "", ["a.jpg", "b/a.jpg", "b/c/e f.jpg"]),
        ("/*/*.jpg", "", ["b/a.jpg"]),
        ("/b/*/*", "/b", ["c/d.mp4", "c/e f.jpg"]),
        ("/b/c/e*", "/b/c", ["e f.jpg"]),
        ("/b/c/d.mp4", "/b/c", ["d.mp4"]),
    ],
)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_folders_patterns_and_files_are_listed(
    scheme: str, where: str, root: str, names: list[str], archive: Path
) -> None:
    place, found = list_footage(f"{scheme}{archive}{where}")
    assert found == names
    assert place.root == f"{archive}{root}"
    assert place.get(names[0]).decode().endswith(names[0])


def test_patterns_are_relative_to_the_working_folder(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(archive)
    for pattern in ("*.jpg", "./*.jpg"):
        place, names = list_footage(pattern)
        assert (place.root, names) == (str(archive), ["a.jpg"])
    assert list_footage("b/*.jpg")[1] == ["a.jpg"]
    assert list_footage(".")[1] == ALL


@pytest.mark.parametrize("where", ["nowhere", "b/*.webm", "b/notes.txt", "nowhere/*"])
def test_nothing_to_read_is_the_users_to_mend(where: str, archive: Path) -> None:
    with pytest.raises(UserError, match="no image and no clip there"):
        list_footage(f"{archive}/{where}")


def test_an_unknown_scheme_is_named(archive: Path) -> None:
    with pytest.raises(UserError, match="nosuch://bucket"):
        Place.of("nosuch://bucket/x")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_files_are_written_read_and_deleted(scheme: str, archive: Path) -> None:
    place = pickle.loads(pickle.dumps(Place.of(f"{scheme}{archive}/new")))
    assert place.names() == []
    place.put("x/y.png", b"data")
    place.put("x/y.png", b"more data")
    assert place.names() == place.names("x") == ["x/y.png"]
    assert place.get("x/y.png") == b"more data"
    assert place.is_file("x/y.png")
    assert not place.is_file("x")
    with place.on_disk("x/y.png") as path:
        assert path == archive / "new/x/y.png"  # no copy of what is on this machine
    place.delete_folder("x")
    place.delete_folder("x")
    assert place.names() == []


def test_a_remote_file_is_copied_and_the_copy_deleted(archive: Path) -> None:
    from pyarrow import fs

    memory, _ = fs.FileSystem.from_uri("mock:///")
    place = Place(memory, "fleet")
    memory.create_dir("fleet")
    place.put("clip.mp4", b"frames")
    with place.on_disk("clip.mp4") as path:
        assert path.suffix == ".mp4"
        assert path.read_bytes() == b"frames"
    assert not path.exists()
    assert not place.local
