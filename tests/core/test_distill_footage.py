"""Footage on its way to a student: how often it is read."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from il2vseg.base.images import decode_frame
from il2vseg.data.dataset import Sample
from il2vseg.distill import frames_and_targets
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

    def prepare(**settings: object) -> tuple[list[bytes], Targets]:
        passes.clear()
        return frames_and_targets(
            footage,  # type: ignore[arg-type]
            small,
            path,
            settings,
            lambda frames: compute_targets([ColourTeacher()], frames, small),
        )

    frames, targets = prepare(flip=False)
    assert (passes, len(frames)) == ([3], 3)
    expected = compute_targets([ColourTeacher()], [sample.frame for sample in footage], small)
    np.testing.assert_array_equal(targets.scores, expected.scores)
    assert [decode_frame(f).shape for f in frames] == [(*small, 3)] * 3
    again, held = prepare(flip=False)
    assert (passes, again) == ([3], frames)
    np.testing.assert_array_equal(held.scores, expected.scores)
    assert prepare(flip=True)[0] == frames
    assert passes == [3, 3]
