"""Calibration frames are those that cover the footage, and a source without any is refused."""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from il2vseg.base.errors import UserError
from il2vseg.base.images import write_image
from il2vseg.calib.frames import descriptor, farthest_points, representative_frames

Points = st.integers(1, 40).flatmap(
    lambda n: st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=n, max_size=n)
)


@given(points=Points, count=st.integers(1, 50))
@settings(max_examples=80)
def test_farthest_points_are_distinct_and_cover_better_with_every_choice(
    points: list[tuple[int, int]], count: int
) -> None:
    x = np.array(points, np.float32)
    chosen = farthest_points(x, count)
    assert len(chosen) == min(count, len({tuple(p) for p in points}))
    assert len({tuple(x[i]) for i in chosen}) == len(chosen)
    radii = [
        np.linalg.norm(x[:, None] - x[chosen[:k]], axis=2).min(1).max() for k in range(1, len(chosen) + 1)
    ]
    assert all(b <= a + 1e-5 for a, b in itertools.pairwise(radii))


def test_every_scene_is_represented_however_rare() -> None:
    rng = np.random.default_rng(0)
    common, rare = rng.normal(0, 0.01, (200, 4)), rng.normal(5, 0.01, (1, 4))
    chosen = farthest_points(np.concatenate([common, rare]).astype(np.float32), 2)
    assert 200 in chosen


def folder_of(path: Path, colours: list[int]) -> Path:
    path.mkdir()
    rng = np.random.default_rng(0)
    for i, grey in enumerate(colours):
        noise = rng.integers(-9, 10, (30, 40, 3))
        write_image(path / f"{i:03}.png", (grey + noise).clip(0, 255).astype(np.uint8))
    return path


def test_frames_of_a_folder_come_resized_and_named(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "frames", [40] * 10 + [200])
    chosen = representative_frames(source, (48, 64), 3)
    assert len(chosen) == 3
    assert all(frame.shape == (48, 64, 3) for _, frame in chosen)
    assert "010" in {name for name, _ in chosen}


def test_a_clip_will_do(tmp_path: Path) -> None:
    from il2vseg.data.synthetic import write_clip

    write_clip(tmp_path / "river.mp4", 10, seed=1, size=(64, 96))
    assert len(representative_frames(tmp_path / "river.mp4", (48, 64), 4)) == 4


def test_without_a_source_synthetic_scenes_are_taken() -> None:
    assert len(representative_frames(None, (48, 64), 2)) == 2


def test_blank_frames_are_no_frames(tmp_path: Path) -> None:
    source = tmp_path / "dark"
    source.mkdir()
    for i in range(3):
        write_image(source / f"{i}.png", np.full((30, 40, 3), 8, np.uint8))
    with pytest.raises(UserError, match="no usable frame"):
        representative_frames(source, (48, 64), 4)


@pytest.mark.parametrize("content", ["nothing", "no folder", "no image", "empty"])
def test_a_source_without_frames_is_refused(content: str, tmp_path: Path) -> None:
    source = tmp_path / "frames"
    if content != "no folder":
        source.mkdir()
    if content == "no image":
        (source / "a.png").write_bytes(b"not an image")
    if content == "empty":
        (source / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="frames"):
        representative_frames(source, (48, 64), 4)


def test_descriptors_tell_scenes_apart() -> None:
    rng = np.random.default_rng(0)
    day = rng.integers(150, 255, (60, 80, 3), dtype=np.uint8)
    night = rng.integers(0, 40, (60, 80, 3), dtype=np.uint8)
    same = cv2.GaussianBlur(day, (3, 3), 0)
    near = np.linalg.norm(descriptor(day) - descriptor(same))
    far = np.linalg.norm(descriptor(day) - descriptor(night))
    assert near < 0.2 * far
