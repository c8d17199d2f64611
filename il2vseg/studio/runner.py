"""python -m il2vseg.studio.runner: run a command of il2vseg that outlives the studio that started it.

It holds a lock while it runs, writes what the command says to a log, and its exit code to a file at the end.
"""

import fcntl
import os
import sys
from pathlib import Path

from il2vseg.base.files import write_text


def main(argv: list[str] | None = None, prog: str = "il2vseg.studio.runner") -> int:
    """Run `FOLDER VERB FLAGS...`; see `il2vseg.studio.jobs`."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) < 2 or arguments[0].startswith("-"):
        wrong = [a for a in arguments if a.startswith("-") and a != "--help"]
        print(f"{prog}: {wrong[0]}: no such flag" if wrong else f"usage: {prog} FOLDER VERB FLAGS...",
              file=sys.stderr if wrong else sys.stdout)  # fmt: skip
        return 2 if wrong else 0
    folder = Path(arguments[0])
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        from il2vseg.__main__ import main as run

        code = 1
        try:
            code = run(arguments[1:])
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        finally:
            write_text(folder / "code", f"{code}\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
