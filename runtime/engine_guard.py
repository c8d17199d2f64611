"""An engine that is loaded again when it raises."""

from collections.abc import Callable

from il2vseg.base.errors import UserError
from il2vseg.base.images import Frame
from il2vseg.runtime.engine import Engine, Result
from il2vseg.runtime.sources.base import Report


class FrameLostError(Exception):
    """The engine failed on a frame, was loaded again, and failed again."""


class EngineGuard:
    """Calls an engine; when it raises, loads it again and tries the same frame once more."""

    def __init__(self, engine: Engine, reload: Callable[[], Engine], report: Report) -> None:
        """Guard `engine`; `reload` loads another one like it. Events reported: engine_failed."""
        self._engine: Engine | None = engine
        self._reload = reload
        self._report = report

    def __call__(self, frame: Frame) -> Result:
        """Segment a frame.

        Raises:
            FrameLostError: neither the engine nor a new one could do it.
            UserError: the model cannot be loaded any more.
        """
        try:
            if self._engine is None:
                self._engine = self._reload()
            return self._engine(frame)
        except UserError:
            raise
        except Exception as error:
            self._report("engine_failed", f"the engine failed ({_line(error)}); loading it again")
        self.close()
        try:
            self._engine = self._reload()
            return self._engine(frame)
        except UserError:
            raise
        except Exception as error:
            self.close()
            raise FrameLostError(_line(error)) from error

    def close(self) -> None:
        """Give back what the engine holds."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
