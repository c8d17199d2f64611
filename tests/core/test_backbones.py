from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from safetensors.torch import save_file

from il2vseg.base.errors import UserError
from il2vseg.models.backbones import BACKBONES, backbone_spec, build_backbone, check_size
from il2vseg.models.weights import convert_moco, resolve_weights


@pytest.mark.parametrize("name", [n for n, spec in BACKBONES.items() if spec.dim <= 384])
def test_row_of_the_table_describes_the_model(name: str, tmp_path: Path) -> None:
    import timm

    spec = BACKBONES[name]
    weights = None
    if not spec.random:
        weights = tmp_path / "weights.safetensors"
        save_file(timm.create_model(spec.timm_name, num_classes=0).state_dict(), weights)
    backbone = build_backbone(name, (2 * spec.patch, 3 * spec.patch), weights)
    tokens = backbone(torch.rand(2, 3, 2 * spec.patch, 3 * spec.patch))
    assert tokens.shape == (2, spec.dim, 2, 3)
    assert backbone.grid == (2, 3)
    assert torch.isfinite(tokens).all()


def test_every_row_is_known_to_timm() -> None:
    import timm

    for spec in BACKBONES.values():
        assert timm.is_model(spec.timm_name.partition(".")[0]), spec
        if not spec.random and not spec.moco:
            config = timm.get_pretrained_cfg(spec.timm_name, allow_unregistered=False)
            assert config is not None, spec
            assert config.has_weights, spec


def test_tokens_stand_where_their_patches_are() -> None:
    """A change inside one patch changes that token more than any other."""
    backbone = build_backbone("tiny", (48, 64), None)
    image = torch.rand(1, 3, 48, 64)
    for row, column in ((0, 0), (1, 3), (2, 1)):
        changed = image.clone()
        changed[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] += 0.2
        difference = (backbone(changed) - backbone(image)).norm(dim=1)[0]
        assert divmod(int(difference.argmax()), 4) == (row, column)


def test_backbone_is_frozen_and_stays_in_evaluation_mode() -> None:
    backbone = build_backbone("tiny", (32, 32), None).train()
    assert not backbone.training
    assert not backbone.vit.training
    assert not any(p.requires_grad for p in backbone.parameters())


def test_tiny_is_the_same_each_time_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = build_backbone("tiny", (32, 32), None)
    assert torch.equal(torch.rand(3), expected)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(first(images), build_backbone("tiny", (32, 32), None, seed=3)(images))


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([8, 14, 16]))
def test_sizes_proposed_for_a_wrong_one_are_right(height: int, width: int, patch: int) -> None:
    if height % patch == 0 and width % patch == 0:
        check_size((height, width), patch)
        return
    with pytest.raises(UserError, match="multiple of the patch size") as caught:
        check_size((height, width), patch)
    for proposal in str(caught.value).split("--size ")[1:]:
        proposed = [int(v) for v in proposal.split()[:2]]
        check_size((proposed[0], proposed[1]), patch)
        assert max(abs(proposed[0] - height), abs(proposed[1] - width)) < patch


def test_size_of_broken_patches_names_both_neighbours() -> None:
    with pytest.raises(UserError, match=r"use --size 336 448 or --size 350 462"):
        build_backbone("dinov2_vits14", (340, 450), None)


def test_unknown_backbone_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown backbone 'vits14'; known: dino_vits8, .*tiny"):
        build_backbone("vits14", (14, 14), None)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    import timm

    file = tmp_path / "other.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1).state_dict(), file)
    with pytest.raises(UserError, match=r"other\.safetensors: weights of another architecture"):
        build_backbone("dino_vits8", (16, 16), file)


@pytest.mark.parametrize("content", [b"", b"not tensors at all", b"\x80\x02}q\x00."])
def test_weights_that_are_no_safetensors_are_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError, match="not a readable safetensors file"):
        build_backbone("dino_vits8", (16, 16), file)


