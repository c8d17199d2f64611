"""The one exception for what a user can mend, and the rule that turns it into one line and an exit code."""

import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input or a missing resource. The message says what is wrong and what to do; exit code 2."""


class CheckFailed(Exception):
    """A check that the user asked for did not pass (parity, for one). Exit code 1."""


def run_command(command: Callable[[], None], name: str) -> int:
    """Run a command's body and map its outcome to an exit code.

    A full disk and a path that may not be written are the user's to mend, wherever they surface;
    any other exception is our bug and keeps its traceback. What is printed tells no secret of an address.

    Returns:
        0 on success, 1 for CheckFailed, 2 for UserError and for OSError, 130 for Ctrl-C, 141 (as a shell
        counts SIGPIPE) when the reader of our output has left, as `| head` does.
    """
    from il2vseg.base.redact import scrubbed

    try:
        command()
    except (CheckFailed, UserError) as error:
        print(f"{name}: {scrubbed(str(error), sys.argv[1:])}", file=sys.stderr)
        return 1 if isinstance(error, CheckFailed) else 2
    except BrokenPipeError:
        # Python flushes standard output once more at its end, which would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"{name}: {scrubbed(f'{where}{error.strerror or error}', sys.argv[1:])}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0
