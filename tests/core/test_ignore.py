"""What belongs to the own vessel: read from a picture or corners, learnt from and scored by nobody."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from il2vseg.base.errors import UserError
from il2vseg.base.ignore import IgnoreMask
from il2vseg.base.images import write_image
from il2vseg.data import open_dataset
from il2vseg.evaluate import false_alarms
from il2vseg.learning.features import CachedFeatures, nearest_kept
from il2vseg.learning.targets import Targets
from il2vseg.train import main as train

DECK = "0.25,1 0.25,0.75 0.75,0.75 0.75,1"
"""The middle half of the lowest quarter."""


def deck(shape: tuple[int, int]) -> np.ndarray:
    height, width = shape
    mask = np.zeros(shape, np.bool_)
    mask[3 * height // 4 :, width // 4 : 3 * width // 4] = True
    return mask


# --- reading it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(360, 640), (48, 64), (720, 1280), (91, 77)])
def test_corners_are_shares_of_any_frame(size: tuple[int, int]) -> None:
    own = IgnoreMask.parse(DECK).pixels(size)
    assert own.shape == size
    assert (own == deck(size)).mean() > 0.97
    assert not own[: size[0] // 2].any()


def test_several_polygons() -> None:
    own = IgnoreMask.parse("0,1 0,0.5 0.2,1 ; 1,1 1,0.5 0.8,1").pixels((100, 200))
    assert own[99, 0]
    assert own[99, 199]
    assert not own[:, 60:140].any()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_white_of_a_picture_is_left_out(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deck{suffix}"
    write_image(path, (255 * deck((120, 160))).astype(np.uint8))
    mask = IgnoreMask.parse(str(path))
    assert (mask.pixels((240, 320)) == deck((240, 320))).mean() > 0.99
    assert (mask.pixels((120, 160, 3)) == deck((120, 160))).mean() > 0.99


def test_what_is_transparent_is_not_left_out(tmp_path: Path) -> None:
    layer = np.full((120, 160, 4), 255, np.uint8)  # white everywhere, as programs store below nothing
    layer[~deck((120, 160)), 3] = 0
    write_image(tmp_path / "layer.png", layer)
    found = IgnoreMask.parse(str(tmp_path / "layer.png")).pixels((120, 160))
    np.testing.assert_array_equal(found, deck((120, 160)))


def test_a_picture_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "deck.png", (255 * deck((120, 160))).astype(np.uint8))
    with pytest.raises(UserError, match="has 160x120 pixels, a frame 640x360"):
        IgnoreMask.parse(str(tmp_path / "deck.png")).pixels((360, 640))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("deck.png", "no such picture"),
        ("0,0 1,1", "three or more corners"),
        ("0,0 1,1 x,1", "three or more corners"),
        ("0,0,0 1,1 1,0", "three or more corners"),
        ("100,200 300,200 300,400", "between 0 and 1"),
        ("nan,0 1,1 1,0", "between 0 and 1"),
        ("", "leaves nothing out"),
        (" ; ", "leaves nothing out"),
        ("0,0 0,1 1,1 1,0", "leaves the whole frame out"),
    ],
)
def test_what_is_no_mask_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"--ignore-mask .*{reason}"):
        IgnoreMask.parse(text)


@pytest.mark.parametrize("value", [0, 255])
def test_a_picture_that_leaves_out_nothing_or_everything_is_refused(tmp_path: Path, value: int) -> None:
    write_image(tmp_path / "deck.png", np.full((12, 16), value, np.uint8))
    with pytest.raises(UserError, match="leaves"):
        IgnoreMask.parse(str(tmp_path / "deck.png"))


# --- learning -------------------------------------------------------------------------------------------


@given(arrays(np.bool_, st.tuples(st.integers(1, 6), st.integers(1, 6))).filter(lambda m: not m.all()))
def test_the_nearest_kept_token_stands_in(ignored: np.ndarray) -> None:
    kept = np.argwhere(~ignored)
    for index, stand_in in np.ndenumerate(nearest_kept(ignored)):
        found = np.array(divmod(int(stand_in), ignored.shape[1]))
        assert not ignored[tuple(found)]
        assert ((found - index) ** 2).sum() == ((kept - index) ** 2).sum(1).min()


def test_nothing_is_learnt_from_the_own_deck(tmp_path: Path) -> None:
    grid, own = (4, 6), IgnoreMask.parse(DECK).cells((4, 6))
    assert own.sum() in (2, 3, 4)
    tokens = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float16)
    tokens[own.ravel()] = 1000
    for name in ("a.npy", "view.npy"):
        np.save(tmp_path / name, tokens)
    colours = np.full((1, 8, 12, 3), 7, np.uint8)
    colours[0, np.repeat(np.repeat(own, 2, 0), 2, 1)] = 200
    colours[0, 0, 1] = 99
    paths = ([tmp_path / "a.npy"], [tmp_path / "view.npy"])
    store = CachedFeatures(grid, *paths, colours, own)
    one = torch.tensor([0])
    for found in (store.tokens(one), store.view_tokens(one)):
        assert found.abs().max() < 100
        np.testing.assert_array_equal(found[0][~own.ravel()], tokens[~own.ravel()].astype(np.float32))
    seen = store.colours(one, 2)[0].permute(1, 2, 0) * 255
    assert seen.max() == 99
    assert seen[0, 1, 0] == 99  # what is kept stays where it is
    plain = CachedFeatures(grid, *paths, colours)
    assert plain.tokens(one).max() == 1000


def test_a_student_is_taught_nothing_about_the_own_deck() -> None:
    targets = Targets(
        np.full((2, 3, 8, 8), 85, np.uint8), np.zeros((0, 0, 1, 1), np.float16), ("a", "b", "c")
    )
    taught = targets.without(IgnoreMask.parse(DECK)).scores
    assert (taught[:, :, deck((8, 8))] == 0).all()
    assert (taught[:, :, ~deck((8, 8))] == 85).all()
    assert targets.scores.min() == 85


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--ignore-mask", "none.png"], "no such picture"),
        (["--ignore-mask", DECK, "--crop", "five"], "leave --crop"),
    ],
)
def test_training_refuses_what_cannot_be_before_it_begins(
    tmp_path: Path, flags: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(["--out", str(tmp_path / "run"), *flags]) == 2
    assert reason in capsys.readouterr().err


# --- scoring --------------------------------------------------------------------------------------------


def test_masks_do_not_count_on_the_own_deck(tmp_path: Path) -> None:
    for folder, value in (("images", 90), ("masks", 1)):
        suffix = "m.png" if folder == "masks" else ".png"
        write_image(tmp_path / f"val/{folder}/a{suffix}", np.full((40, 60), value, np.uint8))
    for crop in ("none", "five"):
        data = open_dataset(
            "mastr1325", tmp_path, "val", labelled=True, crop=crop, ignore=IgnoreMask.parse(DECK)
        )
        labels = [sample.labels for sample in data]
        assert all(found is not None for found in labels)
        assert any((found == 255).any() for found in labels)
        assert all((found == 1).any() for found in labels)
    (whole,) = open_dataset("mastr1325", tmp_path, "val", labelled=True, ignore=IgnoreMask.parse(DECK))
    assert ((whole.labels == 255) == deck((40, 60))).mean() > 0.97


class DeckSeer:
    """Sees an obstacle on the own deck, and one in the water beside it."""

    size, grid, num_classes, alpha = (360, 640), (9, 16), 2, 0.0
    class_names = ("obstacle", "water")

    def predict(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.ones(len(frames), *self.size, dtype=torch.uint8)
        labels[:, 300:320, 300:340] = 0
        labels[:, 200:220, 100:140] = 0
        return labels, torch.zeros(len(frames), 2, 9, 16)


def test_an_obstacle_on_the_own_deck_is_no_false_alarm(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((360, 640, 3), np.uint8))
    data = open_dataset("folder", tmp_path, "all")
    assert false_alarms(DeckSeer(), data).counts.all.false == 2  # type: ignore[arg-type]
    own = IgnoreMask.parse(DECK)
    assert false_alarms(DeckSeer(), data, own).counts.all.false == 1  # type: ignore[arg-type]
