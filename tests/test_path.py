"""The whole path on real frames: train, export, stream, and compare what was streamed with the model."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from il2vseg import evaluate, train
from il2vseg.base.images import read_labels, resize_frame, resize_labels
from il2vseg.export import cli as export_cli
from il2vseg.models.checkpoint import load_checkpoint
from il2vseg.models.lowlevel import AFFINITY_TILE
from il2vseg.runtime import cli as run_cli

FRAMES = 12


def train_on_intcatch(root: Path, out: Path, *arguments: str) -> None:
    code = train.main(
        ["--dataset", "intcatch", "--root", str(root / "intcatch"), "--num-classes", "3", "--limit", "12",
         "--steps", "9", "--out", str(out), *arguments]
    )  # fmt: skip
    assert code == 0


@pytest.fixture(autouse=True)
def _own_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from il2vseg.learning import features

    monkeypatch.setattr(features, "cache_home", lambda: tmp_path / "cache")


def test_streamed_labels_are_those_of_the_trained_model(real_data: Path, tmp_path: Path) -> None:
    model, clip = tmp_path / "model", real_data / "clips" / "river.mp4"
    train_on_intcatch(real_data, tmp_path, "--backbone", "tiny", "--size", "144", "256")
    assert evaluate.main(
        ["--checkpoint", str(tmp_path), "--dataset", "intcatch", "--root", str(real_data / "intcatch"),
         "--limit", "3", "--json", str(tmp_path / "scores.json")]
    ) == 0  # fmt: skip
    assert json.loads((tmp_path / "scores.json").read_text())["images"] == 3
    verify = str(real_data / "intcatch" / "val" / "images")
    assert export_cli.main(["--checkpoint", str(tmp_path), "--out", str(model), "--verify", verify]) == 0
    parity = json.loads((model / "parity.json").read_text())
    assert parity["label_agreement"] >= 0.999
    assert parity["max_score_difference"] <= 1e-3
    labels, log = tmp_path / "labels", tmp_path / "frames.jsonl"
    assert run_cli.main(
        ["--source", str(clip), "--model", str(model), "--provider", "cpu", "--save-labels", str(labels),
         "--save-video", str(tmp_path / "overlay.mp4"), "--jsonl", str(log), "--max-frames", str(FRAMES)]
    ) == 0  # fmt: skip
    segmenter, capture, agreement = load_checkpoint(tmp_path), cv2.VideoCapture(str(clip)), []
    for path in sorted(labels.iterdir()):
        frame = np.asarray(capture.read()[1], dtype=np.uint8)
        small = torch.from_numpy(resize_frame(frame, segmenter.size))[None]
        expected = resize_labels(segmenter.predict(small)[0][0].numpy(), frame.shape[:2])
        agreement.append(float((read_labels(path) == expected).mean()))
    assert len(agreement) == FRAMES
    assert np.mean(agreement) >= 0.995
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["index"] for line in lines if line["type"] == "frame"] == list(range(FRAMES))
    assert cv2.VideoCapture(str(tmp_path / "overlay.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES


@pytest.mark.slow
@pytest.mark.parametrize("size", [(252, 448), (504, 896)])
def test_parity_holds_below_and_above_one_affinity_tile(
    real_data: Path, dinov2_weights: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    train_on_intcatch(real_data, tmp_path, "--weights", str(dinov2_weights))
    verify = str(real_data / "intcatch" / "val" / "images")
    flags = ["--size", *map(str, size), "--verify", verify, "--out", str(tmp_path / "model")]
    assert export_cli.main(["--checkpoint", str(tmp_path), "--weights", str(dinov2_weights), *flags]) == 0
    tokens = size[0] // 14 * (size[1] // 14)
    assert (tokens > AFFINITY_TILE) == (size == (504, 896))
    parity = json.loads((tmp_path / "model" / "parity.json").read_text())
    assert parity["frames"] == 20
    assert parity["label_agreement"] >= 0.999
    assert parity["max_score_difference"] <= 1e-3
