"""What people type. Thin: reads options, calls the rooms below, shows what they return.

A command is a file in :mod:`equilip.cli.commands`; adding one is adding a file (its package docstring says
what the file holds). Neither this module nor a command's file imports torch before a command runs.
"""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Sequence

from equilip.errors import EquilipError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, what the command says, or 2 for an error.

    An error is one sentence on standard error; ``--debug`` shows the traceback instead.
    """
    from equilip.cli import dispatch

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return dispatch.run(arguments)
    except KeyboardInterrupt:
        print("equilip: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has left; there is nobody to tell.
        sys.stdout = None
        return 141
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        else:
            print(f"equilip: {sentence(error)}", file=sys.stderr)
        return 2


def remedy(number: int | None) -> str:
    """The end of a sentence about a file: what to do where the system says no."""
    match number:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return "; nothing was left half-written: free some space, or write elsewhere"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "; change its permissions, or name another place"
        case errno.ENOENT | errno.ENOTDIR | errno.EISDIR:
            return "; check the path"
    return ""


def sentence(error: Exception) -> str:
    """One line that says what is wrong and, for faults that are not the user's, how to report it."""
    text = " ".join(str(error).split())
    if isinstance(error, EquilipError):
        return text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}{remedy(error.errno)}"
    if isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text:
        return "there is not enough memory for this; take fewer neurons, a smaller --batch, or a --limit"
    kind = type(error).__name__
    return f"unexpected {kind}: {text} (a fault of equilip: run again with --debug and report what it shows)"
