"""How a script ends: with one clear sentence instead of a traceback where the user can mend it."""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
import textwrap
from collections.abc import Callable
from typing import NoReturn

from common.errors import UserError

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk is used up",
    errno.EFBIG: "the file is larger than is allowed",
    errno.EROFS: "the folder is read-only",
    errno.EACCES: "it is not allowed",
    errno.EPERM: "it is not allowed",
}
"""What a disk may refuse, and the user can mend."""
_SPIN = "10000"
"""Turns for which a thread of GNU OpenMP watches for the others before it sleeps, a fifth of a millisecond.
The usual 300,000 make a step on all cores ten times as long as on one where others use the machine."""


def run_script(main: Callable[[], object]) -> None:
    """Call ``main`` and leave with 0, with 2 for a user's error, or with 130 when interrupted."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN)  # read when torch is imported, by main
    gc.set_threshold(10_000)  # at 700, Python's default, a sixth of the start goes into looking for garbage
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no name of a file is a reason to stop
    try:
        main()
    except UserError as error:
        fail(str(error))
    except BrokenPipeError:  # who reads the output has seen enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        what = f"{error.filename} cannot be read or written" if error.filename else "A file cannot be written"
        fail(
            f"{what}: {_DISK[error.errno]}. Make room, or choose other folders (--help names them). What was "
            "finished is kept: the same command goes on, training with --resume."
        )
    except KeyboardInterrupt:
        print(
            "\nStopped. What was finished is kept; the same command with --resume goes on.", file=sys.stderr
        )
        sys.exit(130)


def fail(message: str) -> NoReturn:
    """Print an error as one sentence and leave with 2."""
    print_error(message)
    sys.exit(2)


def print_error(message: str) -> None:
    """Print an error as one sentence."""
    text = textwrap.fill(f"Error: {message}", 100, break_long_words=False, break_on_hyphens=False)
    print(f"\n{text}", file=sys.stderr, flush=True)
