"""A small model that needs no training: what is bluish is water, what is dark an obstacle, the rest sky."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from il2vseg.base.images import Frame
from il2vseg.runtime.manifest import ClassInfo, InputSpec, Manifest, OutputSpec, describe_file
from il2vseg.runtime.result import Result
from il2vseg.runtime.sources.base import Captured

STRICT = os.environ.get("IL2VSEG_STRICT", "0") not in ("", "0")


def needs(module: str, extra: str) -> None:
    """Skip a test, or a module of tests, whose extra is not installed; under IL2VSEG_STRICT fail."""
    if find_spec(module) is None:
        reason = f"{module} is not installed (pip install 'il2vseg[{extra}]')"
        if STRICT:
            pytest.fail(f"IL2VSEG_STRICT is set and {reason}", pytrace=False)
        pytest.skip(reason, allow_module_level=True)


SIZE = (48, 64)
GRID = (12, 16)
CLASSES = (
    ClassInfo("obstacle", (247, 195, 37)),
    ClassInfo("water", (41, 167, 224)),
    ClassInfo("sky", (90, 75, 164)),
)
CLUSTERS = (1, 0, 2, 1)  # the graph's clusters 0 and 3 are both water
_WEIGHTS = np.array(  # rows: clusters; columns: B, G, R in [0, 1]; then the bias
    [[3.0, -0.5, -3.0, 0.0], [-2.0, -2.0, -2.0, 2.0], [1.0, 1.0, 1.0, -1.2], [-9.0, -9.0, -9.0, -9.0]],
    np.float32,
)


def reference(frame: Frame) -> NDArray[np.uint8]:
    """Class ids that the model gives a frame of its own size, (H, W)."""
    from il2vseg.runtime.engine import upsampled_argmax

    rows, columns = SIZE[0] // GRID[0], SIZE[1] // GRID[1]
    x = frame.reshape(GRID[0], rows, GRID[1], columns, 3).mean((1, 3)) / 255
    logits = np.moveaxis(x @ _WEIGHTS[:, :3].T + _WEIGHTS[:, 3], 2, 0)
    scores = np.exp(4 * logits)
    scores /= scores.sum(0)
    return np.array(CLUSTERS, np.uint8)[upsampled_argmax(scores.astype(np.float32), SIZE)]


def build_graph() -> onnx.ModelProto:
    """The model as a graph of the shape that the exporter makes."""
    clusters = len(CLUSTERS)
    pool = (SIZE[0] // GRID[0], SIZE[1] // GRID[1])
    weights = {
        "scale": np.float32(1 / 255),
        "w": _WEIGHTS[:, :3].reshape(clusters, 3, 1, 1),
        "b": _WEIGHTS[:, 3].copy(),
        "sharpness": np.float32(4),
        "sizes": np.array([1, clusters, *SIZE], np.int64),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["frame"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "scale"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["nchw"], ["cells"], kernel_shape=pool, strides=pool),
        helper.make_node("Conv", ["cells", "w", "b"], ["logits"]),
        helper.make_node("Mul", ["logits", "sharpness"], ["sharp"]),
        helper.make_node("Softmax", ["sharp"], ["scores"], axis=1),
        helper.make_node("Resize", ["scores", "", "", "sizes"], ["fine"], mode="linear"),
        helper.make_node("ArgMax", ["fine"], ["ids"], axis=1, keepdims=0),
        helper.make_node("Cast", ["ids"], ["labels"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "threshold",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, *SIZE, 3])],
        [
            helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, *SIZE]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, clusters, *GRID]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def write_model(folder: Path, graph: onnx.ModelProto | None = None) -> Path:
    """Write the model and its manifest into a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(graph or build_graph(), folder / "model.onnx")
    Manifest(
        name="threshold",
        method="none",
        backbone="none",
        patch_size=4,
        input=InputSpec("frame", *SIZE),
        outputs=OutputSpec(SIZE, (len(CLUSTERS), *GRID)),
        classes=CLASSES,
        clusters=CLUSTERS,
        files=(describe_file(folder, "model.onnx", format="onnx", precision="fp32"),),
    ).save(folder)
    return folder


def make_result(
    frame: Frame | None = None, labels: NDArray[np.uint8] | None = None, index: int = 0, **fields: Any
) -> Result:
    """A result of the classes above: of a grey frame of 48x64 that is sky, unless told otherwise."""
    frame = np.full((*SIZE, 3), 10 + index % 200, np.uint8) if frame is None else frame
    labels = np.full(frame.shape[:2], 2, np.uint8) if labels is None else labels
    captured = Captured(frame, index, f"frame_{index:06d}", unix=1.7e9 + index / 10, clock=index / 10)
    return Result(captured, labels, np.full((3, 1, 1), 1 / 3, np.float32), CLASSES, **fields)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the small model. Not to be changed: `make_model` gives a test its own."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[[str], Path]:
    """Write the small model into a folder of the test's own."""
    return lambda name: write_model(tmp_path / name)


@pytest.fixture(scope="session")
def frames() -> list[Frame]:
    """Twelve frames of a scene, small."""
    from il2vseg.data.synthetic import render

    return [render(1, 3 * i, (90, 120))[0] for i in range(12)]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 12 frames, 160x120, at 10 frames per second."""
    from il2vseg.data.synthetic import write_clip

    path = tmp_path_factory.mktemp("clip") / "river.mp4"
    write_clip(path, 12, seed=2, size=(120, 160), fps=10)
    return path
