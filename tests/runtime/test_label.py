"""Labels of an archive: nothing lost, nothing twice, whoever is killed."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from il2vseg import label
from il2vseg.base.images import Frame, Labels, read_frame, resize_frame, resize_labels
from il2vseg.base.media.clips import Clip
from il2vseg.data.archive import Place
from il2vseg.labelling import writers
from il2vseg.labelling.index import INDEX, PARTS, index_schema

from .conftest import CLASSES, SIZE, needs, reference
from .object_store import object_store

needs("ray", "cluster")
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

IMAGES = 60


def write_archive(
    folder: Path, images: int, clip: Path | None = None, size: tuple[int, int] = (960, 1280)
) -> Path:
    from il2vseg.data.synthetic import render

    scene = render(1, 0, (90, 120))[0]
    for i in range(images):
        file = folder / f"boat{i % 3}" / f"{i:03d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), resize_frame(np.roll(scene, 2 * i, 1), size))
    if clip is not None:
        (folder / "river.mp4").write_bytes(clip.read_bytes())
    (folder / "broken.jpg").write_bytes(b"not an image")
    (folder / "notes.txt").write_text("not footage")
    return folder


def expected(frame: Frame) -> Labels:
    """What the model says of a frame, without any of the code under test."""
    return resize_labels(reference(resize_frame(frame, SIZE)), (frame.shape[0], frame.shape[1]))


def agrees(found: Labels, frame: Frame) -> bool:
    return found.shape == frame.shape[:2] and bool((found == expected(frame)).mean() > 0.99)


def clip_frames(path: Path) -> list[Frame]:
    with Clip(path) as opened:
        return [picture.frame for picture in opened]


def read_index(out: Path) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(out / INDEX).to_pylist()
    assert len({row["source"] for row in rows}) == len(rows), "a source is there twice"
    return {row["source"]: row for row in rows}


# --- in one process ----------------------------------------------------------------------------------------


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let one worker do all tasks here, three files each; return what every run was asked to label."""
    asked: list[list[str]] = []

    def labelled(todo: list[str], job: label.Job, *_: object) -> Iterator[list[dict[str, Any]]]:
        asked.append(todo)
        worker = label.Worker(job)
        for i in range(0, len(todo), 3):
            yield worker(pa.table({"source": todo[i : i + 3]})).to_pylist()

    monkeypatch.setattr(label, "labelled", labelled)
    monkeypatch.setattr(label, "start_ray", lambda _: 1)
    return asked


def run(*arguments: object) -> int:
    return label.main([*map(str, arguments), "--provider", "cpu"])


def test_runs_of_class_ids_give_the_labels_back(
    tmp_path: Path, model: Path, clip: Path, without_ray: list[list[str]]
) -> None:
    archive, out = write_archive(tmp_path / "archive", 3, clip, (90, 120)), tmp_path / "out"
    assert run("--source", archive, "--model", model, "--out", out, "--format", "rle") == 0
    index = read_index(out)
    for source in ("boat0/000.jpg", "river.mp4"):
        assert index[source]["labels"] == f"labels/{source}.parquet"
        rows = pq.read_table(out / index[source]["labels"]).to_pylist()
        path = archive / source
        frames = [read_frame(path)] if path.suffix == ".jpg" else clip_frames(path)
        assert [row["frame"] for row in rows] == list(range(len(frames)))
        assert index[source]["frames"] == len(frames)
        shares = np.zeros(len(CLASSES))
        for row, frame in zip(rows, frames, strict=True):
            found = writers.labels_of_runs(row["values"], row["lengths"], (row["height"], row["width"]))
            assert agrees(found, frame)
            shares += np.bincount(found.ravel(), minlength=len(CLASSES)) / found.size
        assert index[source]["fractions"] == pytest.approx(shares / len(frames), abs=1e-6)


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2)))
def test_runs_are_maximal_and_invertible(labels: Labels) -> None:
    values, lengths = writers.run_lengths(labels)
    assert not (values[1:] == values[:-1]).any()
    assert lengths.sum() == labels.size
    np.testing.assert_array_equal(writers.labels_of_runs(values, lengths, labels.shape), labels)  # type: ignore[arg-type]


