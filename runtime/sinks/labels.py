"""Label images: one single-channel PNG of class ids per frame."""

from pathlib import Path

from il2vseg.base.errors import UserError
from il2vseg.base.files import require_writable_dir, write_bytes
from il2vseg.base.images import encode_labels, is_label_image
from il2vseg.base.outputs import Ledger
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink


class LabelSink(Sink):
    """Writes FOLDER/NAME.png, each whole or not at all. Replaces label images, and no other picture."""

    name = "png"

    def __init__(self, folder: str | Path, ledger: Ledger | None = None) -> None:
        """Make sure that `folder` can be written.

        Args:
            ledger: where to record what is written, for the disk quota.
        Raises:
            UserError: it cannot.
        """
        self._folder = require_writable_dir(Path(folder))
        self._ledger = ledger

    def write(self, result: Result) -> None:
        """Write the labels of a frame.

        Raises:
            UserError: a file of that name is there and is no label image of this program.
            OSError: it cannot be written.
        """
        # Names may contain dots of their own: append the suffix, do not replace one.
        path = self._folder / f"{result.name}.png"
        require_ours(path)
        write_bytes(path, encode_labels(result.labels))
        if self._ledger is not None:
            self._ledger.record(path)


def require_ours(path: Path) -> None:
    """Make sure that `path` may be written over: it does not exist, or is a label image of this program.

    Raises:
        UserError: it is something else.
    """
    if path.exists() and not is_label_image(path):
        raise UserError(
            f"{path}: is there already, and il2vseg-run did not write it; choose another --save-labels folder"
        )
