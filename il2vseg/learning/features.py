"""Backbone tokens of a data set, computed once and cached on disk.

One file per image, named by the hash of its resized pixels, in a folder named by everything else that
decides the tokens (weights, backbone, size, precision). Files appear atomically, so an interrupted run
goes on where it stopped and several processes may fill one cache.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from il2vseg.base.errors import UserError
from il2vseg.base.files import atomic_path, cache_home
from il2vseg.base.ignore import IgnoreMask
from il2vseg.base.images import Frame, resize_frame
from il2vseg.data import Dataset
from il2vseg.learning.precision import MixedPrecision, autocast
from il2vseg.learning.processes import Processes
from il2vseg.models import lowlevel
from il2vseg.models.backbones import Backbone
from il2vseg.models.network import frames_to_images

COLOUR_SCALE = 2
"""Colours are kept at this many cells along a token's side: the finest grid a loss may ask for."""

MEMORY_BUDGET = 2 << 30
"""Bytes of tokens held in memory; a larger store reads its files at every step (and does not map them: Linux
allows a process 65,530 mappings)."""


def jitter_colours(frame: Frame) -> Frame:
    """The colour- and luminosity-jittered copy of a frame that L_corr compares it with.

    Brightness, contrast and saturation ±30 %, hue ±36°; drawn from the frame's own bytes, so that the copy
    is the same in every run and can be cached.
    """
    rng = np.random.default_rng(np.frombuffer(hashlib.sha256(frame.tobytes()).digest(), np.uint32))
    x = frame.astype(np.float32) / 255.0 * rng.uniform(0.7, 1.3)
    mean = x.mean()
    x = (x - mean) * rng.uniform(0.7, 1.3) + mean
    hsv = cv2.cvtColor(x.clip(0.0, 1.0).astype(np.float32), cv2.COLOR_BGR2HSV)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-36.0, 36.0)) % 360.0
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.7, 1.3), 0.0, 1.0)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR) * 255.0 + 0.5, dtype=np.uint8)


class FeatureCache:
    """Tokens of single frames by one backbone at one size, on disk."""

    def __init__(
        self,
        backbone: Backbone,
        weights_digest: str,
        folder: Path | None = None,
        precision: MixedPrecision = "no",
    ) -> None:
        """Args:
        weights_digest: SHA-256 of the weights file. folder: where caches live (default `cache_home()`).
        precision: of the backbone's matrix products.
        """
        key = f"{backbone.name}-{backbone.size[0]}x{backbone.size[1]}-{weights_digest[:12]}"
        key += "" if precision == "no" else f"-{precision}"
        if backbone.exposure is not None:
            key += "-even-dark" if backbone.exposure.dark_only else "-even"
        self.folder = (folder or cache_home()) / "features" / key
        self.backbone = backbone
        self.precision = precision

    def path(self, frame: Frame) -> Path:
        """Where the tokens of a frame (of the backbone's size) are kept."""
        digest = hashlib.blake2b(frame.tobytes(), digest_size=16).hexdigest()
        return self.folder / digest[:2] / f"{digest[2:]}.npy"

    def bytes_per_frame(self) -> int:
        """What the tokens of one frame take."""
        (h, w), header = self.backbone.grid, 128
        return 2 * h * w * self.backbone.dim + header

    def compute(self, frames: list[Frame]) -> list[Path]:
        """Make sure that the tokens (N, D) float16 of the frames are on disk; return their files.

        Raises:
            UserError: the backbone overflows in this precision.
        """
        paths = [self.path(f) for f in frames]
        for path in paths:
            with suppress(OSError):
                os.utime(path)  # used now: see `make_room`
        missing = [i for i, p in enumerate(paths) if not p.exists()]
        if missing:
            device = self.backbone.mean.device
            batch = torch.from_numpy(np.stack([frames[i] for i in missing])).to(device)
            with torch.inference_mode(), autocast(device, self.precision):
                tokens = self.backbone(frames_to_images(batch)).flatten(2).transpose(1, 2).half()
            if not bool(tokens.isfinite().all()):
                raise UserError(f"{self.backbone.name} overflows in {self.precision}: use another precision")
            for i, t in zip(missing, tokens.cpu().numpy(), strict=True):
                with atomic_path(paths[i]) as temporary, temporary.open("wb") as file:
                    np.save(file, t)
        return paths


