"""The exported graph computes what the model computes, in a form that runtimes take."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame
from il2vseg.calib.layers import attentions, linears
from il2vseg.calib.qdq import CPU
from il2vseg.calib.quantise import quantise
from il2vseg.export.bisect import first_divergence
from il2vseg.export.deploy_form import deploy_form
from il2vseg.export.graph import export_onnx
from il2vseg.export.half import half_nodes, to_half
from il2vseg.export.parity import LIMITS, compare
from il2vseg.export.runners import onnx_runner
from il2vseg.export.variants import to_int8
from il2vseg.models.backbones import build_backbone
from il2vseg.models.eager import EagerBackend
from il2vseg.models.lowlevel import AFFINITY_TILE
from il2vseg.models.segmenter import Segmenter
from il2vseg.models.spec import LowLevelSpec
from tests.runtime.conftest import build_graph

from .conftest import SIZE, make_segmenter

Frames = list[tuple[str, Frame]]


def test_deployable_form_computes_the_same(segmenter: Segmenter, frames: Frames) -> None:
    before = copy.deepcopy(segmenter.state_dict())
    images = torch.from_numpy(np.stack([f for _, f in frames]))
    plain = deploy_form(segmenter)
    torch.testing.assert_close(plain.predict(images)[1], segmenter.predict(images)[1], atol=1e-5, rtol=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in segmenter.state_dict().items())


def test_layer_scale_and_the_affine_part_of_norms_are_folded() -> None:
    segmenter = make_segmenter()
    block = segmenter.backbone.vit.blocks[0]  # type: ignore[union-attr, index]
    for norm in (block.norm1, block.norm2):
        norm.weight.data = torch.linspace(0.2, 2.0, len(norm.weight))
        norm.bias.data = torch.linspace(-1.0, 1.0, len(norm.bias))
    gammas = torch.linspace(0.5, 1.5, segmenter.backbone.dim)

    class LayerScale(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = torch.nn.Parameter(gammas.clone())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.gamma

    block.ls1, block.ls2 = LayerScale(), LayerScale()
    image, deployed = torch.rand(1, 3, *SIZE), deploy_form(segmenter)
    with torch.inference_mode():
        torch.testing.assert_close(deployed(image), segmenter(image), atol=1e-5, rtol=1e-4)
    folded = deployed.backbone.vit.blocks[0]  # type: ignore[union-attr, index]
    assert folded.norm1.weight is folded.norm2.weight is None
    assert isinstance(folded.ls1, torch.nn.Identity)


def test_fp32_graph_equals_the_model(segmenter: Segmenter, model: Path, frames: Frames) -> None:
    report = compare(EagerBackend(segmenter), onnx_runner(model, 1), frames, LIMITS["fp32"])
    assert report.passed, report.failures


def test_without_the_low_level_branch_the_graph_has_none(frames: Frames, tmp_path: Path) -> None:
    segmenter, path = make_segmenter(alpha=0.0), tmp_path / "model.onnx"
    export_onnx(segmenter, path)
    report = compare(EagerBackend(segmenter), onnx_runner(path, 1), frames, LIMITS["fp32"])
    assert report.passed, report.failures
    assert "Pow" not in {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.slow
def test_a_network_that_is_trained_whole_is_exported_with_it(frames: Frames, tmp_path: Path) -> None:
    backbone = build_backbone("resnet18_fpn", SIZE, None)
    for name, value in backbone.vit.state_dict().items():
        if name.endswith(("bn1.running_mean", "bn2.weight")):
            value.copy_(torch.linspace(0.1, 0.9, len(value)))
    segmenter, path = make_segmenter(alpha=0.0, backbone=backbone), tmp_path / "model.onnx"
    export_onnx(segmenter, path)
    report = compare(EagerBackend(segmenter), onnx_runner(path, 1), frames, LIMITS["fp32"])
    assert report.passed, report.failures
    assert min(report.per_class_iou) > 0.99


def test_affinity_of_a_large_grid_is_tiled(tmp_path: Path) -> None:
    size = (16 * 33, 16 * 32)
    assert AFFINITY_TILE < 33 * 32
    segmenter = make_segmenter(size, low_level=LowLevelSpec(iterations=1, refine=0))
    export_onnx(segmenter, tmp_path / "model.onnx")
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    report = compare(
        EagerBackend(segmenter), onnx_runner(tmp_path / "model.onnx", 1), [("noise", frame)], LIMITS["fp32"]
    )
    assert report.passed, report.failures
    shapes = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "model.onnx")).graph.value_info
    rows = [d.dim_value for v in shapes for d in v.type.tensor_type.shape.dim[-2:-1] if "softmax" in v.name]
    tiles = [r for r in rows if r <= AFFINITY_TILE]
    assert 33 * 32 - AFFINITY_TILE in tiles


def test_graph_has_the_promised_inputs_and_outputs(model: Path) -> None:
    graph = onnx.load(model).graph
    found = {
        v.name: (v.type.tensor_type.elem_type, [d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in (*graph.input, *graph.output)
    }
    assert found == {
        "frame": (TensorProto.UINT8, [1, *SIZE, 3]),
        "labels": (TensorProto.UINT8, [1, *SIZE]),
        "scores": (TensorProto.FLOAT, [1, 3, SIZE[0] // 16, SIZE[1] // 16]),
    }


def test_graph_carries_no_notes_of_the_machine_that_exported(model: Path) -> None:
    assert b".py" not in model.read_bytes()
    names = [node.name for node in onnx.load(model).graph.node]
    assert len(set(names)) == len(names)
    assert any(name.startswith("backbone.vit.blocks.1.attn.query/") for name in names)


def test_uint8_meets_no_operator_but_the_cast(model: Path) -> None:
    readers = [node.op_type for node in onnx.load(model).graph.node if "frame" in node.input]
    assert readers == ["Cast"]


def test_more_classes_than_uint8_names_are_refused(tmp_path: Path) -> None:
    segmenter = make_segmenter()
    segmenter.class_names = [f"class {i}" for i in range(256)]
    with pytest.raises(UserError, match="uint8"):
        export_onnx(segmenter, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_half_precision_agrees_and_keeps_the_delicate_parts_in_float(
    segmenter: Segmenter, model: Path, frames: Frames, tmp_path: Path
) -> None:
    full = onnx.load(model)
    chosen = half_nodes(full)
    nodes = [node for node in full.graph.node if node.output[0] in chosen]
    ops = {node.op_type for node in nodes}
    assert "MatMul" in ops
    assert not ops & {"Softmax", "LayerNormalization", "ReduceSum", "Resize", "ArgMax"}
    assert all(node.name.startswith("backbone.vit.") for node in nodes)
    onnx.save(to_half(full), tmp_path / "half.onnx")
    assert (tmp_path / "half.onnx").stat().st_size < 0.7 * model.stat().st_size
    report = compare(EagerBackend(segmenter), onnx_runner(tmp_path / "half.onnx", 1), frames, LIMITS["fp16"])
    assert report.passed, report.failures
    assert report.max_score_difference > 0


def test_half_precision_survives_activations_that_it_cannot_hold(
    model: Path, frames: Frames, tmp_path: Path
) -> None:
    proto = onnx.load(model)
    embedding = next(t for t in proto.graph.initializer if t.name.endswith("pos_embed"))
    values = numpy_helper.to_array(embedding).copy()
    values[..., 0] += 1e5  # one channel of the residual stream beyond 65504, as in large ViTs
    embedding.CopyFrom(numpy_helper.from_array(values, embedding.name))
    full, half = tmp_path / "full.onnx", tmp_path / "half.onnx"
    onnx.save(proto, full)
    onnx.save(to_half(proto), half)
    report = compare(onnx_runner(full, 1), onnx_runner(half, 1), frames[:2], LIMITS["fp16"])
    assert report.passed, report.failures


def test_int8_for_tensorrt_has_its_attention_in_half_and_every_layer_its_own_pairs(
    segmenter: Segmenter, model: Path, frames: Frames, tmp_path: Path
) -> None:
    full = onnx.load(model)
    products = {node.output[0] for x in attentions(full) for node in (x.scores, x.output)}
    assert len(products) == 4
    quantised = to_int8(full, frames[:3], "tensorrt").model
    inferred = onnx.shape_inference.infer_shapes(quantised).graph.value_info
    halves = {v.name for v in inferred if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    assert {node.output[0] for node in quantised.graph.node if node.op_type == "MatMul"} & halves == products
    pairs = [node.output[0] for node in quantised.graph.node if node.op_type == "DequantizeLinear"]
    readers = [[node.op_type for node in quantised.graph.node if pair in node.input] for pair in pairs]
    assert readers == [["MatMul"]] * len(pairs)
    assert len(pairs) == 2 * len(linears(full))
    onnx.save(quantised, tmp_path / "int8.onnx")
    runners = EagerBackend(segmenter), onnx_runner(tmp_path / "int8.onnx", 1)
    report = compare(*runners, frames[3:], LIMITS["int8"])
    assert report.passed, report.failures


def test_int8_for_cpus_has_its_scores_in_integers_unless_that_costs_too_much(
    segmenter: Segmenter, model: Path, frames: Frames, tmp_path: Path
) -> None:
    full = onnx.load(model)
    scores = [attention.scores.name for attention in attentions(full)]

    def in_integers(proto: onnx.ModelProto) -> list[str]:
        made = {output: node.op_type for node in proto.graph.node for output in node.output}
        return [n.name for n in proto.graph.node if {made.get(x) for x in n.input} == {"DequantizeLinear"}]

    quantised = quantise(full, frames[:3], CPU, goal=0)
    assert quantised.float_nodes == []
    assert set(scores) < set(in_integers(quantised.model))
    onnx.save(quantised.model, tmp_path / "int8.onnx")
    runners = EagerBackend(segmenter), onnx_runner(tmp_path / "int8.onnx", 1)
    report = compare(*runners, frames[3:], LIMITS["int8"])
    assert report.passed, report.failures

    lines: list[str] = []
    given_up = quantise(full, frames[:3], CPU, goal=1.1, progress=lines.append)
    assert given_up.float_nodes[: len(scores)] == scores
    assert not set(given_up.float_nodes) & set(in_integers(given_up.model))
    first, *others = [line for line in lines if "in float" in line]
    assert first.startswith("0 of")
    assert others[0].startswith(f"{len(scores)} of")
    assert others[1].startswith(f"{len(scores) + 1} of")


def test_half_precision_needs_a_network() -> None:
    graph = build_graph()
    del graph.graph.node[4:6]  # its one convolution and what follows
    graph.graph.node[4].input[0] = "cells"
    with pytest.raises(UserError, match="fp32"):
        to_half(graph)


def test_half_precision_of_nodes_without_names() -> None:
    graph = build_graph()
    assert not any(node.name for node in graph.graph.node)
    ops = [node.op_type for node in to_half(graph).graph.node if node.op_type in ("Cast", "Conv")]
    assert ops == ["Cast", "Cast", "Conv", "Cast", "Cast"]


def test_bisection_finds_nothing_in_a_faithful_graph(
    segmenter: Segmenter, model: Path, frames: Frames
) -> None:
    found = first_divergence(segmenter, model, frames[0][1], 1e-3)
    assert found.layer is None
    assert next(iter(found.errors)) == "backbone.vit.blocks.0.norm1"
    assert list(found.errors)[-1] == "scores"


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("backbone.vit.blocks.0.mlp.fc1/", "backbone.vit.blocks.1.norm1"),
        ("backbone.vit.blocks.1.attn.query/", "backbone.vit.blocks.1.norm2"),
        ("classifier.head.linear/", "scores"),
    ],
)
def test_bisection_names_the_first_layer_after_the_fault(
    segmenter: Segmenter, model: Path, frames: Frames, broken: str, expected: str, tmp_path: Path
) -> None:
    proto = onnx.load(model)
    node = next(n for n in proto.graph.node if n.name.startswith(broken) and n.op_type == "MatMul")
    weight = next(t for t in proto.graph.initializer if t.name == node.input[1])
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(-3 * values[::-1].copy(), weight.name))
    onnx.save(proto, tmp_path / "broken.onnx")
    found = first_divergence(segmenter, tmp_path / "broken.onnx", frames[0][1], 1e-3)
    assert found.layer == expected
