"""Trying an export, and what is said of a student: what the page shows belongs to what was shown."""

import json
from pathlib import Path

import pytest

from il2vseg.base.images import decode_frame
from il2vseg.runtime.catalog import bundled
from il2vseg.studio.project import Footage, Project
from il2vseg.studio.shown import agreement
from il2vseg.studio.trial import Trial, clips

LITE = next(folder for folder in bundled() if folder.name == "marine-lite")


def test_clips_that_were_given_come_before_the_footage(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    own, given = Footage("folder", tmp_path), tmp_path / "elsewhere" / "b.mp4"
    assert clips(own, [given]) == [
        ("b.mp4", str(given)),
        (f"all of {tmp_path.name}", str(tmp_path)),
        ("a.mp4", str(tmp_path / "a.mp4")),
    ]
    assert clips(Footage("synthetic", None)) == [("rendered clip", "synthetic:frames=300")]


def test_the_numbers_are_those_of_the_last_frame_that_was_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("il2vseg.studio.trial.MIN_PERIOD_S", 0.0)
    trial = Trial(tmp_path / "tried")
    assert not trial.tried(LITE)
    for expected, data in enumerate(trial.frames(LITE, "synthetic:frames=3")):
        assert decode_frame(data).shape[2] == 3
        assert (trial.status["state"], trial.status["index"]) == ("running", expected)
        assert sum(c["share"] for c in trial.status["classes"]) == pytest.approx(1, abs=1e-3)
    assert (trial.status["state"], trial.status["index"]) == ("done", 2)
    assert trial.tried(LITE)
    (tmp_path / "manifest.json").write_text("{}")
    assert not trial.tried(tmp_path)  # another export
    frames = trial.frames(LITE, "synthetic:frames=300")
    next(frames)
    trial.stop()
    assert list(frames) == []
    assert (trial.status["state"], trial.status["index"]) == ("stopped", 0)


def test_a_browser_that_goes_away_stops_the_clip(tmp_path: Path) -> None:
    trial = Trial(tmp_path / "tried")
    frames = trial.frames(LITE, "synthetic:frames=300")
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert trial.status["state"] == "stopped"


def test_what_cannot_be_played_is_said_in_one_line(tmp_path: Path) -> None:
    trial = Trial(tmp_path / "tried")
    assert len(list(trial.frames(LITE, "synthetic:frames=1"))) == 1
    (tmp_path / "clip.mp4").write_bytes(b"no clip")
    assert list(trial.frames(LITE, str(tmp_path / "clip.mp4"))) == []
    assert trial.status["state"] == "failed"
    assert "clip.mp4" in trial.status["error"]
    assert "\n" not in trial.status["error"]
    assert list(trial.frames(tmp_path, "synthetic:frames=1")) == []
    assert "clip.mp4" not in trial.status["error"]


@pytest.mark.parametrize(("agrees", "low"), [(94.9, True), (95.0, False)])
def test_a_student_that_agrees_too_little_is_warned_of(tmp_path: Path, agrees: float, low: bool) -> None:
    project = Project(tmp_path, Footage("synthetic", None))
    assert agreement(project) is None
    project.student.mkdir()
    values = {"frames": 20, "agreement": agrees, "per_class_iou": {"water": 90.0}}
    (project.student / "agreement.json").write_text(json.dumps(values))
    assert agreement(project) == values | {"low": low}