def test_a_second_run_labels_what_is_new_and_what_could_not_be_read(
    tmp_path: Path, model: Path, without_ray: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    archive, out = write_archive(tmp_path / "archive", 4, size=(90, 120)), tmp_path / "out"
    command = ["--source", archive, "--model", model, "--out", out]
    assert run(*command) == 0
    assert "4 of 5 files labelled" in capsys.readouterr().err
    assert read_index(out)["broken.jpg"]["error"] == "not a readable image"
    (archive / "broken.jpg").write_bytes((archive / "boat0/000.jpg").read_bytes())
    (archive / "new.jpg").write_bytes((archive / "boat1/001.jpg").read_bytes())
    assert run(*command) == 0
    assert without_ray[1] == ["broken.jpg", "new.jpg"]
    assert {name for name, row in read_index(out).items() if row["error"]} == set()
    assert run(*command) == 0
    assert len(without_ray) == 2  # nothing to do, so no Ray
    assert "6 of 6 files labelled, 0 of them (0 frames) now" in capsys.readouterr().err


def test_a_run_that_stops_keeps_what_it_did(
    tmp_path: Path, model: Path, without_ray: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, out = write_archive(tmp_path / "archive", 8, size=(90, 120)), tmp_path / "out"
    original = label.Worker.label

    def stop(self: label.Worker, source: str) -> dict[str, Any]:
        if source == "boat2/002.jpg":
            raise KeyboardInterrupt
        return original(self, source)

    command = ["--source", archive, "--model", model, "--out", out]
    with monkeypatch.context() as patch:
        patch.setattr(label.Worker, "label", stop)
        assert run(*command) == 130
    done = set(read_index(out))
    assert len(done) == 6
    assert run(*command) == 0
    assert not done & set(without_ray[1]) - {"broken.jpg"}
    assert len(read_index(out)) == 9


@given(st.lists(st.sampled_from(["a.jpg", "b.mp4"])), st.integers(1, 9))
def test_tasks_hold_every_file_once_clips_alone_and_first(kinds: list[str], workers: int) -> None:
    todo = [f"{i}{kind}" for i, kind in enumerate(kinds)]
    tasks = label.divide(todo, workers)
    assert sorted(name for task in tasks for name in task) == sorted(todo)
    clips = [task for task in tasks if any(name.endswith(".mp4") for name in task)]
    assert clips == tasks[: len(clips)]
    assert all(len(task) == 1 for task in clips)
    assert all(1 <= len(task) <= label.IMAGES_A_TASK for task in tasks)


def test_an_index_cut_off_while_it_was_merged_holds_every_source_once(tmp_path: Path) -> None:
    def row(source: str, error: str | None = None) -> dict[str, Any]:
        return dict.fromkeys(index_schema().names) | {"source": source, "frames": 1, "error": error}

    out = Place.of(str(tmp_path))
    index = label.Index(out)
    index.add([row("a"), row("b", "unreadable")])
    index.flush()
    index.add([row("b"), row("c")])
    index.flush()
    shutil.copytree(tmp_path / PARTS, tmp_path / "kept")
    index.close()
    shutil.copytree(tmp_path / "kept", tmp_path / PARTS)  # as if the parts had not been deleted yet
    again = label.Index(out)
    assert again.done == {"a", "b", "c"}
    assert set(read_index(tmp_path)) == {"a", "b", "c"}
    assert not (tmp_path / PARTS).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--format", "rle"], "labels of another format (png, not rle)"),
        (["--model", "OTHER"], "labels of another model"),
        (["--source", "OTHER"], "labels of another archive"),
    ],
)
def test_labels_of_two_kinds_never_share_a_folder(
    change: list[str], message: str, tmp_path: Path, model: Path, without_ray: list[list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from .conftest import write_model

    archive, out = write_archive(tmp_path / "archive", 1, size=(90, 120)), tmp_path / "out"
    assert run("--source", archive, "--model", model, "--out", out) == 0
    other = write_archive(write_model(tmp_path / "other"), 1, size=(90, 120))
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"training_data": "others"}))
    change = [str(other) if c == "OTHER" else c for c in change]
    assert run("--source", archive, "--model", model, "--out", out, *change) == 2
    assert message in capsys.readouterr().err


