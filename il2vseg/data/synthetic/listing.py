"""The renderer as a data set."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame, Labels
from il2vseg.data.dataset import Part, Sample
from il2vseg.data.synthetic.camera import range_at
from il2vseg.data.synthetic.drawing import render, render_obstacles

_STRIDE = 17


@dataclass(frozen=True)
class _Split:
    """Scenes from number `first` on, `per_scene` frames of each, `images` in all."""

    images: int
    first: int
    per_scene: int = 12
    render: Callable[[int, int], tuple[Frame, Labels]] = render


_SPLITS = {
    "train": _Split(240, 0),
    "val": _Split(48, 10_000),
    "obstacles": _Split(72, 20_000, 3, render_obstacles),
}


@dataclass(frozen=True)
class _ScenePart:
    """Frames of one scene, far enough apart to differ."""

    seed: int
    split: _Split
    labelled: bool

    @property
    def name(self) -> str:
        return f"scene_{self.seed:05d}"

    @property
    def count(self) -> int:
        return self.split.per_scene

    def read(self, wanted: Sequence[int]) -> Iterator[Sample]:
        for number in (index * _STRIDE for index in wanted):
            frame, labels = self.split.render(self.seed, number)
            yield Sample(
                f"{self.name}/{number:06d}",
                frame,
                labels if self.labelled else None,
                range_at=partial(range_at, self.seed, number, labels.shape),
            )


def parts(split: str, seed: int, *, labelled: bool) -> list[Part]:
    """List the parts of a split, a few frames of every scene; `seed` chooses other scenes.

    Raises:
        UserError: there is no such split.
    """
    if split not in _SPLITS:
        raise UserError(f"the synthetic data set has no split '{split}'; it has: {', '.join(_SPLITS)}")
    chosen = _SPLITS[split]
    first = chosen.first + 1000 * seed
    scenes = range(first, first + chosen.images // chosen.per_scene)
    return [_ScenePart(scene, chosen, labelled) for scene in scenes]
