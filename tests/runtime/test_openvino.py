"""OpenVINO behind the same protocol as every other provider."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame, resize_frame
from il2vseg.runtime.backends.providers import open_engine

from .conftest import SIZE, build_graph, needs, write_model

needs("openvino", "openvino")


def test_it_computes_what_onnx_runtime_does(model: Path, frames: list[Frame]) -> None:
    lines: list[str] = []
    engine = open_engine(model, "openvino", threads=1, say=lines.append)
    assert lines == ["model threshold: model.onnx (fp32) on provider openvino"]
    frame = resize_frame(frames[0], SIZE)[None]
    labels, scores = engine.backend(frame)
    expected = open_engine(model, "cpu", say=lines.append).backend(frame)
    np.testing.assert_allclose(scores, expected[1], atol=1e-5)
    assert (labels == expected[0]).mean() > 0.999
    again = scores.copy()
    engine.backend(resize_frame(frames[-1], SIZE)[None])
    np.testing.assert_array_equal(scores, again)  # results are copies, not views of its buffers
    engine.close()


def test_a_graph_that_it_cannot_load_is_one_line(make_model: Callable[[str], Path]) -> None:
    folder, graph = make_model("m"), build_graph()
    graph.graph.node[4].op_type = "NoSuchOperator"
    write_model(folder, graph)
    with pytest.raises(UserError, match="OpenVINO cannot load it") as caught:
        open_engine(folder, "openvino")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bundled", [False, True])
def test_auto_loads_the_faster_runtime_and_not_the_other(model: Path, bundled: bool) -> None:
    """OpenVINO, but ONNX Runtime for a student. A process that ends with both in it may crash."""
    name = "marine-lite" if bundled else str(model)
    code = (
        "import sys; from il2vseg.runtime.backends.providers import open_engine\n"
        f"open_engine({name!r}); print(*sorted({{'onnxruntime', 'openvino'}} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ("provider cpu" if bundled else "provider openvino") in done.stderr
    assert done.stdout.split() == (["onnxruntime"] if bundled else ["openvino"])
