"""TensorRT: built in the right order for every version, refused elsewhere, run through one CUDA graph."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from il2vseg.base.errors import CheckFailed, UserError
from il2vseg.base.images import Frame
from il2vseg.export import cli
from il2vseg.export.engine import ENGINE_NAME, BuildError, build_engine, build_into
from il2vseg.export.half import to_half
from il2vseg.export.parity import Output
from il2vseg.export.runners import onnx_runner
from il2vseg.export.variants import to_int8
from il2vseg.runtime.backends import cuda as cuda_module
from il2vseg.runtime.backends.providers import open_engine
from il2vseg.runtime.manifest import Manifest

from .conftest import SIZE
from .fakes import FakeCuda, fake_tensorrt

Frames = list[tuple[str, Frame]]


class Machine:
    """A machine with a GPU and TensorRT, both fake; the engine computes what model.onnx does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: Path, version: str = "11.4.0", **options: Any):
        self.cuda = FakeCuda(capability=options.pop("capability", (8, 7)))
        run = onnx_runner(model, 1)
        self.wrong = False

        def answer(given: NDArray[np.uint8]) -> Output:
            labels, scores = run(given.reshape(1, *SIZE, 3))
            return (2 - labels if self.wrong else labels).astype(np.uint8), scores

        self.trt = fake_tensorrt(version, self.cuda, answer, **options)
        monkeypatch.setitem(sys.modules, "tensorrt", self.trt)
        monkeypatch.setattr(cuda_module, "load_bindings", lambda: self.cuda)


def add_engine(folder: Path, frames: Frames) -> None:
    def given(size: tuple[int, int]) -> Iterator[tuple[str, Frame]]:
        assert size == SIZE
        return iter(frames[:2])

    build_into(
        folder,
        "fp32",
        workspace_mb=64,
        timing_cache=folder / "timing",
        frames=given,
        progress=lambda line: None,
    )


