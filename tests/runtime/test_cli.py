import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from il2vseg.base.images import Frame, read_labels, resize_frame, resize_labels, write_image
from il2vseg.runtime.cli import main
from il2vseg.runtime.sinks import encoder
from tests.waiting import eventually

from .conftest import SIZE, needs, reference

COMMAND = [sys.executable, "-m", "il2vseg.runtime.cli"]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def frames_of(path: Path) -> list[dict[str, object]]:
    return [line for line in lines(path) if line["type"] == "frame"]


def count_frames(path: Path) -> int:
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        count += 1
    return count


def run(model: Path, *arguments: object) -> int:
    return main(["--model", str(model), *map(str, arguments)])


def test_a_clip_becomes_video_labels_and_numbers(
    model: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, labels, jsonl = tmp_path / "o.mp4", tmp_path / "labels", tmp_path / "o.jsonl"
    assert run(model, "--source", clip, "--save-video", video, "--save-labels", labels, "--jsonl", jsonl) == 0
    assert count_frames(video) == 12
    records = frames_of(jsonl)
    assert [r["index"] for r in records] == list(range(12))
    assert {r["dropped"] for r in records} == {0}
    assert set(records[0]["latency_ms"]) >= {"read", "wait", "resize", "engine", "labels", "total"}  # type: ignore[call-overload]
    pngs = sorted(labels.iterdir())
    assert [p.name for p in pngs] == [f"frame_{i:06d}.png" for i in range(12)]
    capture = cv2.VideoCapture(str(clip))
    for png, record in zip(pngs, records, strict=True):
        frame = np.asarray(capture.read()[1], dtype=np.uint8)
        found = read_labels(png)
        expected = resize_labels(reference(resize_frame(frame, SIZE)), frame.shape[:2])
        assert (found == expected).mean() > 0.99
        fractions = {name: (found == i).mean() for i, name in enumerate(("obstacle", "water", "sky"))}
        assert record["classes"] == pytest.approx(fractions, abs=1e-5)
    assert "12 frames" in capsys.readouterr().err


def test_labels_are_named_after_the_images(model: Path, tmp_path: Path, frames: list[Frame]) -> None:
    for name in ("one.jpg", "sub/two.5.png"):
        write_image(tmp_path / "in" / name, frames[0])
    assert run(model, "--source", tmp_path / "in", "--save-labels", tmp_path / "out") == 0
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png")}
    assert found == {"one.png", "sub/two.5.png"}
    assert read_labels(tmp_path / "out/one.png").shape == frames[0].shape[:2]


def test_max_frames_ends_the_run(model: Path, clip: Path, tmp_path: Path) -> None:
    assert run(model, "--source", clip, "--jsonl", tmp_path / "o.jsonl", "--max-frames", 5) == 0
    assert len(frames_of(tmp_path / "o.jsonl")) == 5


def test_benchmark_prints_quantiles(model: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model, "--source", clip, "--benchmark") == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("p50", "p95", "p99", "engine", "total"))


