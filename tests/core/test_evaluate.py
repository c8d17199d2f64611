"""Evaluation: what is counted, what is reported, what is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from il2vseg.base.errors import UserError
from il2vseg.base.images import resize_frame, resize_labels, write_image
from il2vseg.data import Dataset, open_dataset
from il2vseg.evaluate import evaluate, evaluate_splits, main, read_assignment
from il2vseg.evaluation import crf
from il2vseg.evaluation.metrics import Confusion, hungarian, score
from il2vseg.models.network import frames_to_images, label_pixels
from il2vseg.models.spec import LowLevelSpec


class Stripes:
    """A stand-in for a network: clusters by row, brightness and a leaning to the left."""

    alpha = 0.25

    def __init__(self, size: tuple[int, int] = (48, 64)) -> None:
        self.size, self.grid = size, (size[0] // 4, size[1] // 4)
        self.class_names = ["class 0", "class 1", "class 2"]

    def predict(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        b, h, w, _ = frames.shape
        grey = frames.float().mean(3)[:, None] / 255
        grey = nn.functional.avg_pool2d(grey, 4)
        rows = torch.linspace(-1, 1, h // 4)[:, None].expand(b, 1, h // 4, w // 4)
        lean = torch.linspace(0.4, -0.4, w // 4).expand(b, 1, h // 4, w // 4)
        scores = torch.cat([1 - 2 * grey + lean, 2 * rows, grey - rows], 1).mul(2).softmax(1)
        return self.label(scores, frames), scores

    def label(self, scores: Tensor, frames: Tensor) -> Tensor:
        return label_pixels(scores, frames_to_images(frames), LowLevelSpec())


def scenes(limit: int = 5) -> Dataset:
    return open_dataset("synthetic", None, "val", labelled=True, limit=limit)


def test_the_report_equals_a_confusion_made_by_hand() -> None:
    model, expected = Stripes(), Confusion(3, 3)
    for sample in scenes():
        frame = resize_frame(sample.frame, model.size)
        labels = model.predict(torch.from_numpy(frame)[None])[0][0].numpy()
        expected.update(resize_labels(labels, sample.labels.shape), sample.labels)
    for batch_size in (1, 2, 16):
        report = evaluate(model, scenes(), batch_size=batch_size)
        assert np.array_equal(report.confusion, expected.counts)
    assert report.images == 5
    assert report.one_to_one == score(expected.counts, hungarian(expected.counts))
    assert report.many_to_one.accuracy >= report.one_to_one.accuracy
    assert set(report.boundary_f) == {2, 5}
    assert report.boundary_f[2] <= report.boundary_f[5]
    assert report.water_edge_rmse > 0


def test_a_perfect_model_scores_full_marks() -> None:
    class Oracle(Stripes):
        """Knows the masks; its cluster ids are the classes, turned round."""

        def __init__(self) -> None:
            super().__init__((360, 640))
            self.answers = [2 - sample.labels for sample in scenes()]

        def predict(self, frames: Tensor) -> tuple[Tensor, Tensor]:
            labels = np.stack([self.answers.pop(0) for _ in range(len(frames))])
            return torch.from_numpy(labels), torch.zeros(len(labels), 3, 1, 1)

    report = evaluate(Oracle(), scenes())
    assert report.assignment.tolist() == [2, 1, 0]
    assert report.one_to_one.accuracy == report.one_to_one.miou == 100
    assert report.boundary_f == {2: 100, 5: 100}
    assert report.water_edge_rmse == 0


class Brightness(Stripes):
    """Cluster 0 is dark, 1 is bright, 2 does not occur."""

    def predict(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        labels = (frames.float().mean(3) > 128).to(torch.uint8)
        return labels, nn.functional.one_hot(labels[:, ::8, ::8].long(), 3).permute(0, 3, 1, 2).float()


@pytest.fixture
def conditions(tmp_path: Path) -> Path:
    """By day, two frames: bright sky over dark water. At dusk, one: dark sky over bright water."""
    masks = np.repeat(np.array([2, 1], np.uint8), 24)[:, None].repeat(64, 1)
    for split, count, upper in (("day", 2, 255), ("dusk", 1, 0)):
        for i in range(count):
            frame = np.where(masks == 2, upper, 255 - upper).astype(np.uint8)[..., None].repeat(3, 2)
            for folder, name, image in (("images", f"{i}.png", frame), ("masks", f"{i}m.png", masks)):
                (tmp_path / split / folder).mkdir(parents=True, exist_ok=True)
                write_image(tmp_path / split / folder / name, image)
    return tmp_path


def test_several_splits_share_one_assignment(conditions: Path) -> None:
    splits = [open_dataset("intcatch", conditions, name, labelled=True) for name in ("dusk", "day")]
    alone = [evaluate(Brightness(), split) for split in splits]
    assert [report.one_to_one.miou for report in alone] == [100, 100]
    done: list[int] = []
    (dusk, day), both = evaluate_splits(Brightness(), splits, batch_size=1, progress=done.append)
    assert done == [1, 2, 3]
    assert dusk.assignment.tolist() == day.assignment.tolist() == both.assignment.tolist()
    assert (dusk.one_to_one.accuracy, day.one_to_one.accuracy) == (0, 100)
    assert (dusk.many_to_one.accuracy, day.many_to_one.accuracy) == (0, 100)
    assert np.array_equal(both.confusion, dusk.confusion + day.confusion)
    assert both.one_to_one == score(both.confusion, both.assignment)
    assert both.one_to_one.accuracy == pytest.approx(200 / 3)
    assert (dusk.images, day.images, both.images) == (1, 2, 3)


def test_the_command_has_a_row_for_each_split_and_one_for_all(
    conditions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("il2vseg.evaluate.open_model", lambda config: Brightness())
    arguments = ["--checkpoint", "any", "--dataset", "intcatch", "--root", str(conditions)]
    out = tmp_path / "scores.json"
    assert main([*arguments, "--split", "day", "dusk", "--json", str(out)]) == 0
    cells = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    rows = [[cell.strip() for cell in row] for row in cells]
    assert ["day", "2", "100.0", "100.0", "100.0"] in rows
    assert ["dusk", "1", "0.0", "0.0", "0.0"] in rows
    assert ["all", "3", "66.7", "50.0", "50.0"] in rows
    found = json.loads(out.read_text())
    assert (found["split"], found["images"]) == (["day", "dusk"], 3)
    assert found["accuracy"] == pytest.approx(200 / 3)
    assert (found["splits"]["day"]["accuracy"], found["splits"]["dusk"]["accuracy"]) == (100, 0)
    assert main([*arguments, "--split", "dusk", "--json", str(out)]) == 0
    alone = json.loads(out.read_text())
    assert (alone["split"], alone["accuracy"]) == ("dusk", 100)
    assert "splits" not in alone


def test_splits_of_other_classes_have_no_assignment_in_common(conditions: Path) -> None:
    (conditions / "dusk").rename(conditions / "dusk_water")
    splits = [open_dataset("intcatch", conditions, name, labelled=True) for name in ("day", "dusk_water")]
    with pytest.raises(UserError, match="one by one"):
        evaluate_splits(Brightness(), splits)


def test_flip_averages_the_scores_of_the_mirrored_frame() -> None:
    model, expected = Stripes(), Confusion(3, 3)
    for sample in scenes(3):
        frame = torch.from_numpy(resize_frame(sample.frame, model.size))[None]
        mirrored = torch.from_numpy(frame.numpy()[:, :, ::-1].copy())
        scores = (model.predict(frame)[1].numpy() + model.predict(mirrored)[1].numpy()[..., ::-1]) / 2
        labels = model.label(torch.from_numpy(scores.copy()), frame)[0].numpy()
        expected.update(resize_labels(labels, sample.labels.shape), sample.labels)
    found = evaluate(model, scenes(3), flip=True).confusion
    assert np.array_equal(found, expected.counts)
    assert not np.array_equal(found, evaluate(model, scenes(3)).confusion)


def test_a_given_assignment_is_used_as_it_is() -> None:
    given = np.array([1, 1, 0])
    report = evaluate(Stripes(), scenes(2), assignment=given)
    assert report.one_to_one == score(report.confusion, given)
    with pytest.raises(UserError, match="maps 2 clusters; this model has 3"):
        evaluate(Stripes(), scenes(2), assignment=np.array([0, 1]))


def test_crf_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crf, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install"):
        evaluate(Stripes(), scenes(1), crf=True)


@pytest.mark.usefixtures("densecrf")
def test_crf_cleans_speckles_and_keeps_edges() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((64, 96), np.uint8)
    truth[:, 50:] = 1
    frame = np.where(truth[..., None] == 1, (200, 180, 40), (30, 60, 90)).astype(np.uint8)
    noisy = np.where(rng.random(truth.shape) < 0.2, 1 - truth, truth)
    scores = np.stack([0.3 + 0.4 * (noisy == c) for c in (0, 1)]).astype(np.float32)
    assert (crf.refine(frame, scores) == truth).mean() > 0.99
    with crf.CrfPool(1) as pool:
        assert np.array_equal(next(pool.refine([(frame, scores)])), crf.refine(frame, scores))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("il2vseg.evaluate.open_model", lambda config: Stripes())


@pytest.mark.usefixtures("stand_in")
def test_the_command_prints_a_table_and_writes_json_and_plots(tmp_path: Path, capsys) -> None:
    out = tmp_path / "new" / "result.json"
    arguments = ["--checkpoint", "x", "--limit", "3", "--json", str(out), "--plots", str(tmp_path / "plots")]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    for text in (
        "obstacle",
        "water",
        "sky",
        "mean IoU",
        "accuracy",
        "one to one",
        "many to one",
        "boundary F",
    ):
        assert text in table
    result = json.loads(out.read_text())
    assert result["images"] == 3
    assert set(result["per_class_iou"]) == {"obstacle", "water", "sky"}
    assert set(result["many_to_one"]) >= {"accuracy", "miou"}
    assert len(result["assignment"]) == 3
    assert 0 < result["miou"] <= result["accuracy"] <= 100
    assert result["alpha"] == 0.25
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == ["confusion.png", "iou.png", "sheet.png"]


@pytest.mark.usefixtures("stand_in")
def test_an_assignment_found_on_one_split_serves_another(tmp_path: Path) -> None:
    found, reused = tmp_path / "val.json", tmp_path / "again.json"
    assert main(["--checkpoint", "x", "--limit", "2", "--json", str(found)]) == 0
    assert (
        main(
            [
                "--checkpoint",
                "x",
                "--limit",
                "2",
                "--seed",
                "1",
                "--assignment",
                str(found),
                "--json",
                str(reused),
            ]
        )
        == 0
    )
    assert json.loads(reused.read_text())["assignment"] == json.loads(found.read_text())["assignment"]
    assert read_assignment(found, ("not water", "water")).tolist().count(1) == 1


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--alpha", "1.5"], "between 0 and 1"),
        (["--batch-size", "0"], "--batch-size must be between 1 and 4096"),
        (["--dataset", "folder", "--root", "."], "no masks"),
        (["--dataset", "marsh"], "known: folder"),
        (["--split", "test"], "train, val"),
        (["--assignment", "nowhere.json"], "no such file"),
        (["--assignment", "pyproject.toml"], "holds no assignment"),
        (["--json", "/dev/null/x.json"], "cannot write here"),
        (["--danger-zone", "15"], "--danger-zone needs --obstacles"),
        (["--obstacles", "--danger-zone", "0"], "--danger-zone must be between 0.1 and"),
        (["--obstacles", "--danger-zone", "15", "--crop", "five"], "leave --crop out"),
        (["--obstacles", "--danger-zone", "15", "--pitch", "1"], "synthetic knows the camera"),
        (["--dataset", "folder", "--obstacles", "--danger-zone", "15"], "needs --camera-height and --fov"),
        (["--dataset", "folder", "--obstacles", "--danger-zone", "15", "--fov", "60"], "needed together"),
        (["--obstacles", "--pitch", "1"], "are for --danger-zone"),
        (["--frobnicate"], "--help"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    try:
        code = main(["--checkpoint", "x", *arguments])
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_missing_checkpoint_is_said_before_anything_is_written(tmp_path: Path, capsys) -> None:
    assert main(["--checkpoint", str(tmp_path / "none"), "--plots", str(tmp_path / "plots")]) == 2
    assert "no such checkpoint" in capsys.readouterr().err
    assert not list((tmp_path / "plots").iterdir())


def test_help_loads_nothing_heavy() -> None:
    import subprocess

    code = (
        "import sys\nfrom il2vseg.evaluate import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'scipy', 'matplotlib', 'rich', 'pydensecrf'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
