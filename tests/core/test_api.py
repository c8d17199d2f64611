"""The public interface: what a notebook needs, from one import."""

import ast
import dataclasses
import doctest
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

import il2vseg
from il2vseg import signatures
from il2vseg.base.images import Frame
from il2vseg.runtime.sinks.labels import LabelSink
from il2vseg.runtime.sources.base import Captured, Source


@pytest.fixture(scope="module")
def model() -> il2vseg.Model:
    return il2vseg.load("marine-lite", provider="cpu", threads=1)


@pytest.fixture(scope="module")
def frame() -> Frame:
    from il2vseg.data.synthetic import render

    return render(3, 0, (180, 320))[0]


def test_importing_loads_nothing_else() -> None:
    # What `typing` brings along depends on what the environment has loaded at start.
    code = (
        "import sys, typing; old = set(sys.modules); import il2vseg; print(*sorted(set(sys.modules) - old))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"il2vseg", "collections.abc"}


def test_every_name_is_there_and_others_are_not() -> None:
    assert len(il2vseg.__all__) == len(set(il2vseg.__all__)) <= 16
    assert all(getattr(il2vseg, name) is not None for name in il2vseg.__all__)
    assert set(il2vseg.__all__) <= set(dir(il2vseg))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        il2vseg.lod  # noqa: B018


@pytest.mark.parametrize(
    "module",
    ["il2vseg.runtime.result", "il2vseg.base.palette", "il2vseg.base.classes", "il2vseg.learning.agreement"],
)
def test_the_examples_in_docstrings_run(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(module))
    assert failed == 0
    assert tried


def test_the_examples_of_the_public_functions_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    api = importlib.import_module("il2vseg.api")
    examples = {test.name.rpartition(".")[2]: test for test in doctest.DocTestFinder().find(api)}
    runner = doctest.DocTestRunner()
    for function in ("load", "stream", "train", "distill", "evaluate", "name", "export"):  # they use train's
        assert examples[function].examples, f"{function} has no example"
        runner.run(examples[function])
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("command", signatures.COMMANDS)
def test_keyword_arguments_equal_the_flags(command: str, tmp_path: Path) -> None:
    function = getattr(il2vseg, command)
    known = {field.name for field in dataclasses.fields(signatures.settings_of(command))}
    assert callable(function)
    assert set(inspect.signature(function).parameters) == known - {"config"}
    with pytest.raises(TypeError, match="no_such_flag"):
        function(no_such_flag=1)


def test_the_types_that_editors_complete_are_those_of_the_flags() -> None:
    """After a change of a flag: `make signatures`."""
    written = ast.parse(signatures.STUB.read_text())
    assert ast.dump(written) == ast.dump(ast.parse(signatures.stub()))


def test_a_command_and_its_module_have_one_name(tmp_path: Path) -> None:
    import il2vseg.export.cli
    import il2vseg.train

    assert il2vseg.train is sys.modules["il2vseg.train"]
    assert il2vseg.export.cli.PROGRAM == "il2vseg-export"
    with pytest.raises(il2vseg.UserError, match="steps must be"):
        il2vseg.train(steps=-1)
    with pytest.raises(il2vseg.UserError, match="no such checkpoint"):
        il2vseg.distill(teacher="/nowhere", out=tmp_path)


def test_a_picture_becomes_a_result(model: il2vseg.Model, frame: Frame, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "river.png"), frame)
    result = model(tmp_path / "river.png")
    assert model(str(tmp_path / "river.png")).name == result.name == "river"
    np.testing.assert_array_equal(result.frame, frame)
    assert (result.labels.shape, result.labels.dtype) == ((180, 320), np.uint8)
    assert result.names == model.names
    assert set(result.names) == {"obstacle", "water", "sky"}
    assert result.fractions == pytest.approx(
        {name: (result.labels == i).mean() for i, name in enumerate(result.names)}
    )
    assert result.scores.sum(0) == pytest.approx(1.0, abs=1e-3)
    assert result.obstacles
    assert f"{len(result.obstacles)} obstacles" in repr(result)
    assert "Result(river, 320x180: " in repr(result)
    assert repr(model) == f"Model(marine-lite, 640x352 on cpu: {', '.join(model.names)})"


