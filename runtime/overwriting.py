"""Before a run writes anything: none of its outputs may replace what it reads, or what it did not write."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from il2vseg.base.errors import UserError
from il2vseg.base.files import is_clip_file
from il2vseg.base.outputs import footage_files, frame_names, model_files, protect
from il2vseg.runtime.config import RunConfig, targets
from il2vseg.runtime.sinks.labels import require_ours
from il2vseg.runtime.sources.listing import list_source, local_path

_LOOKED_AT = 100
"""Label images of earlier clips that are looked at; the sink looks at each before it writes over it."""


def check_outputs(configs: Sequence[RunConfig], model: Path) -> None:
    """Refuse outputs that would replace footage, model, settings, each other, or pictures that are not ours.

    Args:
        configs: of one source each. model: folder of the model.
    Raises:
        UserError: one of them would.
    """
    outputs, inputs = [], model_files(model)
    for config in configs:
        files, root = _footage(config)
        inputs += files
        for source in targets(config):
            inputs += footage_files(Path(local_path(source))) if Path(local_path(source)).is_dir() else ()
        mask = None if config.ignore_mask is None else Path(config.ignore_mask)
        inputs += [path for path in (config.config, config.undistort, mask) if path is not None]
        outputs += [path for path in (config.mcap, config.jsonl) if path is not None and str(path) != "-"]
        if config.save_video is not None and config.segment is None:
            outputs.append(config.save_video)
        if config.save_labels is not None and config.save_labels.is_dir():
            labels = list(_label_files(config.save_labels, files, root))
            outputs += labels
            protect(labels, inputs, advice="choose another --save-labels folder")
            for path in labels:
                require_ours(path)
    protect(outputs, inputs)


def _footage(config: RunConfig) -> tuple[list[Path], Path]:
    """The files that a run reads, and what their names are relative to; none of a camera or stream."""
    (target,) = targets(config)
    target = local_path(target)
    if config.camera is None and "://" not in target:
        with suppress(UserError, OSError, ValueError):
            return list_source(target)
    return [], Path()


def _label_files(folder: Path, files: Sequence[Path], root: Path) -> Iterator[Path]:
    """Yield the label images in `folder` that a run may write over."""
    clips = [] if files else [""]
    for file, name in zip(files, frame_names(files, root), strict=True):
        if not is_clip_file(file):
            path = folder / f"{name}.png"
            if path.exists():
                yield path
        else:
            clips.append(name if len(files) > 1 else "")
    for clip in clips:
        yield from islice((folder / clip).glob("frame_[0-9][0-9][0-9][0-9][0-9][0-9]*.png"), _LOOKED_AT)
