"""il2vseg-export: what it writes, what it proves, and what it refuses."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame, write_image
from il2vseg.export import graph as graph_module
from il2vseg.export.cli import main
from il2vseg.models import checkpoint as checkpoint_module
from il2vseg.models.segmenter import Segmenter
from il2vseg.runtime.backends.providers import open_engine
from il2vseg.runtime.manifest import Manifest

Frames = list[tuple[str, Frame]]


@pytest.fixture
def out(segmenter: Segmenter, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output folder; checkpoint and graph are those of the session, which saves seconds per test."""
    monkeypatch.setattr(checkpoint_module, "load_checkpoint", lambda folder, **options: segmenter)
    monkeypatch.setattr(graph_module, "export_onnx", lambda s, path, batch: shutil.copyfile(model, path))
    return tmp_path / "export"


def test_int8_is_written_for_both_families_and_proven(out: Path, footage: Path) -> None:
    arguments = ["--out", str(out), "--precision", "int8", "--calib", str(footage), "--verify", str(footage)]
    assert main([*arguments, "--verify-frames", "4", "--triton"]) == 0
    manifest = Manifest.load(out)
    files = {f.path: f for f in manifest.files}
    assert {p: (f.precision, f.target) for p, f in files.items()} == {
        "model.onnx": ("fp32", "any"),
        "model.int8.onnx": ("int8", "tensorrt"),
        "model.int8-cpu.onnx": ("int8", "cpu"),
    }
    report = json.loads((out / "parity.json").read_text())
    for path, entry in files.items():
        assert entry.parity == report["files"][path]
        assert report["files"][path]["frames"] == 4
        assert report["files"][path]["passed"]
    assert report["label_agreement"] == min(r["label_agreement"] for r in report["files"].values())
    assert files["model.int8.onnx"].quantization is not None
    assert files["model.int8.onnx"].quantization["float_nodes"] == []
    for picture in ("parity.png", "parity.int8.png", "parity.int8-cpu.png"):
        assert cv2.imread(str(out / picture)).shape[1] == 4 * manifest.size[1]
    said: list[str] = []
    open_engine(out, "cpu", say=said.append)
    assert "model.int8-cpu.onnx (int8)" in said[0]
    assert len(list(out.glob("triton/*/1/model.onnx"))) == 1

    with pytest.raises(UserError, match="provider cuda: the model has no file of precision int8"):
        open_engine(out, "cuda", precision="int8")


def test_a_graph_that_computes_something_else_is_rejected_with_the_layer_and_a_picture(
    out: Path, model: Path, footage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = onnx.load(model)
    node = next(n for n in proto.graph.node if n.name.startswith("backbone.vit.blocks.0.mlp.fc1/"))
    weight = next(t for t in proto.graph.initializer if t.name in node.input)
    weight.CopyFrom(numpy_helper.from_array(-3 * numpy_helper.to_array(weight)[::-1].copy(), weight.name))
    monkeypatch.setattr(graph_module, "export_onnx", lambda s, path, batch: onnx.save(proto, path))
    assert main(["--out", str(out), "--verify", str(footage)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "parity failed: model.onnx: " in error
    assert "first layer that differs: backbone.vit.blocks.1.norm1" in error
    assert not (out / "manifest.json").exists()
    rejected = json.loads((out / "rejected/parity.json").read_text())
    assert rejected["divergence"]["model.onnx"]["layer"] == "backbone.vit.blocks.1.norm1"
    assert (out / "rejected/parity.png").is_file()


def test_what_tensorrt_would_refuse_is_said_and_exported_all_the_same(
    out: Path, model: Path, footage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = onnx.load(model)
    labels = proto.graph.node[-1]
    assert (labels.op_type, list(labels.output)) == ("Cast", ["labels"])
    integers = onnx.helper.make_node("Cast", list(labels.input), ["ids"], "ids", to=TensorProto.INT32)
    labels.input[0] = "ids"
    proto.graph.node.insert(len(proto.graph.node) - 1, integers)
    monkeypatch.setattr(graph_module, "export_onnx", lambda s, path, batch: onnx.save(proto, path))
    assert main(["--out", str(out), "--verify", str(footage)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"model.onnx cannot be parsed by TensorRT: {labels.name} (Cast): labels is UINT8" in said
    assert (out / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("content", "says"),
    [("nothing", "no image"), ("dark", "no usable frame"), ("damaged", "none of 1 images could be read")],
)
def test_a_calibration_folder_without_a_usable_frame_is_refused(
    content: str, says: str, out: Path, footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calib = tmp_path / "calib"
    calib.mkdir()
    if content == "dark":
        write_image(calib / "a.png", np.full((30, 40, 3), 8, np.uint8))
    if content == "damaged":
        (calib / "a.png").write_bytes(b"no image")
    arguments = ["--out", str(out), "--precision", "int8", "--verify", str(footage)]
    assert main([*arguments, "--calib", str(calib)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert says in error
    assert str(calib) in error
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--alpha", "2"], "--alpha must be between 0 and 1 (got 2.0)"),
        (["--batch", "0"], "--batch must be between 1 and 1024 (got 0)"),
        (["--calib-frames", "0"], "--calib-frames must be between 1 and"),
        (["--verify-frames", "0"], "--verify-frames must be between 1 and"),
        (["--workspace", "0"], "--workspace must be between 1 and"),
        (["--precision", "int4"], "--precision"),
    ],
)
def test_wrong_settings_are_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(arguments)
    except SystemExit as leaving:
        code = int(str(leaving.code))
    assert code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_truncated_graph_is_not_built_into_an_engine(
    export_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = export_folder / "model.onnx"
    file.write_bytes(file.read_bytes()[:-10])
    assert main(["--trt", "--model", str(export_folder)]) == 2
    assert "the manifest says" in capsys.readouterr().err
