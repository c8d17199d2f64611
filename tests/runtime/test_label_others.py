"""il2vseg.label writes over nothing that it did not write, and shows no keys."""

from pathlib import Path

import pytest

from il2vseg import label

from .conftest import needs
from .test_label import write_archive

needs("pyarrow", "cluster")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402


def test_masks_that_a_person_drew_are_not_replaced(
    tmp_path: Path, model: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = write_archive(tmp_path / "archive", 1, clip)
    mask = tmp_path / "out/labels/image_0.png.png"
    mask.parent.mkdir(parents=True)
    mask.write_bytes(b"mine")
    flags = ["--source", str(archive), "--model", str(model), "--out", str(tmp_path / "out")]
    assert label.main(flags) == 2
    assert "did not write this" in capsys.readouterr().err
    assert mask.read_bytes() == b"mine"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["labels"]


@pytest.mark.parametrize("name", ["label.json", "index.parquet"])
@pytest.mark.parametrize("content", [b"{}", b"[1]", b"mine", None])
def test_files_of_others_are_not_taken_for_the_index(
    tmp_path: Path,
    model: Path,
    clip: Path,
    name: str,
    content: bytes | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive, out = write_archive(tmp_path / "archive", 1, clip), tmp_path / "out"
    out.mkdir()
    if content is None:
        pq.write_table(pa.table({"price": [1]}), out / name)
    else:
        (out / name).write_bytes(content)
    before = (out / name).read_bytes()
    assert label.main(["--source", str(archive), "--model", str(model), "--out", str(out)]) == 2
    assert (out / name).read_bytes() == before
    assert name in capsys.readouterr().err


def test_labels_in_a_linked_folder_of_the_archive_are_no_footage(tmp_path: Path) -> None:
    (tmp_path / "archive/out/labels").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "archive/out")
    archive, out = label.Place.of(str(tmp_path / "archive")), label.Place.of(str(tmp_path / "link"))
    assert archive.real("out/labels/a.png").startswith(out.real("labels") + "/")


@pytest.mark.parametrize("flag", ["--source", "--out", "--model"])
def test_keys_of_an_object_store_are_not_shown(
    tmp_path: Path, model: Path, clip: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "--source": str(write_archive(tmp_path / "archive", 1, clip)),
        "--out": str(tmp_path / "out"),
        "--model": str(model),
    } | {flag: "nosuch://KEY:geh/eim@fleet/2026?secret_key=geheim"}
    assert label.main([word for pair in places.items() for word in pair]) == 2
    error = capsys.readouterr().err
    assert "nosuch" in error
    assert "eim" not in error
    assert "KEY" not in error
