"""Pictures of clusters: exemplars at equal steps of their pixels, and where in the frame they lie."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from il2vseg.base.images import Frame, encode_jpeg, encode_png, resize_frame

EXEMPLARS = 6
COLUMNS = 3
CROP = (120, 160)
"""Height and width of an exemplar."""

MIN_EXTENT, MAX_EXTENT = 0.28, 0.8
"""Of the frame's width that an exemplar shows: enough around a small thing to tell what it is."""

_MARK = (60, 240, 255)


def exemplar_frames(counts: NDArray[np.int64], wanted: int = EXEMPLARS) -> list[int]:
    """Frames that each stand for an equal part of a cluster's pixels, in order; [] of an absent cluster.

    Args:
        counts: (n,), pixels of the cluster in each of n frames.
    """
    cumulative = counts.cumsum()
    if not len(counts) or not cumulative[-1]:
        return []
    steps = (np.arange(wanted) + 0.5) / wanted * cumulative[-1]
    return [int(i) for i in np.unique(np.searchsorted(cumulative, steps, side="left"))]


def crop_box(mask: NDArray[np.bool_], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where to look at a cluster in a frame: top, left, bottom, right in pixels, around its largest piece.

    Args:
        mask: cells (h, w) of the cluster, at least one. size: (H, W) of the frame.
    """
    (h, w), (height, width) = mask.shape, size
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    piece = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    inside = cv2.distanceTransform(np.pad(pieces == piece, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(int(inside.argmax()), mask.shape)
    extent = max(stats[piece, cv2.CC_STAT_WIDTH] / w, stats[piece, cv2.CC_STAT_HEIGHT] / h)
    columns = width * min(MAX_EXTENT, max(MIN_EXTENT, 1.2 * extent))
    rows = min(height, columns * CROP[0] / CROP[1])
    columns = min(width, rows * CROP[1] / CROP[0])
    top = min(max(0.0, (row + 0.5) / h * height - rows / 2), height - rows)
    left = min(max(0.0, (column + 0.5) / w * width - columns / 2), width - columns)
    return round(top), round(left), round(top + rows), round(left + columns)


def exemplar(frame: Frame, mask: NDArray[np.bool_]) -> Frame:
    """A crop of CROP: a cluster in its surroundings, outlined, everything else dimmed.

    Args:
        mask: cells (h, w) of the cluster, at least one.
    """
    height, width = frame.shape[:2]
    top, left, bottom, right = crop_box(mask, (height, width))
    smooth = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    part = resize_frame(np.ascontiguousarray(frame[top:bottom, left:right]), CROP)
    inside = cv2.resize(smooth[top:bottom, left:right], CROP[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    picture = np.where(inside[..., None], part, (0.4 * part).astype(np.uint8))
    picture = np.ascontiguousarray(picture, np.uint8)
    outline = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
    cv2.drawContours(picture, outline, -1, _MARK, 1, cv2.LINE_AA)
    return picture


def exemplar_sheet(
    frames: Sequence[int], frame: Callable[[int], Frame], masks: Callable[[int], NDArray[np.bool_]]
) -> bytes:
    """The exemplars of a cluster as one JPEG, COLUMNS side by side.

    Args:
        frame, masks: the frame, and the cluster's cells in it, by number.
    """
    rows = -(-EXEMPLARS // COLUMNS)
    sheet = np.full((rows * CROP[0], COLUMNS * CROP[1], 3), 26, np.uint8)
    for place, index in enumerate(frames):
        row, column = divmod(place, COLUMNS)
        picture = exemplar(frame(index), masks(index))
        sheet[row * CROP[0] : (row + 1) * CROP[0], column * CROP[1] : (column + 1) * CROP[1]] = picture
    return encode_jpeg(sheet, 82)


def heat(cells: NDArray[np.bool_]) -> bytes:
    """Where in the frame a cluster lies, as a small PNG.

    Args:
        cells: (n, h, w), where it is in n frames.
    """
    often = cells.mean(0, dtype=np.float64)
    scaled = np.sqrt(often / often.max()) if often.max() > 0 else often
    grey = (255 * scaled).astype(np.uint8)
    size = (8 * grey.shape[1], 8 * grey.shape[0])
    large = cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC)
    return encode_png(np.asarray(cv2.applyColorMap(large, cv2.COLORMAP_INFERNO), np.uint8))
