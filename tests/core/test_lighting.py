"""Whether all images are evened in exposure, or dark ones alone: the criterion and the choice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from il2vseg.base.images import read_frame, write_image
from il2vseg.data import dataset, open_dataset
from il2vseg.data.synthetic import render
from il2vseg.learning import lighting
from il2vseg.learning import preparation as prepare
from il2vseg.learning.features import FeatureCache, build_feature_store
from il2vseg.learning.lighting import Lighting, agreement_times_contrast, border_contrast, choose_lighting
from il2vseg.learning.monitor import Silence
from il2vseg.learning.processes import Processes
from il2vseg.models.backbones import build_backbone
from il2vseg.train import TrainConfig


def test_contrast_is_that_of_neighbours_across_borders() -> None:
    labels = torch.tensor([[[0, 0, 1], [0, 0, 1]]])
    colours = torch.zeros(1, 3, 2, 3)
    colours[0, 0] = torch.tensor([[0.0, 0.1, 0.9], [0.0, 0.1, 0.9]])
    # Across: 0.8 twice. Inside: 0.1 twice, and three vertical neighbours that are alike.
    assert border_contrast(labels, colours) == pytest.approx(0.8 / (0.2 / 5))
    assert border_contrast(torch.zeros(1, 2, 3), colours) == 0.0
    assert border_contrast(labels.transpose(1, 2), colours.transpose(2, 3)) == pytest.approx(20.0)


class Halves:
    """Images whose left half is unlike the right one, in tokens; in colours only as far as `contrast`."""

    grid = (4, 6)

    def __init__(self, contrast: float) -> None:
        generator = torch.Generator().manual_seed(4)
        right = (torch.arange(24) % 6 >= 3).float()
        self._tokens = torch.randn(5, 24, 8, generator=generator) * 0.2
        self._tokens[:, :, 0] += 2.0 * right - 1.0
        noise = 0.05 * torch.rand(5, 3, 4, 6, generator=generator)
        self._colours = noise + contrast * right.view(4, 6)

    def __len__(self) -> int:
        return 5

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        return self._tokens[images]

    view_tokens = tokens

    def colours(self, images: torch.Tensor, scale: int) -> torch.Tensor:
        assert scale == 1
        return self._colours[images]


def test_what_cuts_along_colours_is_taken() -> None:
    strong, weak = Halves(0.8), Halves(0.0)
    assert agreement_times_contrast(strong, 2, 2, False) > 2 * agreement_times_contrast(weak, 2, 2, False)
    chosen = choose_lighting(lambda dark_only: strong if dark_only else weak, 2, 2, False)
    assert chosen.dark_only
    assert chosen.dark > chosen.everything
    assert "dark images alone" in chosen.summary()
    assert not choose_lighting(lambda dark_only: weak if dark_only else strong, 2, 2, False).dark_only


def test_all_clusterings_count_not_the_best_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cut, one = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    store = Halves(0.8)
    found = {"both": [cut, one], "cut": [cut, cut]}
    agreement = {"both": [0.9, 0.5], "cut": [0.9, 0.9]}
    values = {}
    for which in found:
        monkeypatch.setattr(lighting, "agreeing_clusterings", lambda *a, w=which: (found[w], agreement[w]))
        values[which] = agreement_times_contrast(store, 2, 2, False)
    # The second of `both` has no borders: half the contrast, and 0.7 of agreement for 0.9.
    assert values["both"] == pytest.approx(values["cut"] * 0.5 * 0.7 / 0.9)


@pytest.mark.parametrize(("everything", "dark_only"), [(1.0, True), (1.015, True), (1.025, False)])
def test_bright_images_are_left_alone_unless_evening_them_is_clearly_better(
    everything: float, dark_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, given = [], iter([everything, 1.0])
    monkeypatch.setattr(lighting, "agreement_times_contrast", lambda *a: seen.append(a[1:]) or next(given))
    asked = []
    chosen = choose_lighting(lambda dark_only: asked.append(dark_only) or Halves(0.5), 7, 5, True)
    assert (chosen.dark_only, asked) == (dark_only, [False, True])
    assert seen == [(7, 5, True)] * 2


def test_both_forms_are_described_in_one_pass_over_the_footage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, every = (32, 48), torch.arange(5)
    for i in range(5):
        write_image(tmp_path / "river" / f"{i}.png", render(i, 7 * i, size)[0] // (1 + 5 * (i % 2)))
    stores, read = {}, []

    def look(store: Callable[[bool], Any], *words: object) -> Lighting:
        stores.update({dark_only: store(dark_only) for dark_only in (False, True)})
        return Lighting(True, 1.0, 1.0)

    monkeypatch.setattr(prepare, "choose_lighting", look)
    monkeypatch.setattr(dataset, "read_frame", lambda path: (read.append(path.stem), read_frame(path))[1])
    config = TrainConfig(dataset="folder", root=tmp_path / "river", backbone="tiny", cache=tmp_path / "cache")
    backbone = build_backbone("tiny", size, None)
    assert prepare.choose_exposure(config, backbone, "0" * 12, Processes(), Silence()).dark_only
    assert read == ["0", "1", "2", "3", "4"]
    assert not torch.equal(stores[False].tokens(every), stores[True].tokens(every))
    for dark_only, store in stores.items():
        alone = FeatureCache(
            build_backbone("tiny", size, None, True, dark_only), "0" * 12, tmp_path / "alone"
        )
        expected = build_feature_store(open_dataset("folder", config.root, "train"), alone, views=False)
        assert torch.equal(store.tokens(every), expected.tokens(every))
        assert torch.equal(store.colours(every, 2), expected.colours(every, 2))
