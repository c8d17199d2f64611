"""Footage as it really is, through il2vseg-run: mixed, linked, damaged, of any rate, replayed, blind."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame, write_image
from il2vseg.base.media.clips import Clip
from il2vseg.runtime import blindness
from il2vseg.runtime.blindness import Blindness, nothing_to_see
from il2vseg.runtime.cli import main
from il2vseg.runtime.sources import SourceOptions, open_source
from il2vseg.runtime.sources.base import Captured
from tests.footage import Events, cut, number_of, numbered, write_clip

FASTSTART = {"movflags": "faststart"}


@pytest.fixture
def run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main(["--model", str(model), *map(str, arguments)])


def records(path: Path, kind: str) -> list[dict[str, Any]]:
    return [r for line in path.read_text().splitlines() if (r := json.loads(line))["type"] == kind]


def times_of(path: Path) -> list[float]:
    with Clip(path) as clip:
        return [picture.seconds for picture in clip]


# --- what is in a folder -----------------------------------------------------------------------------------


def test_images_and_clips_of_one_folder_are_all_read(tmp_path: Path) -> None:
    write_image(tmp_path / "cover.png", numbered(3))
    for name in ("day1.mp4", "day2.mkv"):
        write_clip(tmp_path / name, 4)
    names = [c.name for c in open_source(tmp_path)]
    assert names[0] == "cover"
    assert names[1:] == [f"{day}/frame_{i:06d}" for day in ("day1", "day2") for i in range(4)]


def test_pictures_that_are_not_read_are_refused_by_name(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", numbered(3))
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\x00\x00\x00\x1cftypheic" + bytes(100))
    (tmp_path / "raw.dng").write_bytes(bytes(100))
    events = Events()
    with open_source(tmp_path, report=events) as source:
        assert [c.name for c in source] == ["a"]
    assert source.skipped == 2
    assert sorted(Path(d["file"]).name for _, d in events.all) == ["IMG_1.HEIC", "raw.dng"]


def test_a_folder_of_heic_alone_is_an_error_and_not_empty(tmp_path: Path, run: Callable[..., int]) -> None:
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone/IMG_1.HEIC").write_bytes(b"\x00\x00\x00\x1cftypheic" + bytes(100))
    assert run("--source", tmp_path / "phone") == 2


def test_links_are_followed_and_those_that_lead_nowhere_are_reported(tmp_path: Path) -> None:
    write_image(tmp_path / "disk/a.png", numbered(1))
    folder = tmp_path / "footage"
    folder.mkdir()
    (folder / "card").symlink_to(tmp_path / "disk")
    (folder / "again").symlink_to(folder)  # round and round
    (folder / "gone.png").symlink_to(tmp_path / "nothing.png")
    events = Events()
    assert [c.name for c in open_source(folder, report=events)] == ["card/a"]
    assert events.kinds == ["frame_unreadable"]


def test_a_clip_named_in_latin_1_is_read(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "whole.mp4", 4).rename(tmp_path / os.fsdecode(b"caf\xe9.mp4"))
    assert len(list(open_source(clip))) == 4
    assert len(list(open_source(tmp_path))) == 4


@pytest.mark.parametrize("name", ["synthetic:1.mp4", "0", "rtsp:x.mp4", "a?b.mp4", "[1].mp4"])
def test_what_exists_is_a_file_whatever_its_name_looks_like(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "whole.mp4", 3).rename(tmp_path / name)
    source = open_source(name)
    assert not source.live
    assert len(list(source)) == 3


@pytest.mark.parametrize("form", ["file://{}", "FILE://{}", "file://localhost{}"])
def test_a_file_address_is_a_recording(tmp_path: Path, form: str) -> None:
    clip = write_clip(tmp_path / "my clip.mp4", 4)
    source = open_source(form.format(str(clip).replace(" ", "%20")))
    assert not source.live
    assert len(list(source)) == 4


# --- depth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_deep_images_are_as_bright_as_the_scene_and_it_is_said_once(tmp_path: Path, bits: int) -> None:
    scene = numbered(9)
    deep = (scene.astype(np.uint16) << (bits - 8)) | ((1 << (bits - 8)) - 1)
    deep[0, 0] = (1 << bits) - 1
    for name in ("a.png", "b.tif"):
        cv2.imwrite(str(tmp_path / name), deep)
    events = Events()
    frames = [c.frame for c in open_source(tmp_path, report=events)]
    for frame in frames:
        np.testing.assert_array_equal(frame[1:], scene[1:])
    assert [(k, d["bits"]) for k, d in events.all] == [("deep_image", bits)]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_an_image_that_was_cut_off_is_not_half_grey_but_reported(tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / f"a{suffix}", numbered(3))
    cut(tmp_path / f"a{suffix}", 0.8, f"b{suffix}")
    events = Events()
    assert [c.name for c in open_source(tmp_path, report=events)] == ["a"]
    assert events.kinds == ["frame_unreadable"]


# --- damage ------------------------------------------------------------------------------------------------


def test_a_truncated_clip_is_an_event_and_counted(
    tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    short = cut(write_clip(tmp_path / "a.mp4", container_options=FASTSTART), 0.7)
    assert run("--source", short, "--jsonl", "o.jsonl") == 0
    (event,) = [e for e in records(Path("o.jsonl"), "event") if e["event"] == "clip_truncated"]
    read = len(records(Path("o.jsonl"), "frame"))
    lost = sum(e.get("frames", 0) for e in records(Path("o.jsonl"), "event"))
    assert read + lost + event["missing"] == 12
    assert f"{12 - read} unreadable and skipped" in capsys.readouterr().err


def test_a_clip_of_which_nothing_can_be_read_is_exit_code_2(
    tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = write_clip(tmp_path / "a.mp4", container_options=FASTSTART)
    whole.write_bytes(whole.read_bytes()[: whole.read_bytes().index(b"mdat") + 4])
    assert run("--source", whole, "--save-video", "o.mp4", "--save-labels", "l") == 2
    assert "none of 12 frames could be read" in capsys.readouterr().err
    assert not Path("o.mp4").exists()


def test_one_bad_clip_among_good_ones_is_passed_over(tmp_path: Path) -> None:
    for name in ("a.mp4", "c.mp4"):
        write_clip(tmp_path / name, 4)
    (tmp_path / "b.mp4").write_bytes(b"no clip")
    events = Events()
    source = open_source(tmp_path, report=events)
    assert [c.index for c in source] == list(range(8))
    assert (events.kinds, source.skipped) == (["clip_unreadable"], 1)


# --- time --------------------------------------------------------------------------------------------------

UNEVEN = [0, 0.1, 0.15, 2.0, 2.05, 5.0, 5.5, 5.6]


def test_the_overlay_of_a_recording_keeps_its_times(tmp_path: Path, run: Callable[..., int]) -> None:
    write_clip(tmp_path / "vfr.mkv", 8, times=UNEVEN)
    assert run("--source", "vfr.mkv", "--save-video", "o.mp4", "--jsonl", "o.jsonl") == 0
    np.testing.assert_allclose(times_of(Path("o.mp4")), UNEVEN, atol=0.01)
    found = [r["position_s"] for r in records(Path("o.jsonl"), "frame")]
    np.testing.assert_allclose(found, UNEVEN, atol=0.002)
    assert all(r["captured"] > 1e9 for r in records(Path("o.jsonl"), "frame"))


def test_clips_of_other_rates_keep_theirs_in_one_video(tmp_path: Path, run: Callable[..., int]) -> None:
    (tmp_path / "f").mkdir()
    write_clip(tmp_path / "f/a.mp4", 10, fps=10)
    write_clip(tmp_path / "f/b.mp4", 15, fps=30)
    assert run("--source", "f", "--save-video", "o.mp4") == 0
    expected = [i / 10 for i in range(10)] + [1 + i / 30 for i in range(15)]
    np.testing.assert_allclose(times_of(Path("o.mp4")), expected, atol=0.01)


def test_a_dated_recording_says_when_it_was_filmed(tmp_path: Path, run: Callable[..., int]) -> None:
    write_clip(tmp_path / "a.mp4", 3, metadata={"creation_time": "2026-05-04T03:02:01.000000Z"})
    assert run("--source", "a.mp4", "--jsonl", "o.jsonl") == 0
    found = [r["recorded"] for r in records(Path("o.jsonl"), "frame")]
    np.testing.assert_allclose(found, [1777863721.0, 1777863721.1, 1777863721.2], atol=0.001)


@pytest.mark.parametrize("dated", [False, True])
def test_mcap_has_the_times_of_the_recording(tmp_path: Path, run: Callable[..., int], dated: bool) -> None:
    reader = pytest.importorskip("mcap.reader")
    metadata = {"creation_time": "2026-05-04T03:02:01.000000Z"} if dated else {}
    write_clip(tmp_path / "a.mkv", 8, times=UNEVEN, metadata=metadata)
    assert run("--source", "a.mkv", "--mcap", "o.mcap") == 0
    with Path("o.mcap").open("rb") as file:
        stamps = [
            m.log_time / 1e9 for _, c, m in reader.make_reader(file).iter_messages() if c.topic == "/frame"
        ]
    np.testing.assert_allclose(stamps, np.array(UNEVEN) + (1777863721.0 if dated else 0), atol=0.01)


def test_events_of_a_recording_say_where_in_it(tmp_path: Path, run: Callable[..., int]) -> None:
    clip = tmp_path / "a.mkv"
    write_clip(clip, 2)
    write_clip(tmp_path / "b.mkv", 3, size=(96, 128))
    (tmp_path / "f").mkdir()
    for path in (clip, tmp_path / "b.mkv"):
        path.rename(tmp_path / "f" / path.name)
    assert run("--source", "f", "--jsonl", "o.jsonl") == 0
    (event,) = [e for e in records(Path("o.jsonl"), "event") if e["event"] == "frame_size_changed"]
    assert event["position_s"] == 0.0


# --- replay ------------------------------------------------------------------------------------------------


def test_a_loop_goes_on_in_numbers_and_time(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", 4)
    with open_source(clip, SourceOptions(loop=True)) as source:
        captured = [next(iter(source)) for _ in range(10)]
    assert [c.index for c in captured] == list(range(10))
    assert [number_of(c.frame) for c in captured] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert len({c.name for c in captured}) == 10
    np.testing.assert_allclose([c.timeline_s or 0 for c in captured], np.arange(10) / 10, atol=0.01)


def test_a_loop_over_nothing_ends(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", numbered(1))
    (tmp_path / "a.png").write_bytes(b"")
    with open_source(tmp_path, SourceOptions(loop=True)) as source:
        assert source.read() is None


def test_real_time_comes_when_it_is_due_and_is_live(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mkv", 4, times=[0, 0.05, 0.3, 0.35])
    with open_source(clip, SourceOptions(realtime=True)) as source:
        assert source.live
        clocks = [c.clock for c in source]
    due = [0, 0.05, 0.3, 0.35]
    assert all(clock - clocks[0] >= time - 0.02 for clock, time in zip(clocks, due, strict=True))
    assert clocks[-1] - clocks[0] >= 0.3


def test_a_replay_that_waits_can_be_interrupted(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mkv", 2, times=[0, 600])
    with open_source(clip, SourceOptions(realtime=True)) as source:
        assert source.read() is not None
        source.interrupt()
        assert source.read() is None


# --- blind cameras -----------------------------------------------------------------------------------------


def _noise(level: float, sigma: float, size: tuple[int, int] = (180, 320)) -> Frame:
    noise = np.random.default_rng(0).normal(level, sigma, (*size, 3))
    return noise.clip(0, 255).astype(np.uint8)


def _covered() -> Frame:
    y, x = np.mgrid[0:180, 0:320]
    glow = 30 + 60 * np.exp(-((x - 250) ** 2 + (y - 40) ** 2) / 5e4)
    return (glow[..., None] * [0.4, 0.5, 1.0]).astype(np.uint8)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (np.zeros((180, 320, 3), np.uint8), "black"),
        (_noise(4, 3), "black"),
        (np.full((180, 320, 3), 128, np.uint8), "one colour"),
        (np.full((180, 320, 3), (0, 135, 0), np.uint8), "one colour"),
        (np.full((180, 320, 3), 255, np.uint8), "one colour"),
        (_noise(128, 60), "noise"),
        (_covered(), "covered"),
    ],
)
def test_a_picture_that_shows_nothing_is_known(frame: Frame, reason: str) -> None:
    assert reason in (nothing_to_see(frame) or "")


def test_scenes_by_day_in_fog_and_by_night_show_something(frames: list[Frame]) -> None:
    for frame in frames:
        assert nothing_to_see(frame) is None
        fog = (0.15 * frame.astype(float) + 170).astype(np.uint8)
        assert nothing_to_see(fog) is None
    night = _noise(3, 2, (360, 640))
    night[200:212, 300:312] = 255  # one lamp
    assert nothing_to_see(night) is None


def captured(frame: Frame, moment: float, *, clip: bool = True) -> Captured:
    return Captured(frame, 0, "f", clock=moment, timeline_s=moment, position_s=moment if clip else None)


def test_three_looks_at_a_clip_decide_and_three_take_it_back() -> None:
    events = Events()
    watch = Blindness(events, live=False)
    black, scene = np.zeros((90, 160, 3), np.uint8), numbered(3)
    for i, frame in enumerate([scene] * 3 + [black] * 2 + [scene] + [black] * 3 + [scene] * 3):
        watch.update(captured(frame, float(i)))
    assert events.kinds == ["camera_blind", "camera_sees"]


def test_a_live_picture_that_never_changes_is_frozen_after_15_seconds() -> None:
    events = Events()
    watch = Blindness(events, live=True)
    scene = numbered(3)
    for i in range(14):
        watch.update(captured(scene, float(i)))
    assert events.kinds == []
    for i in range(14, 20):
        watch.update(captured(scene, float(i)))
    assert events.kinds == ["camera_blind"]
    assert blindness.FROZEN_S == 15.0


def test_blind_frames_are_an_event_and_marked(tmp_path: Path, run: Callable[..., int]) -> None:
    for name, colour in (("black", 0), ("grey", 128)):
        write_image(tmp_path / f"f/{name}.png", np.full((90, 160, 3), colour, np.uint8))
    write_image(tmp_path / "f/scene.png", numbered(3))
    assert run("--source", "f", "--jsonl", "o.jsonl") == 0
    assert [e["event"] for e in records(Path("o.jsonl"), "event")] == ["camera_blind", "camera_sees"]
    assert ["blind" in r for r in records(Path("o.jsonl"), "frame")] == [True, True, False]


def test_a_text_file_is_no_clip(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("hello")
    with pytest.raises(UserError, match="not a readable clip"):
        open_source(tmp_path / "a.mp4")