def test_several_pictures_become_a_list(model: il2vseg.Model, frame: Frame, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), frame)
    named, given, stacked = model([tmp_path / "a.png", frame]), model([frame]), model(np.stack([frame] * 2))
    assert [r.name for r in named] == ["a", "frame"]
    for result in (*named, *given, *stacked):
        np.testing.assert_array_equal(result.labels, named[0].labels)
    assert len(stacked) == 2


def test_results_of_one_call_have_names_of_their_own(
    model: il2vseg.Model, frame: Frame, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("bow/x.png", "stern/x.png", "stern/x.jpg")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(file), frame)
    results = model([*files, frame, frame])
    assert [r.name for r in results[:3]] == ["bow/x", "stern/x.png", "stern/x.jpg"]
    assert len({r.name for r in results}) == 5
    with LabelSink(tmp_path / "labels") as sink:
        for result in results:
            sink.write(result)
    assert len(list((tmp_path / "labels").rglob("*.png"))) == 5


def test_a_result_is_not_saved_over_its_picture(model: il2vseg.Model, frame: Frame, tmp_path: Path) -> None:
    path, link = tmp_path / "river.png", tmp_path / "link.png"
    cv2.imwrite(str(path), frame)
    link.symlink_to(path)
    before = path.read_bytes()
    for target in (path, link, f"{tmp_path}/../{tmp_path.name}/river.png"):
        with pytest.raises(il2vseg.UserError, match="choose another name"):
            model(path).save(target)
    assert path.read_bytes() == before
    assert model(path).save(tmp_path / "overlay.png").exists()


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(model: il2vseg.Model, wrong: Frame) -> None:
    with pytest.raises(il2vseg.UserError, match="a BGR picture"):
        model(wrong)


