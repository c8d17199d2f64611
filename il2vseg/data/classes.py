"""The classes of each data set: names, colours, and what the values of its masks mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from il2vseg.errors import UserError
from il2vseg.images import Labels

IGNORE = 255
"""The class id of pixels that no metric counts."""

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Classes:
    """The classes that a data set is scored on.

    Attributes:
        names: class names; a class id is an index into them.
        palette: one RGB colour a class.
        values: mask value -> class id, or IGNORE; None when mask values are the class ids already.
    """

    names: tuple[str, ...] = ()
    palette: tuple[Color, ...] = ()
    values: Mapping[int, int] | None = field(default=None, repr=False)

    @cached_property
    def _table(self) -> NDArray[np.int16]:
        values = self.values if self.values is not None else {i: i for i in range(len(self.names))}
        table = np.full(256, -1, np.int16)
        table[IGNORE] = IGNORE
        for value, class_id in values.items():
            table[value] = class_id
        return table

    def decode(self, mask: Labels, source: str) -> Labels:
        """Turn mask values (H, W) into class ids, IGNORE where a pixel counts for nothing.

        Raises:
            UserError: the mask holds a value that this data set does not define; `source` names the mask.
        """
        ids = self._table[mask]
        if ids.min() < 0:
            raise UserError(
                f"{source}: mask value {int(mask[ids < 0][0])} is no class of this data set "
                f"(classes: {', '.join(self.names)}); check --dataset and --root"
            )
        return ids.astype(np.uint8)


MARINE = Classes(
    names=("obstacle", "water", "sky"),
    palette=((247, 195, 37), (41, 167, 224), (90, 75, 164)),
    values={0: 0, 1: 1, 2: 2, 4: IGNORE},
)

WATER = Classes(names=("not water", "water"), palette=((247, 195, 37), (41, 167, 224)))

CAMVID = Classes(
    names=(
        "sky", "building", "pole", "road", "pavement", "tree",
        "sign", "fence", "car", "pedestrian", "bicyclist",
    ),
    palette=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
    values={**{i: i for i in range(11)}, 11: IGNORE},
)  # fmt: skip
