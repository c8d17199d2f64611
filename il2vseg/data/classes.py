"""The classes of each data set: names, colours, and what the values of its masks mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from il2vseg.base.errors import UserError
from il2vseg.base.ignore import IGNORED
from il2vseg.base.images import Labels

IGNORE = IGNORED
"""The class id of pixels that no metric counts."""

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Classes:
    """The classes that a data set is scored on.

    Attributes:
        names: class names; a class id is an index into them.
        palette: one RGB colour per class.
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

CAMVID_7 = Classes(
    names=("sky", "building", "road", "pavement", "tree", "car", "obstacle"),
    palette=(
        (128, 128, 128), (128, 0, 0), (128, 64, 128), (60, 40, 222), (128, 128, 0), (64, 0, 128), (64, 64, 0),
    ),
    values={0: 0, 1: 1, 2: IGNORE, 3: 2, 4: 3, 5: 4, 6: IGNORE, 7: 1, 8: 5, 9: 6, 10: 6, 11: IGNORE},
)  # fmt: skip
"""CamVid for a vehicle: people and cyclists are obstacles, fences buildings; poles and signs are ignored."""

_CITYSCAPES: tuple[tuple[str, Color, bool], ...] = (
    # (name, colour, one of the 19 of the benchmark), in the order of labelIds from 7 on.
    ("road", (128, 64, 128), True),
    ("sidewalk", (244, 35, 232), True),
    ("parking", (250, 170, 160), False),
    ("rail track", (230, 150, 140), False),
    ("building", (70, 70, 70), True),
    ("wall", (102, 102, 156), True),
    ("fence", (190, 153, 153), True),
    ("guard rail", (180, 165, 180), False),
    ("bridge", (150, 100, 100), False),
    ("tunnel", (150, 120, 90), False),
    ("pole", (153, 153, 153), True),
    ("polegroup", (153, 153, 153), False),
    ("traffic light", (250, 170, 30), True),
    ("traffic sign", (220, 220, 0), True),
    ("vegetation", (107, 142, 35), True),
    ("terrain", (152, 251, 152), True),
    ("sky", (70, 130, 180), True),
    ("person", (220, 20, 60), True),
    ("rider", (255, 0, 0), True),
    ("car", (0, 0, 142), True),
    ("truck", (0, 0, 70), True),
    ("bus", (0, 60, 100), True),
    ("caravan", (0, 0, 90), False),
    ("trailer", (0, 0, 110), False),
    ("train", (0, 80, 100), True),
    ("motorcycle", (0, 0, 230), True),
    ("bicycle", (119, 11, 32), True),
)
_CITYSCAPES_FIRST = 7
"""The labelIds below are void: ego vehicle, out of roi, static, dynamic, ground, ..."""


def _cityscapes(benchmark_only: bool) -> Classes:
    kept = [i for i, (_, _, scored) in enumerate(_CITYSCAPES) if scored or not benchmark_only]
    values = dict.fromkeys(range(_CITYSCAPES_FIRST + len(_CITYSCAPES)), IGNORE)
    values |= {_CITYSCAPES_FIRST + i: class_id for class_id, i in enumerate(kept)}
    names = tuple(_CITYSCAPES[i][0] for i in kept)
    return Classes(names, tuple(_CITYSCAPES[i][1] for i in kept), values)


CITYSCAPES_27 = _cityscapes(benchmark_only=False)
"""All classes but void, as IIC, PiCIE and STEGO score."""

CITYSCAPES_19 = _cityscapes(benchmark_only=True)
"""The classes of the supervised benchmark; the others are ignored."""


# COCO-Stuff: the fine labels of every coarse class, in the order of the ids of IIC, PiCIE and STEGO.
# Things keep COCO's order of ids, so their mask values follow from the place in this table; stuff is in
# alphabetical order in the masks.
_COCO_THINGS: dict[str, str] = {
    "person": "person",
    "vehicle": "bicycle, car, motorcycle, airplane, bus, train, truck, boat",
    "outdoor": "traffic light, fire hydrant, street sign, stop sign, parking meter, bench",
    "animal": "bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe",
    "accessory": "hat, backpack, umbrella, shoe, eye glasses, handbag, tie, suitcase",
    "sports": "frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket",
    "kitchen": "bottle, plate, wine glass, cup, fork, knife, spoon, bowl",
    "food": "banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake",
    "furniture": "chair, couch, potted plant, bed, mirror, dining table, window, desk, toilet, door",
    "electronic": "tv, laptop, mouse, remote, keyboard, cell phone",
    "appliance": "microwave, oven, toaster, sink, refrigerator, blender",
    "indoor": "book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush",
}
_COCO_STUFF: dict[str, str] = {
    "ceiling": "ceiling-other, ceiling-tile",
    "floor": "carpet, floor-marble, floor-other, floor-stone, floor-tile, floor-wood",
    "food-stuff": "food-other, fruit, salad, vegetable",
    "furniture-stuff": "cabinet, counter, cupboard, desk-stuff, door-stuff, furniture-other, light, "
    "mirror-stuff, shelf, stairs, table",
    "raw material": "cardboard, metal, paper, plastic",
    "textile": "banner, blanket, cloth, clothes, curtain, mat, napkin, pillow, rug, textile-other, towel",
    "wall": "wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood",
    "window": "window-blind, window-other",
    "building": "bridge, building-other, house, roof, skyscraper, tent",
    "ground": "dirt, gravel, ground-other, mud, pavement, platform, playingfield, railroad, road, sand, snow",
    "plant": "branch, bush, flower, grass, leaves, moss, plant-other, straw, tree",
    "sky": "clouds, sky-other",
    "solid": "hill, mountain, rock, solid-other, stone, wood",
    "structural": "cage, fence, net, railing, structural-other",
    "water": "fog, river, sea, water-other, waterdrops",
}
_COCO_ORDER = (
    "electronic", "appliance", "food", "furniture", "indoor", "kitchen", "accessory", "animal", "outdoor",
    "person", "sports", "vehicle", *_COCO_STUFF,
)  # fmt: skip


def _spread_colors(count: int) -> tuple[Color, ...]:
    """Return colours that differ, going round the hues by the golden ratio at alternating lightness."""
    from colorsys import hls_to_rgb

    rgb = (hls_to_rgb(i * 0.618034 % 1, (0.42, 0.62, 0.52)[i % 3], 0.65) for i in range(count))
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in rgb)


def _cocostuff() -> Classes:
    things = [(fine, coarse) for coarse, all_fine in _COCO_THINGS.items() for fine in all_fine.split(", ")]
    stuff = [(fine, coarse) for coarse, all_fine in _COCO_STUFF.items() for fine in all_fine.split(", ")]
    values = {i: _COCO_ORDER.index(coarse) for i, (_, coarse) in enumerate(things + sorted(stuff))}
    return Classes(_COCO_ORDER, _spread_colors(len(_COCO_ORDER)), values)


COCOSTUFF_27 = _cocostuff()

POTSDAM_3 = Classes(
    names=("roads and cars", "buildings and clutter", "vegetation and trees"),
    palette=((196, 196, 196), (40, 60, 220), (40, 190, 90)),
)