def test_standard_output_carries_only_json(model: Path, clip: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--model", model, "--source", clip, "--jsonl", "-", "--benchmark"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [json.loads(line)["index"] for line in done.stdout.splitlines()] == list(range(12))
    assert "p95" in done.stderr


def test_unreadable_images_are_skipped_and_counted(
    model: Path, tmp_path: Path, frames: list[Frame], capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        write_image(tmp_path / f"in/{i}.png", frames[i])
    (tmp_path / "in/1.png").write_bytes(b"broken")
    jsonl = tmp_path / "o.jsonl"
    assert run(model, "--source", tmp_path / "in", "--jsonl", jsonl) == 0
    assert [r["name"] for r in frames_of(jsonl)] == ["0", "2"]
    assert [line["event"] for line in lines(jsonl) if line["type"] == "event"] == ["frame_unreadable"]
    assert "1 unreadable and skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pass --source FILE|DIR|URL or --camera N"),
        (["--source", "x", "--camera", "0"], "pass --source FILE|DIR|URL or --camera N"),
        (["--source", "/nowhere"], "no such file"),
        (["--camera", "/dev/nowhere"], "no such device"),
        (["--source", "CLIP", "--max-frames", "0"], "--max-frames must be between 1 and"),
        (["--source", "CLIP", "--opacity", "2"], "--opacity must be between 0 and 1 (got 2.0)"),
        (["--source", "CLIP", "--provider", "abacus"], "invalid choice"),
        (["--source", "CLIP", "--save-labels", "/proc/none"], "cannot write"),
        (["--source", "CLIP", "--save-video", "DIR/o.xyz"], "no video can be written"),
        (["--source", "CLIP", "--jsonl", "/proc/none/o.jsonl"], "cannot be written"),
        (["--source", "CLIP", "--jsonl", "/dev/full"], "No space left"),
        (["--source", "CLIP", "--model", "/nowhere"], "no such model"),
        (["--source", "CLIP", "--model", "DIR"], "not an exported model"),
        (["--source", "gst:videotestsrc ! appsink"], "GStreamer"),
        (["--source", "CLIP", "--danger-zone", "10"], "needs --camera-height and --fov"),
        (["--source", "CLIP", "--fov", "60"], "needed together"),
        (["--source", "CLIP", "--alarm-clips", "DIR/a"], "--danger-zone"),
        (["--source", "CLIP", "--disk-quota", "1"], "--disk-quota needs"),
        (["--source", "CLIP", "--serve", "no-port"], "PORT is needed"),
        (["--source", "CLIP", "--smoothing", "1"], "must be at least 0 and below 1"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(
    model: Path,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    if "--serve" in arguments:
        needs("uvicorn", "web")
    filled = [a.replace("CLIP", str(clip)).replace("DIR", str(tmp_path)) for a in arguments]
    before = ["--model", str(model)] if "--model" not in filled else []
    try:
        code = main([*before, *filled])
    except SystemExit as end:  # argparse
        code = int(str(end.code))
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("il2vseg-run:")]
    assert code == 2
    assert len(errors) == 1
    assert message in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_a_recording_with_a_playable_video(
    model: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checks = iter([None])

    def check_space(path: Path) -> None:
        if next(checks, "full"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(encoder, "check_space", check_space)
    video = tmp_path / "o.mkv"
    assert run(model, "--source", clip, "--save-video", video) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert count_frames(video) == 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_finish_the_files(model: Path, tmp_path: Path, number: signal.Signals) -> None:
    video, jsonl = tmp_path / "o.mp4", tmp_path / "o.jsonl"
    source = "synthetic:size=48x64,loop=4"
    process = subprocess.Popen(
        [*COMMAND, "--model", model, "--source", source, "--save-video", video, "--jsonl", jsonl],
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: jsonl.is_file() and len(jsonl.read_bytes().splitlines()) >= 5)
    process.send_signal(number)
    assert process.wait(20) == 0, process.stderr and process.stderr.read()
    assert jsonl.read_text().endswith("\n")
    assert count_frames(video) == len(frames_of(jsonl)) >= 5
    process.communicate()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_killed_process_leaves_a_playable_video_and_whole_lines(
    model: Path, tmp_path: Path, suffix: str
) -> None:
    if suffix == ".mp4":
        needs("av", "video")
    video, jsonl = tmp_path / f"o{suffix}", tmp_path / "o.jsonl"
    source = "synthetic:size=360x640,frames=100000,loop=8"
    process = subprocess.Popen(
        [*COMMAND, "--model", model, "--source", source, "--save-video", video, "--jsonl", jsonl],
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: jsonl.is_file() and len(jsonl.read_bytes().splitlines()) >= 120)
    process.kill()
    process.wait()
    assert count_frames(video) >= 60
    assert len(frames_of(jsonl)) >= 120
    assert jsonl.read_text().endswith("\n")


def test_a_reader_that_leaves_ends_the_run_quietly(model: Path) -> None:
    command = [
        *COMMAND,
        "--model",
        model,
        "--source",
        "synthetic:size=48x64,frames=100000,loop=4",
        "--jsonl",
        "-",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 0
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_the_configuration_round_trips(
    model: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, "--source", clip, "--max-frames", 3, "--crop", 1, 2, 30, 40, "--print-config") == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["crop"] == [1, 2, 30, 40]
    (tmp_path / "c.yaml").write_text(text)
    assert main(["--config", str(tmp_path / "c.yaml"), "--jsonl", str(tmp_path / "o.jsonl")]) == 0
    assert len(frames_of(tmp_path / "o.jsonl")) == 3


def test_models_at_hand_are_listed(
    make_model: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_model("runs/river/export")
    monkeypatch.chdir(tmp_path)
    assert main(["--list-models"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("runs/river/export\tobstacle, water, sky; 48x64; fp32")
    assert first.endswith("the default)")


def test_a_window_needs_a_display(
    model: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert run(model, "--source", clip, "--window") == 2
    assert "--serve" in capsys.readouterr().err


def test_help_answers_without_loading_anything_heavy() -> None:
    code = (
        "import sys; from il2vseg.runtime.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'cv2', 'numpy', 'onnxruntime', 'torch'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.stderr.strip() == "set()"
    assert "--max-frames" in done.stdout


def test_an_alarm_is_in_the_records_and_its_clip_is_saved(model: Path, tmp_path: Path) -> None:
    arguments = ["--source", "synthetic:seed=10,frames=40", "--camera-height", 2, "--fov", 61, "--pitch", 0]
    arguments += ["--danger-zone", 1000, "--alarm-clips", tmp_path / "alarms", "--stabilise", "flow"]
    assert run(model, *arguments, "--jsonl", tmp_path / "o.jsonl") == 0
    records = lines(tmp_path / "o.jsonl")
    marine = [r["marine"] for r in records if r["type"] == "frame"]
    assert len(marine) == 40
    alarmed = [m["alarm"] for m in marine]  # type: ignore[index]
    events = [r["event"] for r in records if r["type"] == "event"]
    assert any(alarmed) == ("alarm" in events) == bool(list((tmp_path / "alarms").iterdir()))
    assert any(alarmed)


def test_the_runtime_needs_no_torch(model: Path, clip: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from il2vseg.runtime.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "--model", str(model), "--source", str(clip)]
    assert subprocess.run(command, capture_output=True).returncode == 0
