"""The parts of bench/gpu.py that run exported graphs: on the CUDA provider, and on TensorRT for RTX."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gpu_setting import BATCHES, FILES, INT8_SIZE, Row, Setting, Size, frames, quantiles, timed


def write_graphs(s: Setting, size: Size, batch: int) -> str:
    """Write the fp32 and fp16 graphs of one size, and at INT8_SIZE the int8 ones."""
    import torch

    from il2vseg.base.files import write_json
    from il2vseg.export.graph import export_onnx
    from il2vseg.export.variants import write_half, write_int8
    from il2vseg.models.checkpoint import load_checkpoint

    torch.set_num_threads(2)
    folder = s.model(size, batch)
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    export_onnx(load_checkpoint(s.checkpoint, size=size, weights=s.weights), folder / "model.onnx", batch)
    if not s.dry:
        write_half(folder)
        if size == INT8_SIZE and batch == 1:
            scenes = [(str(i), frame) for i, frame in enumerate(frames(size, 16))]
            write_int8(folder, scenes, lambda line: None)
    write_json(folder / "size.json", {"size": size, "batch": batch})
    return f"{time.perf_counter() - begun:.0f}"


def export(s: Setting) -> Iterator[Row]:
    """Write the graphs that the next parts measure."""
    cases = [(size, batch) for size in s.sizes for batch in (BATCHES[:1] if s.dry else BATCHES)]
    if s.dry:
        for size, batch in cases:
            yield {"graph": f"{size[0]}x{size[1]}, batch {batch}", "s": write_graphs(s, size, batch)}
        return
    with ProcessPoolExecutor(len(cases)) as pool:
        jobs = [(size, batch, pool.submit(write_graphs, s, size, batch)) for size, batch in cases]
        for size, batch, job in jobs:
            yield {"graph": f"{size[0]}x{size[1]}, batch {batch}", "s": job.result()}


def session(s: Setting, path: Path, options: dict[str, str]) -> Any:
    """A session on the provider that is measured.

    Raises:
        RuntimeError: the provider did not start.
    """
    import onnxruntime as ort
    import torch  # noqa: F401  # loads the CUDA libraries

    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    found = ort.InferenceSession(str(path), settings, providers=[(s.provider, options)])
    if found.get_providers()[0] != s.provider:
        raise RuntimeError(f"{s.provider} did not start")
    return found


def bound(s: Setting, found: Any, batch: np.ndarray) -> tuple[Callable[[], object], Any]:
    """A call on buffers that lie on the device, and its binding."""
    import onnxruntime as ort

    binding = found.io_binding()
    frame = ort.OrtValue.ortvalue_from_numpy(batch, s.device, 0)
    binding.bind_ortvalue_input(found.get_inputs()[0].name, frame)
    labels, scores = found.run(None, {found.get_inputs()[0].name: batch})
    outputs = [
        ort.OrtValue.ortvalue_from_shape_and_type(v.shape, v.dtype, s.device, 0) for v in (labels, scores)
    ]
    for node, value in zip(found.get_outputs(), outputs, strict=True):
        binding.bind_ortvalue_output(node.name, value)
    return partial(found.run_with_iobinding, binding), binding


def parity(s: Setting) -> Iterator[Row]:
    """Every export on the CUDA provider: what it computes and how long it takes."""
    for size in s.sizes:
        for batch in BATCHES[:1] if s.dry else BATCHES:
            yield from parity_of(s, size, batch)


def parity_of(s: Setting, size: Size, batch: int) -> Iterator[Row]:
    """The files of one size."""
    from il2vseg.export.parity import LIMITS, compare
    from il2vseg.models.checkpoint import load_checkpoint
    from il2vseg.models.eager import EagerBackend

    folder = s.model(size, batch)
    reference = EagerBackend(load_checkpoint(s.checkpoint, size=size, weights=s.weights))
    scenes = [(str(i), frame) for i, frame in enumerate(frames(size, 2 if s.dry else 6))]
    for file, precision in FILES.items():
        if not (folder / file).exists():
            continue
        row: Row = {"graph": f"{size[0]}x{size[1]}", "batch": batch, "precision": precision}
        try:
            found = session(s, folder / file, {} if s.dry else {"use_tf32": "0"})
            if batch == 1:
                name = found.get_inputs()[0].name
                candidate = lambda frame: tuple(found.run(None, {name: frame}))  # noqa: E731, B023
                report = compare(reference, candidate, scenes, LIMITS[precision])
                row |= {
                    "labels agree": f"{report.label_agreement:.3%}",
                    "scores differ": f"{report.max_score_difference:.1e}",
                    "verdict": "; ".join(report.failures) or "passed",
                }
            many = np.stack([scenes[i % len(scenes)][1] for i in range(batch)])
            plain = quantiles(partial(found.run, None, {found.get_inputs()[0].name: many}), s)
            yield timed(row | {"call": "as il2vseg-run"}, plain, batch)
            call, _ = bound(s, found, many)
            yield timed(row | {"call": "I/O bound"}, quantiles(call, s), batch)
        except Exception as error:  # the other files still count
            yield row | {"verdict": " ".join(str(error).split())[:200]}
            continue
        if not s.dry:
            yield from captured(s, folder / file, many, row, batch)


def captured(s: Setting, path: Path, many: np.ndarray, row: Row, batch: int) -> Iterator[Row]:
    """The same file as one CUDA graph, where all of it runs on the GPU."""
    try:
        found = session(s, path, {"use_tf32": "0", "enable_cuda_graph": "1"})
        call, _ = bound(s, found, many)
        yield timed(row | {"call": "CUDA graph"}, quantiles(call, s), batch)
    except Exception as error:
        yield row | {"call": "CUDA graph", "verdict": " ".join(str(error).split())[:200]}


def rtx(s: Setting) -> Iterator[Row]:
    """The same files on TensorRT for RTX, by its provider for ONNX Runtime."""
    import onnxruntime as ort

    from il2vseg.export.parity import LIMITS, compare
    from il2vseg.models.checkpoint import load_checkpoint
    from il2vseg.models.eager import EagerBackend

    try:
        import onnxruntime_ep_nv_tensorrt_rtx as plugin
    except ImportError:
        yield {"verdict": "not run: onnxruntime-ep-nv-tensorrt-rtx is not installed"}
        return
    ort.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
    devices = [d for d in ort.get_ep_devices() if d.ep_name == plugin.get_ep_name()]
    if not devices:
        yield {"verdict": f"not run: {plugin.get_ep_name()} knows no device here"}
        return
    for size in s.sizes[:3]:
        reference = EagerBackend(load_checkpoint(s.checkpoint, size=size, weights=s.weights))
        scenes = [(str(i), frame) for i, frame in enumerate(frames(size, 4))]
        for file, precision in (
            ("model.onnx", "fp32"),
            ("model.fp16.onnx", "fp16"),
            ("model.int8.onnx", "int8"),
        ):
            path = s.model(size, 1) / file
            if not path.exists():
                continue
            row: Row = {"graph": f"{size[0]}x{size[1]}", "precision": precision}
            try:
                options = ort.SessionOptions()
                options.log_severity_level = 3
                options.add_provider_for_devices(devices[:1], {})
                begun = time.perf_counter()
                found = ort.InferenceSession(str(path), options)
                name = found.get_inputs()[0].name
                candidate = lambda frame: tuple(found.run(None, {name: frame}))  # noqa: E731, B023
                candidate(scenes[0][1][None])
                row["build s"] = f"{time.perf_counter() - begun:.1f}"
                report = compare(reference, candidate, scenes, LIMITS[precision])
                row |= {
                    "labels agree": f"{report.label_agreement:.3%}",
                    "verdict": "; ".join(report.failures) or "passed",
                }
                yield timed(row, quantiles(partial(candidate, scenes[0][1][None]), s), 1)
            except Exception as error:
                yield row | {"verdict": " ".join(str(error).split())[:300]}