@settings(max_examples=5)
@given(st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_any_grid_works(grid: tuple[int, int]) -> None:
    size = (16 * grid[0], 16 * grid[1])
    assert build_backbone("tiny", size, None)(torch.zeros(1, 3, *size)).shape == (1, 192, *grid)


def moco_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Write a file like MoCo v2's, random; return the encoder in it."""
    import timm

    encoder = timm.create_model("resnet50", num_classes=0).state_dict()
    state = {f"module.encoder_q.{k}": v for k, v in encoder.items()}
    state |= {"module.encoder_q.fc.0.weight": torch.zeros(8, 2048), "module.queue": torch.zeros(128, 16)}
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": state}, path)
    return dict(encoder)


def test_a_moco_checkpoint_is_converted_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))
    encoder = moco_checkpoint(tmp_path / "moco.pth.tar")
    with pytest.raises(UserError, match=r"moco_v2_800ep_pretrain\.pth\.tar.*--weights FILE"):
        resolve_weights("resnet50_mocov2")
    found = resolve_weights("resnet50_mocov2", tmp_path / "moco.pth.tar")
    assert (
        found == resolve_weights("resnet50_mocov2") == tmp_path / "cache/weights/resnet50_mocov2.safetensors"
    )
    backbone = build_backbone("resnet50_mocov2", (64, 96), found)
    assert torch.equal(backbone.vit.conv1.weight, encoder["conv1.weight"])  # type: ignore[union-attr]
    images = torch.rand(1, 3, 64, 96)
    assert backbone(images).shape == (1, 2048, 2, 3)
    finer = build_backbone("resnet50_mocov2_s16", (64, 96), found)
    assert finer(images).shape == (1, 2048, 4, 6)


def test_a_file_that_is_no_moco_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IL2VSEG_CACHE", str(tmp_path / "cache"))
    wrong = tmp_path / "wrong.pth"
    torch.save({"state_dict": {"module.encoder_q.conv1.weight": torch.zeros(3)}}, wrong)
    with pytest.raises(UserError, match=r"wrong\.pth: tensor bn1\.bias is missing"):
        resolve_weights("resnet50_mocov2", wrong)
    wrong.write_bytes(b"\x80\x02cos\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85q\x02Rq\x03.")
    with pytest.raises(UserError, match=r"wrong\.pth: not a checkpoint of MoCo v2"):
        resolve_weights("resnet50_mocov2", wrong)


def test_exports_to_onnx_without_a_resize(tmp_path: Path) -> None:
    """The positional embedding is resampled when the model is built, not on every frame."""
    import onnx
    import onnxruntime as ort

    backbone = build_backbone("tiny", (32, 48), None)
    images = torch.rand(1, 3, 32, 48)
    file = tmp_path / "tiny.onnx"
    torch.onnx.export(backbone, (images,), file, dynamo=True, verbose=False)
    assert "Resize" not in {node.op_type for node in onnx.load(file).graph.node}
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    (tokens,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert_allclose(np.asarray(tokens), backbone(images).numpy(), atol=1e-4)


@pytest.mark.slow
def test_a_segmenter_on_resnet_exports_with_parity(tmp_path: Path) -> None:
    from il2vseg.bench import whitening_of
    from il2vseg.export.graph import export_onnx
    from il2vseg.export.runners import onnx_runner
    from il2vseg.models.eager import EagerBackend
    from il2vseg.models.segmenter import Classifier, Segmenter
    from il2vseg.models.spec import LowLevelSpec, ModelSpec

    moco_checkpoint(tmp_path / "moco.pth.tar")
    spec = backbone_spec("resnet50_mocov2")
    save_file(convert_moco(tmp_path / "moco.pth.tar", spec), tmp_path / "moco.safetensors")
    backbone = build_backbone("resnet50_mocov2_s16", (64, 96), tmp_path / "moco.safetensors")
    classifier = Classifier(whitening_of(backbone.dim), 3)
    classifier.set_prototypes(torch.randn_like(classifier.global_prototypes))
    names = ("a", "b", "c")
    description = ModelSpec(
        "il2vseg", backbone.name, "", (64, 96), names, 0.3, 0.1, True, LowLevelSpec(), "none"
    )
    segmenter = Segmenter(backbone, classifier, description).eval()
    export_onnx(segmenter, tmp_path / "model.onnx")
    frame = np.random.default_rng(0).integers(0, 255, (1, 64, 96, 3), dtype=np.uint8)
    eager, exported = EagerBackend(segmenter)(frame), onnx_runner(tmp_path / "model.onnx", 1)(frame)
    assert_allclose(exported[1], eager[1], atol=1e-3)
    assert (exported[0] == eager[0]).mean() > 0.999