def test_a_result_draws_and_saves_itself(model: il2vseg.Model, frame: Frame, tmp_path: Path) -> None:
    result = model(frame)
    assert result.save(tmp_path / "o.png") == tmp_path / "o.png"
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "o.png")), result.draw())
    shown = cv2.imdecode(np.frombuffer(result._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(shown, result.draw())
    with pytest.raises(il2vseg.UserError, match=r"o\.xyz"):
        result.save(tmp_path / "o.xyz")
    with pytest.raises(il2vseg.UserError, match="cannot be written"):
        result.save("/proc/none/o.png")


def test_a_recording_is_streamed_whole_and_in_order(model: il2vseg.Model) -> None:
    results = list(il2vseg.stream("synthetic:frames=3,size=90x160", model))
    assert [r.index for r in results] == [0, 1, 2]
    assert [r.name for r in results] == ["frame_000000", "frame_000001", "frame_000002"]
    assert {r.dropped for r in results} == {0}
    assert not results[0].live
    assert set(results[0].latency_ms) >= {"read", "wait", "engine", "marine", "total"}
    assert results[0].scene is not None


class Broken(Source):
    """A source that breaks off after a frame."""

    closed = False

    def read(self) -> Captured | None:
        if self.closed:
            return None
        if vars(self).setdefault("given", 0):
            raise il2vseg.UserError("the cable is out")
        self.given = 1
        return Captured(np.zeros((8, 8, 3), np.uint8), 0, "frame_000000")

    def close(self) -> None:
        self.closed = True


def test_a_stream_that_breaks_off_says_so_and_closes_its_source(model: il2vseg.Model) -> None:
    from il2vseg.runtime.stream import stream

    source, results = Broken(), []
    with pytest.raises(il2vseg.UserError, match="the cable is out"):
        results.extend(stream(source, model))
    assert source.closed
    early = Broken()
    for _ in stream(early, model, max_frames=1):
        pass
    assert early.closed


def test_a_file_of_an_export_and_its_manifest_are_models_too(frame: Frame) -> None:
    from il2vseg.runtime.catalog import BUNDLED

    folder = BUNDLED / "marine-lite"
    whole = il2vseg.load(str(folder), provider="cpu", precision="fp32")(frame)
    for path in (folder / "manifest.json", folder / "model.onnx"):
        np.testing.assert_array_equal(
            il2vseg.load(path, provider="cpu", precision="fp32")(frame).labels, whole.labels
        )
    with pytest.raises(il2vseg.UserError, match="marine-lite"):
        il2vseg.load("marine-light")


def test_a_checkpoint_runs_in_pytorch_under_the_names_of_its_classes(tmp_path: Path, frame: Frame) -> None:
    import torch

    from il2vseg.models.checkpoint import rename_clusters, save_student
    from il2vseg.models.spec import LowLevelSpec, ModelSpec
    from il2vseg.models.student import METHOD, Student, finish

    names = ("class 0", "class 1", "class 2")
    low_level = LowLevelSpec(refine=0)
    spec = ModelSpec(
        METHOD, "mobilenetv4_small_050", "random", (64, 96), names, 0.0, 1.0, False, low_level, "none"
    )
    torch.manual_seed(0)
    save_student(tmp_path / "river", finish(Student(spec)))
    rename_clusters(tmp_path / "river", ["water", "sky", "water"])
    model = il2vseg.load(tmp_path / "river")
    assert repr(model) == "Model(river, 96x64 on torch: water, sky)"
    result = model(frame)
    assert result.scores.shape == (3, 16, 24)
    assert result.labels.shape == frame.shape[:2]
    assert result.labels.max() <= 1
    assert sum(result.fractions.values()) == pytest.approx(1.0)
    file = il2vseg.load(tmp_path / "river" / "checkpoint.safetensors")
    np.testing.assert_array_equal(file(frame).labels, result.labels)


def corner() -> il2vseg.Result:
    """Two classes of three: a square of class 2 in the upper left corner of class 0."""
    labels = np.zeros((6, 8), np.uint8)
    labels[:2, :3] = 2
    return il2vseg.Result.of(np.zeros((6, 8, 3), np.uint8), labels, ["water", "sky", "boat"])


def test_a_result_becomes_coco_annotations(require: Callable[[object, str], None]) -> None:
    require(find_spec("pycocotools"), "pycocotools is not installed (pip install 'il2vseg[interop]')")
    from pycocotools import mask as coco

    water, boat = corner().to_coco()
    assert (water["category"], water["category_id"], water["area"]) == ("water", 0, 42)
    assert (boat["category"], boat["category_id"], boat["area"]) == ("boat", 2, 6)
    assert boat["bbox"] == [0.0, 0.0, 3.0, 2.0]
    assert boat["iscrowd"] == 0
    np.testing.assert_array_equal(coco.decode(boat["segmentation"]), corner().labels == 2)


def test_a_result_becomes_supervision_detections(require: Callable[[object, str], None]) -> None:
    require(find_spec("supervision"), "supervision is not installed (pip install 'il2vseg[interop]')")
    found = corner().to_supervision()
    assert found.class_id.tolist() == [0, 2]
    assert found.data["class_name"].tolist() == ["water", "boat"]
    np.testing.assert_array_equal(found.mask, [corner().labels == 0, corner().labels == 2])
    assert found.xyxy[1].tolist() == [0, 0, 2, 1]


@pytest.mark.parametrize(
    ("module", "method"), [("pycocotools", "to_coco"), ("supervision", "to_supervision")]
)
def test_a_conversion_without_its_package_names_it(
    module: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(il2vseg.UserError, match=rf"{module}.*il2vseg\[interop\]"):
        getattr(corner(), method)()
