"""Checkpoints: what is written is what is read, and anything else is refused in one clear line."""

import dataclasses
from pathlib import Path

import pytest
import torch

from il2vseg.base.errors import UserError
from il2vseg.models.backbones import build_backbone
from il2vseg.models.checkpoint import (
    FILE_NAME,
    assemble,
    load_checkpoint,
    read_spec,
    save_checkpoint,
    save_tensors,
)
from il2vseg.models.lowlevel import pool_colours
from il2vseg.models.segmenter import Classifier, Segmenter, low_level_scores
from il2vseg.models.spec import LowLevelSpec, ModelSpec
from il2vseg.models.whitening import Whitening

SPEC = ModelSpec(
    method="il2vseg",
    backbone="tiny",
    weights_sha256="random",
    size=(48, 64),
    class_names=("water", "obstacle", "sky"),
    alpha=0.3,
    temperature=0.1,
    centre=True,
    low_level=LowLevelSpec(iterations=2),
    training_data="nothing",
    selection={"components": 5},
)


def segmenter() -> Segmenter:
    backbone = build_backbone("tiny", SPEC.size, None)
    torch.manual_seed(0)
    classifier = Classifier(Whitening(backbone.dim, 5, SPEC.centre), 3)
    classifier.whitening.basis.normal_()
    classifier.set_prototypes(torch.randn(3, 64))
    return assemble(backbone, classifier, SPEC)


def test_a_checkpoint_predicts_what_the_model_predicted(tmp_path: Path) -> None:
    model = segmenter()
    save_checkpoint(tmp_path, model.classifier, SPEC)
    loaded = load_checkpoint(tmp_path)
    frames = torch.randint(256, (2, 48, 64, 3), dtype=torch.uint8)
    labels, scores = model.predict(frames)
    labels_again, scores_again = loaded.predict(frames)
    assert torch.equal(labels, labels_again)
    assert torch.equal(scores, scores_again)
    assert read_spec(tmp_path) == SPEC
    assert loaded.class_names == ["water", "obstacle", "sky"]


@pytest.mark.parametrize("dim", [None, 64])
def test_embeddings_keep_all_whitened_dimensions_and_those_of_older_checkpoints_64(
    tmp_path: Path, dim: int | None
) -> None:
    torch.manual_seed(0)
    whitening = Whitening(192, 70, SPEC.centre)
    whitening.basis.normal_()
    classifier = Classifier(whitening, 3, dim=dim)
    classifier.set_prototypes(torch.randn(3, dim or 70))
    save_checkpoint(tmp_path, classifier, SPEC)
    z = torch.randn(2, 70)
    assert torch.equal(classifier.head(z), z[:, :64] if dim else z)
    loaded = load_checkpoint(tmp_path)
    assert isinstance(loaded, Segmenter)
    assert torch.equal(loaded.classifier.head(z), classifier.head(z))
    assert torch.equal(loaded.classifier.global_prototypes, classifier.global_prototypes)


def test_checkpoints_with_the_former_setting_of_windows_load_unless_they_need_it(tmp_path: Path) -> None:
    tensors = dict(segmenter().classifier.state_dict())
    for window in (0, 3):
        description = dataclasses.asdict(SPEC)
        description["low_level"]["window"] = window
        save_tensors(tmp_path / FILE_NAME, tensors, description)
        if window == 0:
            assert load_checkpoint(tmp_path).spec == SPEC
        else:
            with pytest.raises(UserError, match="train the model again"):
                load_checkpoint(tmp_path)


def test_another_size_can_be_asked_for(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, segmenter().classifier, SPEC)
    loaded = load_checkpoint(tmp_path, size=(64, 96))
    assert loaded.predict(torch.zeros(1, 64, 96, 3, dtype=torch.uint8))[0].shape == (1, 64, 96)
    with pytest.raises(UserError, match="patch size 16"):
        load_checkpoint(tmp_path, size=(50, 64))


@pytest.mark.parametrize("keep", [0, 6, 500, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = save_checkpoint(tmp_path, segmenter().classifier, SPEC)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="not a complete safetensors file"):
        load_checkpoint(tmp_path)


def test_a_changed_tensor_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, segmenter().classifier, SPEC)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="does not match its hash"):
        load_checkpoint(tmp_path)


def test_no_checkpoint_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"il2vseg train"):
        load_checkpoint(tmp_path)


def test_other_weights_than_those_of_training_are_refused(tmp_path: Path) -> None:
    import dataclasses

    save_checkpoint(tmp_path, segmenter().classifier, dataclasses.replace(SPEC, weights_sha256="0" * 64))
    with pytest.raises(UserError, match="not the weights"):
        load_checkpoint(tmp_path)


def test_scores_are_fused_with_the_weight_of_the_spec() -> None:
    model, images = segmenter(), torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        fused = model(images)
        model.alpha = 0.0
        p_seg = model(images)
        f_l = low_level_scores(pool_colours(images, model.grid), p_seg, SPEC.low_level)
    assert float((p_seg - f_l).abs().max()) > 0.05
    torch.testing.assert_close(fused, 0.7 * p_seg + 0.3 * f_l)


def test_scores_are_distributions_for_any_alpha() -> None:
    model = segmenter()
    for alpha in (0.0, 0.5, 1.0):
        model.alpha = alpha
        scores = model.predict(torch.randint(256, (1, 48, 64, 3), dtype=torch.uint8))[1]
        torch.testing.assert_close(scores.sum(1), torch.ones(1, 3, 4), atol=1e-4, rtol=0)


def test_file_is_named_as_documented(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, segmenter().classifier, SPEC)
    assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]
