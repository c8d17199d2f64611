"""The paper's tables: what every row would run, what is missing, its figures, and real rows in small."""

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from il2vseg import experiment
from il2vseg.base.errors import UserError
from il2vseg.evaluation import paper
from il2vseg.evaluation.paper_tables import BENCHMARKS, TABLES
from il2vseg.methods import METHODS
from tests.no_crf import NoCrf, install


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))
    install(monkeypatch)


def write(path: Path, seed: int, values: int = 0, size: tuple[int, int] = (24, 32)) -> None:
    """A picture of noise; with `values`, a mask of as many, in columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(seed).integers(256, size=(*size, 3), dtype=np.uint8)
    columns = np.arange(size[1], dtype=np.uint8) * values // size[1]
    cv2.imwrite(str(path), columns[None].repeat(size[0], 0) if values else picture)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every data set that the tables name, as it is released, three images of a split each."""
    root = tmp_path_factory.mktemp("data")
    for i in range(3):
        for split in ("train", "val"):
            city = root / "cityscapes"
            write(city / "leftImg8bit" / split / "a" / f"a_{i}_leftImg8bit.png", i)
            write(city / "gtFine" / split / "a" / f"a_{i}_gtFine_labelIds.png", i, 34)
            write(root / "cocostuff" / "images" / f"{split}2017" / f"{i}.jpg", i)
            write(root / "cocostuff" / "annotations" / f"{split}2017" / f"{i}.png", i, 182)
        photo = f"top_potsdam_2_1{i}"
        write(root / "potsdam" / "2_Ortho_RGB" / f"{photo}_RGB.tif", i)
        write(root / "potsdam" / "5_Labels_all" / f"{photo}_label.tif", i)
    for i in range(15):
        write(root / "mastr1325" / f"{i:04d}.jpg", i)
        write(root / "mastr1325" / f"{i:04d}m.png", i, 3)
    return root


def run(*arguments: str) -> int:
    return experiment.main(["paper", *arguments])


def rows_of(text: str) -> dict[str, list[str]]:
    """The cells of a table by the name of their row."""
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {name: rest for name, *rest in cells}


