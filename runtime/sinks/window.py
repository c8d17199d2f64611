"""The overlay in a window on this machine's screen."""

import os
import sys
import threading

import cv2

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink

_ESCAPE = 27


class WindowSink(Sink):
    """Shows the overlay.

    Only the main thread may talk to the screen: what another one writes is kept until that calls `show`.
    """

    name = "window"

    def __init__(self, title: str = "IL2Vseg") -> None:
        """Check that there is a screen.

        Raises:
            UserError: there is none.
        """
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise UserError("--window: there is no display here; use --serve PORT and a browser instead")
        self._title = title
        self._newest: Frame | None = None

    def write(self, result: Result) -> None:
        self._newest = result.overlay
        if threading.current_thread() is threading.main_thread():
            self.show()

    def show(self) -> bool:
        """Show the newest overlay. False once the user pressed q or Escape."""
        newest, self._newest = self._newest, None
        if newest is not None:
            cv2.imshow(self._title, newest)
        return cv2.waitKey(1) & 0xFF not in (ord("q"), _ESCAPE)