class CachedBackbone(Backbone):
    """A backbone that looks its tokens up: scoring many models on the same frames costs one pass.

    Tokens are those of training, rounded to half precision.
    """

    def __init__(self, cache: FeatureCache) -> None:
        inner = cache.backbone
        super().__init__(inner.name, inner.vit, inner.size, inner.mean, inner.std, inner.exposure)
        self._cache = cache

    def forward(self, images: Tensor) -> Tensor:
        """As `Backbone.forward`, of images that come from 8-bit frames."""
        frames = (images * 255.0).round().byte().permute(0, 2, 3, 1).flip(-1).cpu().numpy()
        tokens = np.stack([np.load(path) for path in self._cache.compute(list(frames))])
        return torch.from_numpy(tokens).to(images).transpose(1, 2).reshape(-1, self.dim, *self.grid)


class CachedFeatures:
    """The training set as the trainer sees it (`store.FeatureStore`).

    Attributes:
        networks: that are trained with the classifier: none, the tokens are those of a frozen one.
    """

    networks: Mapping[str, nn.Module] = MappingProxyType({})

    def __init__(
        self,
        grid: tuple[int, int],
        paths: list[Path],
        views: list[Path],
        colours: NDArray[np.uint8],
        ignored: NDArray[np.bool_] | None = None,
    ) -> None:
        """Args:
        paths, views: token files of the n images and of their jittered copies (views may be empty).
        colours: mean RGB (n, h·s, w·s, 3), s = COLOUR_SCALE.
        ignored: tokens (h, w) that belong to the own vessel; their nearest neighbours stand in for them.
        """
        self.grid = grid
        self._stand_in = None if ignored is None else torch.from_numpy(nearest_kept(ignored).ravel())
        self._colours = colours if ignored is None else _replaced_colours(colours, ignored)
        size = sum(p.stat().st_size for p in [*paths, *views])
        keep = size <= MEMORY_BUDGET
        names = "".join(f"{p.parent.name}{p.stem}" for p in paths)
        self.footage = hashlib.blake2b(names.encode(), digest_size=16).hexdigest()
        self._tokens: list[Path] | list[NDArray[np.float16]] = [np.load(p) for p in paths] if keep else paths
        self._views: list[Path] | list[NDArray[np.float16]] = [np.load(p) for p in views] if keep else views

    def _stack(self, held: list[Path] | list[NDArray[np.float16]], images: Tensor) -> Tensor:
        chosen = [held[i] for i in images.tolist()]
        tokens = torch.from_numpy(np.stack([np.load(x) if isinstance(x, Path) else x for x in chosen]))
        return (tokens if self._stand_in is None else tokens[:, self._stand_in]).float()

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens (B, N, D) float32 of the images (B,)."""
        return self._stack(self._tokens, images)

    def view_tokens(self, images: Tensor) -> Tensor:
        """Tokens (B, N, D) float32 of the jittered copies of the images (B,)."""
        return self._stack(self._views, images)

    def colours(self, images: Tensor, scale: int) -> Tensor:
        """Mean RGB (B, 3, h·scale, w·scale) in [0, 1]; `scale` divides COLOUR_SCALE."""
        x = torch.from_numpy(self._colours[images.numpy()]).permute(0, 3, 1, 2).float() / 255.0
        return lowlevel.pool_colours(x, (self.grid[0] * scale, self.grid[1] * scale))


def nearest_kept(ignored: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Index of the nearest token that is not ignored, for every token of a grid (h, w): (h, w).

    Raises:
        UserError: none is left.
    """
    from scipy.ndimage import distance_transform_edt

    if ignored.all():
        raise UserError("--ignore-mask leaves out all of the frame at this --size")
    rows, columns = distance_transform_edt(ignored, return_distances=False, return_indices=True)
    return np.asarray(rows * ignored.shape[1] + columns, dtype=np.int64)


