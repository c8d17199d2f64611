"""il2vseg-run with the bundled models: footage of another kind is told of in five seconds, theirs is not."""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from il2vseg.base.images import Frame, read_frame
from il2vseg.data.synthetic.drawing import draw
from il2vseg.data.synthetic.effects import Effects
from il2vseg.data.synthetic.scene import scene_of
from il2vseg.runtime.cli import main

FPS = 2
"""Of the clips: a small computer's rate, at which twelve frames take longer than the five seconds."""

LENGTH = 5 * FPS + 1
ADVICE = "this footage is unlike what the model was made from"


def run(model: str, source: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """Events of a run over a source."""
    log = tmp_path / "log.jsonl"
    arguments = ["--source", source, "--model", model, "--provider", "cpu", "--threads", 1, "--jsonl", log]
    assert main([str(a) for a in arguments]) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if line["type"] == "event"]


def clip(path: Path, frames: Iterable[Frame]) -> Path:
    writer = None
    for frame in islice(frames, LENGTH):
        if writer is None:
            size = (frame.shape[1], frame.shape[0])
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, size)
        writer.write(frame)
    assert writer is not None
    writer.release()
    return path


def images(folder: Path) -> Iterable[Frame]:
    return (read_frame(path) for path in sorted(folder.iterdir()))


def night() -> Iterable[Frame]:
    scene = scene_of(3)
    return (draw(scene, Effects(night=1.0), 3, 20 // FPS * i, (360, 640))[0] for i in range(LENGTH))


def tiles() -> Iterable[Frame]:
    """Coloured tiles that drift: a picture of nothing."""
    colours = np.random.default_rng(0).integers(0, 256, (9, 16, 3), np.uint8)
    large = cv2.resize(colours, (640, 360), interpolation=cv2.INTER_NEAREST)
    return (np.roll(large, 4 * i, 1) for i in range(LENGTH))


@pytest.fixture(scope="module", params=[night, tiles])
def of_no_camera(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("clips") / "clip.avi", request.param())


def told_in_time(model: str, source: Path, tmp_path: Path) -> None:
    """The event comes within the first five seconds of a clip, once, and stays."""
    events = run(model, source, tmp_path)
    kinds = [event["event"] for event in events if event["event"].endswith("like_training")]
    assert kinds == ["unlike_training"]
    assert next(e["position_s"] for e in events if e["event"] == "unlike_training") <= 5.0


@pytest.mark.parametrize("model", ["marine-lite", "marine", "street-lite"])
def test_what_no_camera_filmed_is_told_of_within_five_seconds(
    model: str, of_no_camera: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told_in_time(model, of_no_camera, tmp_path)
    assert ADVICE in capsys.readouterr().err.splitlines()[-1], "the summary"


@pytest.mark.parametrize(
    ("model", "frames"),
    [
        ("marine-lite", "camvid/train/images"),
        ("marine", "camvid/train/images"),
        ("street-lite", "intcatch/val/images"),
    ],
)
def test_real_footage_of_another_kind_is_told_of_within_five_seconds(
    real_data: Path, model: str, frames: str, tmp_path: Path
) -> None:
    told_in_time(model, clip(tmp_path / "clip.avi", images(real_data / frames)), tmp_path)


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ("marine-lite", "intcatch/val/images"),
        ("marine-lite", "clips/river.mp4"),
        ("marine", "intcatch/val/images"),
        pytest.param("marine", "clips/river.mp4", marks=pytest.mark.slow),
        ("street-lite", "camvid/val/images"),
    ],
)
def test_footage_of_its_own_kind_is_not_told_of(
    real_data: Path, model: str, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = run(model, real_data / source, tmp_path)
    assert not [event for event in events if event["event"] == "unlike_training"]
    assert ADVICE not in capsys.readouterr().err
