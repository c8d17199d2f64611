"""Room for cached features: how much they take, and which go when it is too much."""

import shutil
import time
from contextlib import suppress
from pathlib import Path

from il2vseg.base.errors import UserError

KEEP_S = 86_400.0
"""Features used within so many seconds stay: another training may be reading them."""


def make_room(folder: Path, needed: int, limit: int) -> str:
    """Make sure that `needed` more bytes of features fit; those that were not used for longest go.

    Args:
        folder: of one backbone's features, beside those of others. needed: bytes of all features of the
            footage, of which it may hold some. limit: bytes, of all backbones.
    Returns:
        one line: what the features take, and what was deleted.
    Raises:
        UserError: they do not fit, on the disk or within the limit.
    """
    files = []
    for path in folder.parent.rglob("*.npy"):
        with suppress(OSError):  # others delete, too
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    files.sort()
    held, deleted = sum(size for _, size, _ in files), 0
    needed = max(0, needed - sum(size for _, size, path in files if folder in path.parents))
    for used, size, path in files:
        if held - deleted + needed <= limit or used > time.time() - KEEP_S:
            break
        with suppress(OSError):
            path.unlink()
            deleted += size
    total = held - deleted + needed
    if total > limit:
        raise UserError(
            f"the features of this footage take {_size(needed)}, with those used today {_size(total)}: more "
            f"than --cache-limit {limit / 1e9:g}; raise it, or use fewer frames with --limit"
        )
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if needed > (free := shutil.disk_usage(existing).free):
        raise UserError(
            f"{folder}: the features of this footage take {_size(needed)} and {_size(free)} are free; "
            "choose another --cache, or use fewer frames with --limit"
        )
    gone = f"; deleted {_size(deleted)} of the oldest" if deleted else ""
    home = folder.parent
    return f"features: up to {_size(needed)} more in {home}, which holds {_size(held - deleted)}{gone}"


def _size(size: int) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e7 else f"{size / 1e6:.3g} MB"