@pytest.mark.parametrize("version", ["8.6.2", "10.9.0", "11.4.0"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_version_builds_every_precision(
    version: str, precision: Any, model: Path, tmp_path: Path
) -> None:
    trt = fake_tensorrt(version, FakeCuda())
    lines: list[str] = []
    cache = tmp_path / "timing"
    assert build_engine(model, precision, trt, timing_cache=cache, progress=lines.append) == b"engine"
    assert trt.log == ["parse", "build"]
    network, config = trt.builder.last
    assert not config.profiles
    if version.startswith(
        "8"
    ):  # weakly typed: lower precision is allowed, and float pinned where the file has it
        expected = {"fp32": set(), "fp16": {"FP16", "OBEY_PRECISION_CONSTRAINTS"}}
        expected["int8"] = expected["fp16"] | {"INT8"}
        assert config.flags == expected[precision]
        # What is half in the file, what quantises, and a product of integers are left to the builder.
        pinned = [layer.get_output(0).name for layer in network.layers if layer.pinned == "float"]
        assert pinned == ([] if precision == "fp32" else ["shares"])
        assert lines == []
    else:  # strongly typed: the file decides
        assert not config.flags
        assert lines == ["TensorRT: Tactics 1/2"]
    assert cache.read_bytes() == b"timed"
    build_engine(model, precision, trt, timing_cache=cache)
    assert cache.read_bytes() == b"timedtimed"


@pytest.mark.parametrize(("step", "message"), [("parse", "NoSuchOperator"), ("build", "could not build")])
def test_what_tensorrt_cannot_do_is_said(step: str, message: str, model: Path, tmp_path: Path) -> None:
    trt = fake_tensorrt("11.4.0", FakeCuda(), broken=step)
    with pytest.raises(BuildError, match=message):
        build_engine(model, "fp32", trt, timing_cache=tmp_path / "timing")
    assert not (tmp_path / "timing").exists()


def test_an_engine_is_proven_described_and_run(
    export_folder: Path, model: Path, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, model)
    add_engine(export_folder, frames)
    assert machine.cuda.memory == {}
    assert machine.cuda.graphs == machine.cuda.streams == 0
    entry = Manifest.load(export_folder).files[-1]
    assert (entry.path, entry.format, entry.precision) == (ENGINE_NAME, "tensorrt", "fp32")
    assert entry.engine is not None
    assert (entry.engine.tensorrt, entry.engine.compute_capability) == ("11.4.0", "8.7")
    assert (entry.engine.gpu, entry.engine.cuda, entry.engine.driver) == ("Fake GPU", "13.2", "13.1")
    assert entry.parity is not None
    assert entry.parity["passed"]

    launches = machine.cuda.launches
    engine = open_engine(export_folder, say=lambda line: None)
    assert engine.provider == "tensorrt"
    labels, scores = engine.backend(frames[3][1][None])
    expected = onnx_runner(model, 1)(frames[3][1][None])
    np.testing.assert_array_equal(labels, expected[0])
    np.testing.assert_array_equal(scores, expected[1])
    again = engine.backend(frames[4][1][None])[0]
    assert not np.array_equal(again, labels)  # results are copies, not views of the pinned buffer
    assert machine.cuda.launches >= launches + 2

    monkeypatch.undo()  # a machine without TensorRT: the engine does not run, and that is said
    lines: list[str] = []
    assert open_engine(export_folder, "auto", say=lines.append).provider != "tensorrt"
    assert "(tensorrt: tensorrt is not installed" in lines[0]
    engine.close()
    assert machine.cuda.memory == {}
    assert machine.cuda.graphs == machine.cuda.streams == 0


def test_building_again_replaces_the_engine(
    export_folder: Path, model: Path, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch, model)
    add_engine(export_folder, frames)
    add_engine(export_folder, frames)
    assert [file.path for file in Manifest.load(export_folder).files] == ["model.onnx", ENGINE_NAME]


@pytest.mark.parametrize(("version", "capability"), [("10.9.0", (8, 7)), ("11.4.0", (9, 0))])
def test_an_engine_of_another_tensorrt_or_gpu_is_refused_with_the_command(
    version: str,
    capability: tuple[int, int],
    export_folder: Path,
    model: Path,
    frames: Frames,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Machine(monkeypatch, model)
    add_engine(export_folder, frames)
    Machine(monkeypatch, model, version, capability=capability)
    with pytest.raises(UserError, match=r"built for TensorRT 11\.4\.0 on sm_87; here is") as caught:
        open_engine(export_folder, "tensorrt")
    assert f"`il2vseg-export --trt --model {export_folder}`" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_engine_is_refused_by_its_hash(
    export_folder: Path, model: Path, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch, model)
    add_engine(export_folder, frames)
    (export_folder / ENGINE_NAME).write_bytes(b"enginE")
    with pytest.raises(UserError, match="does not match the manifest"):
        open_engine(export_folder, "tensorrt")


def test_an_engine_that_computes_something_else_is_not_kept(
    export_folder: Path, model: Path, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch, model).wrong = True
    before = (export_folder / "manifest.json").read_bytes()
    with pytest.raises(CheckFailed, match="parity of the engine failed"):
        add_engine(export_folder, frames)
    assert (export_folder / "manifest.json").read_bytes() == before
    assert not list(export_folder.glob("*engine*"))
    assert not list(export_folder.glob(".*engine*"))


def test_without_tensorrt_one_line_says_what_to_run_where(
    export_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert cli.main(["--trt", "--model", str(export_folder)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"`il2vseg-export --trt --model {export_folder} --precision fp32`" in line
    assert (export_folder / "model.onnx").is_file()


def test_without_a_gpu_one_line_says_what_to_run_where(
    export_folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Machine(monkeypatch, model).cuda.devices = 0
    assert cli.main(["--trt", "--model", str(export_folder)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "no NVIDIA GPU" in line
    assert "run there: `il2vseg-export --trt" in line


def test_a_precision_that_was_not_exported_is_refused(
    export_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--trt", "--model", str(export_folder), "--precision", "int8"]) == 2
    assert "no int8 file for TensorRT" in capsys.readouterr().err


def test_model_without_trt_is_refused(export_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--model", str(export_folder)]) == 2
    assert "--trt" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_for_rtx_parses_and_builds_our_graphs(
    precision: Any, model: Path, frames: Frames, tmp_path: Path, require: Any
) -> None:
    """The one TensorRT that builds without a GPU: types, operators and shapes checked for real."""
    trt = rtx(require)
    path, proto = tmp_path / "model.onnx", onnx.load(model)
    if precision == "fp16":
        proto = to_half(proto)
    elif precision == "int8":
        proto = to_int8(proto, frames[:2], "tensorrt").model
    onnx.save(proto, path)
    assert len(build_engine(path, precision, trt, configure=for_ada(trt))) > 10_000


def test_tensorrt_refuses_the_int8_file_for_cpus(
    model: Path, frames: Frames, tmp_path: Path, require: Any
) -> None:
    trt = rtx(require)
    path = tmp_path / "model.onnx"
    onnx.save(to_int8(onnx.load(model), frames[:2], "cpu").model, path)
    with pytest.raises(BuildError, match=r"zero.point"):
        build_engine(path, "int8", trt, configure=for_ada(trt))


def rtx(require: Any) -> Any:
    from importlib.util import find_spec

    require(find_spec("tensorrt_rtx"), "tensorrt-rtx is not installed (pip install 'il2vseg[rtx]')")
    import tensorrt_rtx

    return tensorrt_rtx


def for_ada(trt: Any) -> Any:
    def configure(config: Any) -> None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)

    return configure