@pytest.mark.parametrize("table", list(TABLES))
def test_a_dry_run_has_all_rows_and_says_what_is_missing(
    data: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--table", table, "--root", str(data), "--dry-run") == 0
    text = capsys.readouterr().out
    assert "No data" not in text
    rows = rows_of(text)
    wanted = TABLES[table].rows()
    assert list(rows)[2:] == [row.name for row in wanted]
    for row in wanted:
        runs, _, here = rows[row.name]
        assert runs.startswith(f"`{row.train['method']}` on `{row.train['backbone']}`")
        if row.train["method"] not in METHODS:
            assert f"no method `{row.train['method']}`" in here
        elif row.train["backbone"] == "resnet18_fpn":
            assert here == "can run"
        elif row.train["backbone"] == "dino_vits8":
            assert here.endswith(
                "a training looks for timm/vit_small_patch8_224.dino on the Hugging Face hub"
            )
        elif row.train["backbone"] == "resnet50_mocov2":
            assert "moco_v2_800ep_pretrain.pth.tar" in here
    assert not list(data.glob("**/runs"))


def test_other_data_and_another_backbone_can_be_asked_for(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--table", "3", "--root", str(data), "--dataset", "potsdam", "--backbone", "tiny", "--dry-run"]
    assert run(*flags) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["STEGO"] == ["`stego` on `tiny`", "", "can run"]
    assert rows["IL2Vseg, MoCoV2"][0] == "`paper` on `resnet50_mocov2`"
    flags = ["--table", "3", "--root", str(data), "--backbone", "resnet18_fpn", "--dry-run"]
    assert run(*flags) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["STEGO"][2] == "`stego` needs frozen tokens here, and cannot train `resnet18_fpn`"


def test_missing_data_is_said_once_with_where_to_get_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--table", "2", "--root", str(tmp_path), "--dry-run") == 0
    text = capsys.readouterr().out
    assert text.count("python -m il2vseg.data.fetch cityscapes") == 1
    assert "no data, see above" in rows_of(text)["STEGO"][2]


@pytest.mark.parametrize(
    ("table", "row", "figures"),
    [
        ("1", "IL2Vseg", "65.1 / 27.6"),
        ("1", "IL2Vseg, MoCoV2", "54.2 / 20.1"),
        ("1", "STEGO", "48.3 / 24.5"),
        ("2", "SmooSeg", "81.8 / 19.7"),
        ("2", "STEGO", "not in our notes"),
        ("3", "IL2Vseg", "93.6 / 82.5"),
        ("3", "DINO", "55.1 / 37.3"),
        ("3", "IIC, frozen tokens", "not in the paper"),
        ("4", "L_smo + L_corr", "80.3 / 18.3"),
        ("5", "α = 0.5", "not in our notes"),
    ],
)
def test_the_figures_of_the_paper(table: str, row: str, figures: str) -> None:
    plan = paper.Plan.of(paper.PaperConfig(), table)
    assert plan.theirs(next(r for r in plan.rows if r.name == row)) == figures


def test_every_row_has_settings_that_a_training_knows() -> None:
    from il2vseg.learning.preparation import recipe_of
    from il2vseg.train import TrainConfig

    for table in TABLES.values():
        rows = table.rows()
        assert set(table.figures) <= {row.name for row in rows}
        assert len({row.name for row in rows}) == len({row.run_name + row.scores_name for row in rows})
        for row in rows:
            if row.train["method"] in METHODS:
                recipe_of(TrainConfig(**row.train), row.recipe)


def test_sizes_are_whole_patches() -> None:
    fitted = BENCHMARKS["cityscapes"].fitting(14)
    assert (fitted.size, fitted.scored_size) == ((224, 224), (322, 322))
    assert BENCHMARKS["mastr1325"].fitting(32) == BENCHMARKS["mastr1325"]


FAST = ["--backbone", "tiny", "--size", "48", "64", "--steps", "2", "--seeds", "1", "--limit", "3"]


def test_rows_are_trained_scored_both_ways_and_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--table", "3", "--root", str(data), *FAST, "--out", str(out)]
    assert run(*flags, "--rows", "DINO", "STEGO", "--protocol", "own") == 0
    assert NoCrf.frames == 0
    capsys.readouterr()

    def later(training: Any, _: object) -> None:
        assert training.backbone == "resnet50_mocov2", "trained again"
        raise UserError("no such weights")

    monkeypatch.setattr(experiment, "train", later)
    assert run(*flags, "--rows", "DINO", "STEGO", "IL2Vseg, MoCoV2") == 0
    text = capsys.readouterr().out
    assert (out / "table-3.md").read_text() in text
    assert NoCrf.frames == 6
    cells = rows_of(text)
    written = list(csv.DictReader((out / "table-3.csv").open()))
    assert [(w["row"], w["protocol"]) for w in written] == [
        ("DINO", "own"), ("DINO", "paper"), ("STEGO", "own"), ("STEGO", "paper"),
    ]  # fmt: skip
    for w in written:
        shown = cells[w["row"]][1 if w["protocol"] == "own" else 2]
        assert shown == f"{float(w['accuracy']):.1f} / {float(w['miou']):.1f}"
    assert cells["STEGO"][3:] == ["70.8 / 54.4", ""]
    assert cells["IL2Vseg, MoCoV2"][1:] == ["", "", "not in our notes", "no such weights"]
    assert (out / "table-3.png").stat().st_size > 1000
    assert run(*flags[:-2], "--out", str(out), "--limit", "4") == 2
    assert "other settings (limit)" in capsys.readouterr().err


def test_alpha_is_that_of_training_and_of_prediction(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = []
    loaded: list[tuple[Path, tuple[int, int] | None]] = []

    def train(settings: dict[str, Any], changes: dict[str, Any]) -> None:
        seen.append((settings, changes))

    class Stop(Exception):
        pass

    def load(folder: Path, size: tuple[int, int] | None) -> Any:
        loaded.append((folder, size))
        return "model"

    def with_alpha(model: Any, alpha: float | None) -> None:
        assert (model, alpha) == ("model", 0.25)
        raise Stop

    monkeypatch.setattr("il2vseg.models.segmenter.with_alpha", with_alpha)
    config = paper.PaperConfig(table="5", root=data, rows=("α = 0.25",), out=tmp_path / "out")
    with pytest.raises(Stop):
        paper.run_paper(config, train, load)
    ((settings, changes),) = seen
    assert changes == {"method.smoothness.train_alpha": 0.25}
    assert settings == {
        "dataset": "cityscapes", "root": data / "cityscapes", "crop": "five", "size": (224, 224),
        "num_classes": 27, "limit": None, "steps": None, "seed": 0, "out": loaded[0][0],
        "method": "paper", "backbone": "dino_vits8",
    }  # fmt: skip
    assert loaded[0][1] == (320, 320)


def test_a_weights_file_is_for_the_network_that_is_trained_whole(data: Path, tmp_path: Path) -> None:
    seen: dict[str, Path | None] = {}

    def train(settings: dict[str, Any], _: dict[str, Any]) -> None:
        seen[settings["backbone"]] = settings.get("weights")
        raise UserError("enough")

    rows, file = ("IIC", "IIC, frozen tokens"), tmp_path / "resnet18.safetensors"
    config = paper.PaperConfig(table="3", root=data, rows=rows, weights=file, out=tmp_path / "out")
    with pytest.raises(UserError, match="no row can run here"):
        paper.run_paper(config, train, lambda folder, size: pytest.fail("nothing was trained"))
    assert seen == {"resnet18_fpn": file, "dino_vits8": None}


def test_where_no_row_can_run_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("--table", "4", "--root", str(tmp_path), "--protocol", "own", "--out", str(out)) == 2
    assert "no row can run here" in capsys.readouterr().err
    assert "no data, see above" in (out / "table-4.md").read_text()
    assert run("--table", "4", "--rows", "nothing", "--dry-run") == 2
    assert "known: L_smo, L_smo + L_fs + L_reg, L_smo + L_corr, all" in capsys.readouterr().err
