"""Label images: one single-channel PNG of class ids a frame."""

from pathlib import Path

from il2vseg.base.files import require_writable_dir
from il2vseg.base.images import write_image
from il2vseg.runtime.output import Output
from il2vseg.runtime.sinks.base import Sink


class LabelSink(Sink):
    """Writes FOLDER/NAME.png, each whole or not at all."""

    name = "png"

    def __init__(self, folder: Path) -> None:
        """Make sure that `folder` can be written.

        Raises:
            UserError: it cannot.
        """
        self._folder = require_writable_dir(folder)

    def write(self, output: Output) -> None:
        # Names may contain dots of their own: append the suffix, do not replace one.
        write_image(self._folder / f"{output.captured.name}.png", output.result.labels)
