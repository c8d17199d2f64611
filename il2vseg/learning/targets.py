"""Targets of a student: scores and tokens of a teacher that was trained without labels."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from il2vseg.base.classes import is_unsure
from il2vseg.base.errors import UserError
from il2vseg.base.files import atomic_path
from il2vseg.base.ignore import IgnoreMask
from il2vseg.base.images import Frame, resize_frame
from il2vseg.models.network import Network, frames_to_images, pixel_scores
from il2vseg.models.segmenter import Segmenter
from il2vseg.models.student import STRIDE
from il2vseg.models.whitening import TokenStatistics

TOKEN_DIM = 64
"""Whitened dimensions of the teacher's tokens that the student's features are pulled to."""

TOKEN_STRIDE = 16
"""Stride of the student's features that are compared with them."""


def classes_of(names: Sequence[str]) -> tuple[tuple[str, ...], list[list[int]]]:
    """Classes as they first appear among the names of clusters, and the clusters of each.

    Clusters named unsure belong to none.

    Raises:
        UserError: no cluster has another name.
    """
    classes = tuple(name for name in dict.fromkeys(names) if not is_unsure(name))
    if not classes:
        raise UserError("every cluster of the teacher is named unsure; name them with il2vseg-name")
    return classes, [[i for i, name in enumerate(names) if name == c] for c in classes]


@dataclass(frozen=True)
class Targets:
    """The teacher's output for n frames.

    Attributes:
        scores: (n, C, H/4, W/4) uint8, probabilities times 255; they add up to less where the teacher is
            unsure, and to 0 where it knows nothing.
        tokens: (n, K, h, w) float16, whitened; K = 0 where the teacher has no tokens.
        class_names: one per class.
    """

    scores: NDArray[np.uint8]
    tokens: NDArray[np.float16]
    class_names: tuple[str, ...]

    def without(self, ignore: IgnoreMask) -> "Targets":
        """The same, knowing nothing of what belongs to the own vessel."""
        scores = self.scores.copy()
        height, width = scores.shape[2:]
        scores[:, :, ignore.cells((height, width))] = 0
        return replace(self, scores=scores)

    def knowing(self, frames: int) -> "Targets":
        """The same, knowing no class of any but so many first frames."""
        if frames == len(self.scores):
            return self
        scores = self.scores.copy()
        scores[frames:] = 0
        return replace(self, scores=scores)

    def of(self, frames: Sequence[int]) -> "Targets":
        """Those of some frames, by number."""
        tokens = self.tokens[list(frames)] if len(self.tokens) else self.tokens
        return replace(self, scores=self.scores[list(frames)], tokens=tokens)

    def save(self, path: Path, key: str) -> None:
        """Write to an .npz; `key` names everything that decided the targets."""
        names = np.array(self.class_names)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, scores=self.scores, tokens=self.tokens, names=names, key=key)

    @classmethod
    def load(cls, path: Path, key: str) -> "Targets | None":
        """Read what `save` wrote, if it is there whole and has this key."""
        try:
            with np.load(path) as file:
                if str(file["key"]) != key:
                    return None
                return cls(file["scores"], file["tokens"], tuple(map(str, file["names"])))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None


def targets_key(frames: Iterable[bytes], **settings: object) -> str:
    """A hash of the frames and of every setting that decides their targets."""
    h = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for frame in frames:
        h.update(hashlib.sha256(frame).digest())
    return h.hexdigest()


@torch.inference_mode()
def compute_targets(
    teachers: Sequence[Network],
    frames: Iterable[Frame],
    size: tuple[int, int],
    flip: bool = False,
) -> Targets:
    """Run the teacher, with its low-level branch, on every frame: mean over its input sizes and, with
    `flip`, the mirrored frame.

    Args:
        teachers: one model at one or more input sizes; the first gives the tokens.
        size: the student's (H, W).
    """
    class_names, members = classes_of(teachers[0].class_names)
    grid = (size[0] // STRIDE, size[1] // STRIDE)
    captured: list[Tensor] = []
    hook = None
    if isinstance(teachers[0], Segmenter):
        hook = teachers[0].backbone.register_forward_hook(lambda _, __, output: captured.append(output))
    scores: list[NDArray[np.uint8]] = []
    tokens: list[Tensor] = []
    for frame in frames:
        total = torch.zeros(1, len(class_names), *grid)
        for teacher in teachers:
            images = frames_to_images(
                torch.from_numpy(resize_frame(frame, teacher.size))[None].to(teacher.device)
            )
            total += _class_scores(teacher, images, members, grid).cpu()
            if flip:
                total += _class_scores(teacher, images.flip(3), members, grid).flip(3).cpu()
        tokens += [t.half().cpu() for t in captured[:1]]
        captured.clear()
        mean = total[0] / (len(teachers) * (2 if flip else 1))
        scores.append((mean * 255.0).round().byte().numpy())
    if hook is not None:
        hook.remove()
    return Targets(np.stack(scores), _whiten(tokens), class_names)


def _class_scores(
    teacher: Network, images: Tensor, members: Sequence[list[int]], grid: tuple[int, int]
) -> Tensor:
    """Scores (1, C, gh, gw) of named classes: of each its best cluster's, as in the teacher's labels.

    They are 0 where the best cluster is in no class, that is, unsure.
    """
    clusters = pixel_scores(teacher(images), images, teacher.spec.low_level).clamp_min(0.0)
    classes = torch.stack([clusters[:, ids].amax(1) for ids in members], 1)
    known = classes.amax(1, keepdim=True) == clusters.amax(1, keepdim=True)
    return F.interpolate(
        known * classes / classes.sum(1, keepdim=True).clamp_min(1e-6), size=grid, mode="area"
    )


def _whiten(tokens: list[Tensor]) -> NDArray[np.float16]:
    """PCA-whiten tokens (1, D, h, w) each over all of them: (n, K, h, w)."""
    if not tokens:
        return np.zeros((0, 0, 1, 1), np.float16)
    _, dim, h, w = tokens[0].shape
    statistics = TokenStatistics(dim)
    flat = [t[0].flatten(1).T.float() for t in tokens]
    for t in flat:
        statistics.update(t)
    whitening = statistics.whitening(min(TOKEN_DIM, dim), centre=False)
    z = [whitening(t[None])[0].T.reshape(-1, h, w) for t in flat]
    return np.asarray(torch.stack(z).half().numpy(), np.float16)
