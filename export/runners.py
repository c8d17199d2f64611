"""Runners for `parity.compare`: the eager model and an exported file behind one signature."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.export.parity import Output, Runner

if TYPE_CHECKING:
    from il2vseg.models.segmenter import Segmenter


def eager_runner(segmenter: "Segmenter") -> Runner:
    """Run the trained model in PyTorch."""
    import torch

    from il2vseg.models.segmenter import frames_to_images, label_pixels

    @torch.inference_mode()
    def run(frame: NDArray[np.uint8]) -> Output:
        images = frames_to_images(torch.from_numpy(frame))
        scores, confidence = segmenter.judge(images)
        labels = label_pixels(scores, images, segmenter.low_level)
        more = () if confidence is None else (confidence[:, 0],)
        return tuple(x.numpy() for x in (labels, scores, *more))

    return run


def onnx_runner(model: Path, threads: int | None = None) -> Runner:
    """Run an ONNX file in ONNX Runtime on the CPU; `threads` is one per core when None."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    # A spinning pool would take the cores from the model that it is compared with.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(frame: NDArray[np.uint8]) -> Output:
        return tuple(session.run(None, {name: frame}))

    return run


def openvino_runner(model: Path, threads: int) -> Runner:
    """Run an ONNX file in OpenVINO as the runtime does.

    Raises:
        UserError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError:
        raise UserError("OpenVINO is not installed (pip install 'il2vseg[openvino]')") from None
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(str(model), "CPU", {"PERFORMANCE_HINT": "LATENCY"} | options)

    def run(frame: NDArray[np.uint8]) -> Output:
        outputs = compiled({"frame": frame})
        return tuple(np.array(outputs[i]) for i in range(len(compiled.outputs)))

    return run
