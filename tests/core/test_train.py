"""python -m il2vseg.train as a user runs it, with the random `tiny` backbone on synthetic scenes."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from il2vseg import train
from il2vseg.learning.preparation import recipe_of, resolve_exposure
from il2vseg.models.checkpoint import load_checkpoint, read_spec
from il2vseg.models.segmenter import Segmenter

FAST = ["--backbone", "tiny", "--size", "48", "64", "--limit", "6", "--steps", "9", "--method", "joint"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))


def run(*arguments: object) -> int:
    return train.main([*FAST, *map(str, arguments)])


def digest(folder: Path) -> bytes:
    return (folder / "checkpoint.safetensors").read_bytes()


def test_everything_promised_is_written_and_can_be_run_again(tmp_path: Path) -> None:
    out, again = tmp_path / "a", tmp_path / "b"
    assert run("--out", out) == 0
    assert {p.name for p in out.iterdir()} == {
        "checkpoint.safetensors", "config.yaml", "metrics.jsonl", "names.yaml", "preview.png", "tensorboard",
    }  # fmt: skip
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [s["step"] for s in steps] == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert cv2.imread(str(out / "preview.png")) is not None
    spec = read_spec(out)
    assert spec.selection["components"] == 6
    assert {c["centre"] for c in spec.selection["candidates"]} == {True, False}
    assert len(load_checkpoint(out).class_names) == 3
    assert train.main(["--config", str(out / "config.yaml"), "--out", str(again)]) == 0
    assert digest(again) == digest(out)


def test_the_default_method_takes_no_steps_and_says_how_it_sees(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert train.main([*FAST[:-2], "--clusters", "5", "--out", str(out)]) == 0
    assert (out / "metrics.jsonl").read_text() == ""
    spec = read_spec(out)
    assert (spec.method, spec.even_exposure, spec.centre, spec.alpha) == ("il2vseg", True, True, 0.15)
    assert spec.adapt is not None
    model = load_checkpoint(out)
    assert len(model.class_names) == 5
    # Chosen without labels, written down, and what the model computes.
    settings = yaml.safe_load((out / "config.yaml").read_text())
    assert settings["dark_only"] is spec.dark_only
    assert isinstance(model, Segmenter)
    assert model.backbone.exposure is not None
    assert model.backbone.exposure.dark_only is spec.dark_only


@pytest.mark.parametrize(
    ("flags", "even", "dark_only"),
    [
        ([], True, None),
        (["--no-dark-only"], True, False),
        (["--dark-only"], True, True),
        (["--no-even-exposure"], False, False),
        (["--method", "kmeans"], False, False),
        (["--method", "kmeans", "--even-exposure"], True, False),
        (["--method", "kmeans", "--even-exposure", "--dark-only"], True, True),
    ],
)
def test_what_is_evened(flags: list[str], even: bool, dark_only: bool | None) -> None:
    config = resolve_exposure(train.parse(train.TrainConfig, "train", flags))
    assert (config.even_exposure, config.dark_only) == (even, dark_only)


@pytest.mark.parametrize(
    ("flags", "adapts"),
    [
        (["--centre"], True),
        (["--no-centre"], False),
        (["--centre", "--no-adapt"], False),
        (["--no-centre", "--adapt"], True),
        (["--centre", "--method", "kmeans"], False),
    ],
)
def test_prototypes_adapt_to_the_image_where_tokens_are_centred(flags: list[str], adapts: bool) -> None:
    config = train.parse(train.TrainConfig, "train", flags)
    assert config.centre is not None
    found = train.adaptation(config, recipe_of(config), config.centre)
    assert (found is not None) == adapts
    if found is not None:
        assert (found.strength, found.class_weight, found.sure, found.min_tokens) == (30.0, 0.2, 0.6, 8.0)


def test_resuming_after_a_kill_gives_the_same_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from il2vseg.learning import trainer as training
    from il2vseg.learning.monitor import Monitor, StepReport

    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run("--out", whole) == 0
    record = Monitor.step

    def die(self: Monitor, report: StepReport) -> None:
        record(self, report)
        if (report.stage, report.step) == ("smoothness", 2):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "step", die)
        assert run("--out", killed) == 130
    assert not (killed / "checkpoint.safetensors").exists()
    assert run("--out", killed, "--resume") == 0
    assert digest(killed) == digest(whole)
    assert (killed / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_a_folder_and_a_proposed_number_of_classes_are_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames(tmp_path / "footage", 6)
    out = tmp_path / "out"
    arguments = [
        "--dataset",
        "folder",
        "--root",
        tmp_path / "footage",
        "--num-classes",
        "auto",
        "--crop",
        "five",
    ]
    assert run(*arguments, "--limit", "20", "--out", out) == 0
    proposal = json.loads((out / "num_classes.json").read_text())
    assert f"number of classes: {proposal['num_classes']}" in capsys.readouterr().err
    assert cv2.imread(str(out / "num_classes.png")) is not None
    assert len(load_checkpoint(out).class_names) == proposal["num_classes"]
    assert f"num_classes: {proposal['num_classes']}\n" in (out / "config.yaml").read_text()
    assert read_spec(out).training_data.startswith("20 frames")


def test_tensorboard_shows_score_maps_and_how_many_classes_are_alive(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run("--out", tmp_path) == 0
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (image,) = events.Images("frames, F_seg, F_l, F_f, prediction")
    assert (image.height, image.width) == (6 * 3 * 4, 5 * 4 * 4)  # 6 frames of 3x4 cells, 5 columns
    assert [e.value for e in events.Scalars("prototypes/alive")] == [
        json.loads(line)["alive"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()[5:]
    ]


def frames(folder: Path, count: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))


def test_unreadable_images_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames(tmp_path / "footage", 5)
    (tmp_path / "footage" / "2.png").write_bytes(b"not an image")
    assert run("--dataset", "folder", "--root", tmp_path / "footage", "--out", tmp_path / "out") == 0
    assert "skipped 1 of 5 images" in capsys.readouterr().err
    assert read_spec(tmp_path / "out").training_data.startswith("4 frames")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "folder", "--root", "nowhere"], "nowhere"),
        (["--size", "50", "64"], "patch"),
        (["--num-classes", "13"], "more than the 12 tokens"),
        (["--num-classes", "1"], "--num-classes must be between 2 and 255 (got 1)"),
        (["--alpha", "2"], "--alpha must be between 0 and 1 (got 2.0)"),
        (["--steps", "-1"], "--steps must be between 0 and"),
        (["--method", "magic"], "magic"),
        (["--backbone", "resnet"], "resnet"),
        (["--dataset", "synthetic", "--split", "test"], "test"),
        (["--config", "nothing.yaml"], "nothing.yaml"),
        (["--resume"], "nothing to resume"),
        (["--out", "/dev/null/out"], "/dev/null"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = run(*arguments)
    except SystemExit as exit_:
        code = exit_.code  # type: ignore[assignment]
    assert code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last
    assert not list(tmp_path.rglob("checkpoint.safetensors"))


def test_an_empty_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert run("--dataset", "folder", "--root", tmp_path / "empty", "--out", tmp_path / "out") == 2
    assert "empty" in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno

    from il2vseg.models import checkpoint

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert run("--out", tmp_path / "out") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "out" / checkpoint.FILE_NAME).exists()
    assert not [p for p in (tmp_path / "out").iterdir() if p.suffix == ".safetensors"]