def _replaced_colours(colours: NDArray[np.uint8], ignored: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Give ignored tokens the colours (n, h·s, w·s, 3) of those that stand in for them."""
    (h, w), count = ignored.shape, len(colours)
    s = colours.shape[1] // h
    cells = colours.reshape(count, h, s, w, s, 3).transpose(0, 1, 3, 2, 4, 5).reshape(count, h * w, s, s, 3)
    cells = cells[:, nearest_kept(ignored).ravel()].reshape(count, h, w, s, s, 3)
    return np.ascontiguousarray(cells.transpose(0, 1, 3, 2, 4, 5).reshape(colours.shape))


def describe(
    frames: Iterable[Frame], caches: Sequence[FeatureCache], views: bool = False, batch: int = 4
) -> tuple[list[tuple[list[Path], list[Path]]], list[NDArray[np.uint8]]]:
    """Read frames once, and compute what caches of one size lack.

    Args:
        views: also the tokens of the colour-jittered copies, which L_corr needs.
    Returns:
        per cache the token files of the frames and of their copies; mean RGB (h·s, w·s, 3) of every frame.
    """
    size, (h, w) = caches[0].backbone.size, caches[0].backbone.grid
    files: list[tuple[list[Path], list[Path]]] = [([], []) for _ in caches]
    colours: list[NDArray[np.uint8]] = []
    pending: list[Frame] = []

    def flush() -> None:
        for cache, (paths, view_paths) in zip(caches, files, strict=True):
            paths.extend(cache.compute(pending))
            if views:
                view_paths.extend(cache.compute([jitter_colours(f) for f in pending]))
        pending.clear()

    for frame in frames:
        resized = resize_frame(frame, size)
        small = cv2.resize(resized, (w * COLOUR_SCALE, h * COLOUR_SCALE), interpolation=cv2.INTER_AREA)
        colours.append(np.asarray(small[..., ::-1], dtype=np.uint8))
        pending.append(resized)
        if len(pending) == batch:
            flush()
    flush()
    return files, colours


def build_feature_store(
    dataset: Dataset,
    cache: FeatureCache,
    views: bool = True,
    batch: int = 4,
    progress: Callable[[Iterable[Frame]], Iterable[Frame]] = lambda frames: frames,
    processes: Processes | None = None,
    ignore: IgnoreMask | None = None,
) -> CachedFeatures:
    """Read every frame of a data set, compute what the cache lacks and open the result.

    Args:
        views: also the tokens of the colour-jittered copies, which L_corr needs.
        progress: wraps the iteration over frames.
        processes: each reads and computes its part of the frames; all of them get the whole store.
        ignore: what belongs to the own vessel in every frame.
    Raises:
        UserError: nothing is readable, the backbone overflows, or the processes do not share the cache.
    """
    processes = processes or Processes()
    share = dataset if processes.count == 1 else dataset.share(processes.rank, processes.count)
    frames = progress(sample.frame for sample in share)
    ((paths, view_paths),), colours = describe(frames, [cache], views, batch)
    if processes.count > 1:
        parts = processes.gather((paths, view_paths, colours, share.skipped, list(share.shapes.elements())))
        paths, view_paths, colours, dataset.skipped, shapes = (
            [item for part in column for item in part] for column in zip(*parts, strict=True)
        )
        dataset.shapes = Counter(shapes)
        dataset.lost = len(dataset) - len(paths)
        if not paths:
            raise UserError(f"none of {len(dataset)} images could be read (first: {dataset.skipped[0]})")
        if absent := [p for p in (*paths, *view_paths) if not p.exists()]:
            raise UserError(f"{absent[0]}: not on this machine; --cache must be a folder that all share")
    ignored = None if ignore is None else ignore.cells(cache.backbone.grid)
    return CachedFeatures(cache.backbone.grid, paths, view_paths, np.stack(colours), ignored)
