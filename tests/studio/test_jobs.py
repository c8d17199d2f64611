"""Commands that run beside the studio: found again, stopped, and what they say."""

import fcntl
import json
import time
from pathlib import Path

import pytest

from il2vseg.base.errors import UserError
from il2vseg.studio.jobs import Job, read_log
from il2vseg.studio.project import Footage, Project
from il2vseg.studio.steps import Options, distill_words, export_words, train_words


def waited(job: Job, seconds: float = 60) -> str:
    end = time.monotonic() + seconds
    while (state := job.report().state) == "running":
        assert time.monotonic() < end
        time.sleep(0.05)
    return state


def test_a_command_leaves_its_code_and_words(tmp_path: Path) -> None:
    job = Job(tmp_path / "train")
    assert job.report().state == "none"
    job.start(["run", "--source", "/nowhere.mp4"], {"of": "model"})
    assert job.running()
    with pytest.raises(UserError, match="runs already"):
        job.start(["run"])
    assert waited(job) == "failed"
    report = Job(tmp_path / "train").report()  # as a studio that was started again sees it
    assert (report.code, report.facts) == (2, {"of": "model"})
    assert report.command == "il2vseg run --source /nowhere.mp4"
    assert "/nowhere.mp4" in report.messages[-1]


def test_a_job_that_ended_without_a_word_was_interrupted(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    values = {"pid": 1, "started": time.time() - 9, "command": "il2vseg train", "facts": {}}
    (folder / "job.json").write_text(json.dumps(values))
    job = Job(folder)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert job.report().state == "running"
        assert job.running()
    assert job.report().state == "interrupted"
    with pytest.raises(UserError, match="does not run"):
        job.stop()
    (folder / "code").write_text("130\n")
    assert job.report().state == "interrupted"
    (folder / "code").write_text("0\n")
    assert job.report().state == "done"


def test_a_log_is_progress_messages_and_losses() -> None:
    lines = [
        "il2vseg: a plain line",
        '{"stage": "features", "done": 3, "total": 9}',
        '{"say": "whitening: 8 dimensions"}',
        *(
            f'{{"stage": "stego", "done": {i}, "total": 900, "losses": {{"corr": {-i}}}}}'
            for i in range(1, 901)
        ),
        '{"stage": "cut off',
    ]
    found = read_log("\n".join(lines))
    assert (found["stage"], found["done"], found["total"]) == ("stego", 900, 900)
    assert found["messages"] == ("il2vseg: a plain line", "whitening: 8 dimensions")
    assert len(found["losses"]) == 300
    assert found["losses"][0] == (0, {"corr": -1})


def test_the_words_are_those_of_the_commands(tmp_path: Path) -> None:
    footage = tmp_path / "river"
    footage.mkdir()
    project = Project(tmp_path / "my boat", Footage("folder", footage, "0,1 1,1 0.5,0.9"))
    words = train_words(project, Options("tiny", "stego"), {"clusters": 2, "steps": 5, "resume": True})
    assert words == [
        "train", "--dataset", "folder", "--root", str(footage), "--ignore-mask", "0,1 1,1 0.5,0.9",
        "--out", str(project.model), "--backbone", "tiny", "--clusters", "2", "--num-classes", "2",
        "--steps", "5", "--method", "stego", "--resume", "--progress", "json",
    ]  # fmt: skip
    assert "--steps" not in train_words(project, Options(), {"steps": 5})  # the default method takes none
    with pytest.raises(UserError, match="train a model"):
        distill_words(project, Options(), {})
    project.model.mkdir()
    (project.model / "checkpoint.safetensors").touch()
    assert distill_words(project, Options(), {"steps": 7})[-8:] == [
        "--out", str(project.student), "--held-out", "20", "--steps", "7", "--progress", "json",
    ]  # fmt: skip
    with pytest.raises(UserError, match="distil"):
        export_words(project, Options(), {})
    words = export_words(project, Options(), {"what": "model", "precision": "int8"})
    assert words[words.index("--name") + 1] == "my-boat"
    assert words[words.index("--verify") + 1] == str(footage)


@pytest.mark.parametrize("words", [train_words, distill_words, export_words])
def test_every_flag_of_the_words_is_one_of_the_command(tmp_path: Path, words: object) -> None:
    import dataclasses

    from il2vseg.signatures import settings_of

    project = Project(tmp_path / "p", Footage("folder", tmp_path, "0,1 1,1 0.5,0.9"))
    project.model.mkdir()
    (project.model / "checkpoint.safetensors").touch()
    settings = {"clusters": 2, "steps": 5, "frames": 3, "seed": 1, "resume": True, "what": "model"}
    verb, *rest = words(project, Options(method="stego", weights=Path("w")), settings)  # type: ignore[operator]
    known = {"--" + f.name.replace("_", "-") for f in dataclasses.fields(settings_of(verb))}
    assert {word for word in rest if word.startswith("--")} <= known
