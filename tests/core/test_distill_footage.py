"""Footage on its way to a student: how often it is read."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from il2vseg.base.images import decode_frame, encode_jpeg
from il2vseg.data.dataset import Sample
from il2vseg.distill import DistillConfig, Taught, frames_and_targets, learn
from il2vseg.learning.distiller import Distiller, DistillRecipe
from il2vseg.learning.restyle import Restyling
from il2vseg.learning.targets import Targets, compute_targets
from tests.core.test_distiller import ColourTeacher, two_halves


def test_the_footage_is_read_once_unless_the_targets_on_disk_are_of_others(tmp_path: Path) -> None:
    passes = []

    class Footage(list[Sample]):
        def __iter__(self) -> Iterator[Sample]:
            passes.append(len(self))
            return super().__iter__()

    footage = Footage(Sample(str(edge), two_halves(edge)) for edge in (40, 56, 88))
    small, path = (48, 96), tmp_path / "targets.npz"

    def prepare(**settings: object) -> Taught:
        passes.clear()
        return frames_and_targets(
            footage,  # type: ignore[arg-type]
            None,
            small,
            path,
            settings,
            lambda frames: compute_targets([ColourTeacher()], frames, small),
        )

    first = prepare(flip=False)
    frames, targets = first.frames, first.targets
    assert (passes, len(frames), first.own) == ([3], 3, 3)
    expected = compute_targets([ColourTeacher()], [sample.frame for sample in footage], small)
    np.testing.assert_array_equal(targets.scores, expected.scores)
    assert [decode_frame(f).shape for f in frames] == [(*small, 3)] * 3
    again = prepare(flip=False)
    assert (passes, again.frames) == ([3], frames)
    np.testing.assert_array_equal(again.targets.scores, expected.scores)
    assert prepare(flip=True).frames == frames
    assert passes == [3, 3]


def test_footage_from_elsewhere_teaches_features_and_no_class(tmp_path: Path) -> None:
    own = [Sample(str(edge), two_halves(edge)) for edge in (40, 56, 88)]
    others = [Sample(str(edge), two_halves(edge)[::-1].copy()) for edge in (30, 60)]
    small, path = (48, 96), tmp_path / "targets.npz"

    def prepare() -> Taught:
        return frames_and_targets(
            own,  # type: ignore[arg-type]
            others,  # type: ignore[arg-type]
            small,
            path,
            {},
            lambda frames: compute_targets([ColourTeacher()], frames, small),
        )

    for taught in (prepare(), prepare()):  # computed, and from the disk
        assert (len(taught.frames), taught.own) == (5, 3)
        assert taught.targets.scores[:3].any((1, 2, 3)).all()
        assert not taught.targets.scores[3:].any()
    chosen = taught.of([0, 2, 4])
    assert (chosen.frames, chosen.own) == ([taught.frames[i] for i in (0, 2, 4)], 2)
    assert chosen.targets.scores.shape[0] == 3


def test_what_is_new_is_measured_against_the_own_footage_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [encode_jpeg(two_halves(edge), 95) for edge in (40, 56, 88)]
    scores = np.full((3, 2, 16, 24), 127, np.uint8)
    targets = Targets(scores, np.ones((3, 4, 4, 6), np.float16), ("left", "right"))
    seen: list[object] = []

    def note(student: object, frames: object) -> object:
        seen.append(frames)
        return student

    monkeypatch.setattr("il2vseg.learning.distiller.add_novelty", note)
    recipes: list[DistillRecipe] = []
    run = Distiller.run

    def remember(self: Distiller, *arguments: object) -> object:
        recipes.append(self.recipe)
        return run(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Distiller, "run", remember)
    config = DistillConfig(teacher=tmp_path, steps=1, batch=2, workers=0, restyle=0.25)
    for own in (2, 3):
        learn(config, Taught(frames, targets, own), (64, 96), "", lambda _: None)
    assert seen == [frames[:2], frames]
    # Features are all that frames from elsewhere teach.
    assert [r.feature_weight for r in recipes] == [1.5, 0.5]
    assert recipes[0].restyling == Restyling(0.25, 0.25, 0.25)