def test_archive_model_and_labels_may_lie_in_an_object_store(
    tmp_path: Path, model: Path, clip: Path, without_ray: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anybody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    archive = write_archive(tmp_path / "archive", 3, clip, (90, 120))
    with object_store() as (objects, options):
        for folder, prefix in ((archive, "2026/"), (model, "models/m/")):
            for file in folder.rglob("*"):
                if file.is_file():
                    objects[prefix + file.relative_to(folder).as_posix()] = file.read_bytes()
        command = ["--source", f"s3://fleet/2026{options}", "--model", f"s3://fleet/models/m{options}"]
        command += ["--out", f"s3://fleet/out/{options}"]
        assert run(*command) == 0
        assert run(*command) == 0
        assert without_ray[1:] == [["broken.jpg"]]
        rows = pq.read_table(pa.BufferReader(objects["out/index.parquet"])).to_pylist()
        assert {r["source"]: r["frames"] for r in rows} == {
            "boat0/000.jpg": 1, "boat1/001.jpg": 1, "boat2/002.jpg": 1, "broken.jpg": 0, "river.mp4": 12,
        }  # fmt: skip
        found = {k for k in objects if k.startswith("out/") and not k.endswith("/")}
        assert len(found) == 3 + 12 + len({INDEX, label.SETTINGS})
        labels = cv2.imdecode(
            np.frombuffer(objects["out/labels/boat1/001.jpg.png"], np.uint8), cv2.IMREAD_UNCHANGED
        )
        assert agrees(np.asarray(labels, np.uint8), read_frame(archive / "boat1/001.jpg"))


def test_labels_inside_the_archive_are_not_footage(
    tmp_path: Path, model: Path, without_ray: list[list[str]]
) -> None:
    archive = write_archive(tmp_path / "archive", 2, size=(90, 120))
    for _ in range(2):
        assert run("--source", archive, "--model", model, "--out", archive / "out") == 0
    assert len(read_index(archive / "out")) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "nowhere"], "no image and no clip there"),
        (["--source", "archive/*.mp4"], "no image and no clip there"),
        (["--source", "archive/broken.jpg"], "none of 1 files could be read"),
        (["--source", "nosuch://bucket"], "nosuch"),
        (["--source", "archive", "--model", "nowhere"], "no such model"),
        (["--source", "archive", "--model", "mock://nowhere"], "no exported model there"),
        (["--source", "archive", "--out", "/dev/null/x"], "/dev/null/x"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str], message: str, tmp_path: Path, model: Path, without_ray: list[list[str]],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_archive(tmp_path / "archive", 1, size=(90, 120))
    monkeypatch.chdir(tmp_path)
    assert run("--model", model, "--out", "out", *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_a_model_that_does_not_run_ends_the_run(
    tmp_path: Path, model: Path, without_ray: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    archive = write_archive(tmp_path / "archive", 1, size=(90, 120))
    command = ["--source", archive, "--model", model, "--out", tmp_path / "out", "--provider", "tensorrt"]
    assert label.main([str(c) for c in command]) == 2
    assert "tensorrt" in capsys.readouterr().err.splitlines()[-1]
    assert read_index(tmp_path / "out") == {}


def test_a_disk_that_is_full_ends_the_run_and_is_no_fault_of_the_archive(
    tmp_path: Path, model: Path, without_ray: list[list[str]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    put = Place.put

    def full(self: Place, name: str, data: bytes) -> None:
        if name.startswith("labels/"):
            raise OSError(28, "No space left on device", name)
        put(self, name, data)

    monkeypatch.setattr(Place, "put", full)
    archive, out = write_archive(tmp_path / "archive", 1, size=(90, 120)), tmp_path / "out"
    assert run("--source", archive, "--model", model, "--out", out) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not [row for row in read_index(out).values() if row["error"] is None]
