"""python -m il2vseg.studio.runner: run a command of il2vseg that outlives the studio that started it.

It holds a lock while it runs, writes what the command says to a log, and its exit code to a file at the end.
"""

import fcntl
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from il2vseg.base.files import write_text


def run(folder: Path, words: Sequence[str]) -> int:
    """Run `il2vseg WORDS` as the job in a folder (see `il2vseg.studio.jobs`); return its exit code."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        from il2vseg.__main__ import main

        code = 1
        try:
            code = main(list(words))
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        finally:
            write_text(folder / "code", f"{code}\n")
    return code


if __name__ == "__main__":
    raise SystemExit(run(Path(sys.argv[1]), sys.argv[2:]))
