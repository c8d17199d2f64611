"""The whole way on real footage."""

import json
from pathlib import Path

import cv2
import numpy as np

from il2vseg.base.images import read_labels, resize_frame, resize_labels
from il2vseg.runtime.cli import main

from .conftest import SIZE, reference


def test_every_frame_of_a_real_clip_is_labelled(real_data: Path, model: Path, tmp_path: Path) -> None:
    clip = real_data / "clips/river.mp4"
    arguments = ["--source", clip, "--model", model, "--provider", "cpu", "--save-video", tmp_path / "o.mkv"]
    arguments += ["--save-labels", tmp_path / "labels", "--jsonl", tmp_path / "o.jsonl"]
    assert main([str(a) for a in arguments]) == 0
    records = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [r["index"] for r in records] == list(range(90))
    capture = cv2.VideoCapture(str(clip))
    for record in records:
        frame = np.asarray(capture.read()[1], dtype=np.uint8)
        expected = resize_labels(reference(resize_frame(frame, SIZE)), frame.shape[:2])
        found = read_labels(tmp_path / "labels" / f"{record['name']}.png")
        assert (found == expected).mean() >= 0.995
