"""What a student is told of a batch: the teacher's scores, what was pasted, and what counts."""

import dataclasses

import numpy as np
import pytest
import torch

from il2vseg.learning.distiller import DistillRecipe
from il2vseg.losses.distillation import feature_loss
from tests.core.test_distiller import distiller


def test_settings_of_a_distillation() -> None:
    values = {k: v for k, v in vars(DistillRecipe()).items() if k not in ("augmentation", "pasting")}
    assert values == {
        "steps": 3000, "batch": 8, "crop": (192, 320), "seed": 0, "lr": 2e-3, "weight_decay": 0.02,
        "warmup": 0.05, "ema": 0.998, "balance": 0.5, "edge_weight": 1.0, "feature_weight": 0.5,
    }  # fmt: skip


def test_what_was_pasted_is_an_obstacle_and_has_no_tokens() -> None:
    d = distiller(steps=20)
    batch = d.batches(0)
    plain = d.prepare(batch)
    solid = np.zeros_like(batch.solid)
    solid[0, : solid.shape[1] // 2] = 255
    d.obstacle = 1
    pasted = d.prepare(dataclasses.replace(batch, solid=solid))
    upper = torch.from_numpy(solid == 255)
    assert (pasted.target[:, 1][upper] == 1).all()
    assert (pasted.target[:, 0][upper] == 0).all()
    lower = (~upper)[:, None].expand_as(plain.target)
    torch.testing.assert_close(pasted.target[lower], plain.target[lower])
    assert pasted.kept is not None
    assert plain.kept is not None
    assert (plain.kept == 1).all()
    assert (pasted.kept[0, : pasted.kept.shape[1] // 2] == 0).all()
    assert (pasted.kept[0, -1] == 1).all()
    assert (pasted.kept[1] == 1).all()


def test_beyond_the_frame_is_its_mirror_image() -> None:
    d = distiller(steps=20)
    wide = torch.tensor([[[1.5, 0.0, 0.0], [0.0, 1.5, 0.0]]])  # half as wide again as the frame
    ones = d._warp(torch.ones(1, 2, 12, 24), wide, 8)
    assert ones.shape == (1, 2, 12, 16)
    torch.testing.assert_close(ones, torch.ones_like(ones))


def test_feature_loss_sees_direction_only() -> None:
    tokens = torch.randn(1, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    assert float(feature_loss(3.0 * tokens, tokens)) == pytest.approx(0.0, abs=1e-5)
    assert float(feature_loss(-tokens, tokens)) == pytest.approx(2.0, abs=1e-5)
