"""The marine layer on synthetic scenes, where truth is known."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from il2vseg.base.images import Labels
from il2vseg.data import synthetic
from il2vseg.data.synthetic import scene as scenes
from il2vseg.data.synthetic.drawing import draw
from il2vseg.runtime.marine.scene import Classes, MarineAnalyser

CLASSES = Classes(water=1, obstacle=0, sky=2)
SIZE = (360, 640)


def test_the_horizon_of_synthetic_scenes_is_found() -> None:
    errors = []
    for seed in range(12):
        for frame in (0, 40):
            _, labels = synthetic.render(seed, frame, SIZE)
            horizon = MarineAnalyser(CLASSES)(labels).horizon
            if horizon is not None:
                row, slope = synthetic.horizon(seed, frame, SIZE)
                middle = horizon.line.at(320, SIZE[1])
                errors.append(abs(middle - (row + 320 * slope)))
    assert len(errors) >= 4
    assert np.median(errors) < 1.0


def true_obstacles(seed: int, frame: int) -> tuple[Labels, list[tuple[int, int, int, int]]]:
    """Mask of a scene and the boxes of its vessels, each rendered alone."""
    scene = scenes.scene_of(seed)
    labels = synthetic.render(seed, frame, SIZE)[1]

    def mask(vessels: tuple[Any, ...]) -> Labels:
        return draw(replace(scene, vessels=vessels), None, seed, frame, SIZE)[1]

    empty, boxes = mask(()), []
    for vessel in scene.vessels:
        shape = (mask((vessel,)) != empty).astype(np.uint8)
        if shape.sum() >= 40:
            boxes.append(tuple(int(v) for v in cv2.boundingRect(shape)))
    return labels, boxes  # type: ignore[return-value]


def same_place(found: tuple[int, ...], true: tuple[int, ...]) -> bool:
    """Whether a box stands where a vessel does: its foot within it, as high as a quarter of it or 4 pixels.

    What rises above the shore line cannot be told from the shore, so the boxes' tops do not count.
    """
    centre = found[0] + found[2] / 2
    bottoms = abs(found[1] + found[3] - true[1] - true[3])
    return true[0] - 2 <= centre <= true[0] + true[2] + 2 and bottoms <= max(4, true[3] / 4)


def test_vessels_of_synthetic_scenes_are_found() -> None:
    hits, found, wanted = 0, 0, 0
    for seed in range(10):
        labels, truth = true_obstacles(seed, 10)
        detections = [o.box for o in MarineAnalyser(CLASSES)(labels).obstacles]
        free = list(truth)
        for box in detections:
            if match := next((t for t in free if same_place(box, t)), None):
                free.remove(match)
                hits += 1
        found += len(detections)
        wanted += len(truth)
    precision, recall = hits / max(1, found), hits / wanted
    print(f"precision {precision:.2f}, recall {recall:.2f} on {wanted} vessels")
    assert 2 * precision * recall / (precision + recall) >= 0.7
