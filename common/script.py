"""How a script ends: with one clear sentence instead of a traceback where the user can mend it."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable

from common.errors import UserError


def run_script(main: Callable[[], object]) -> None:
    """Call ``main`` and leave with 0, with 2 for a user's error, or with 130 when interrupted."""
    try:
        main()
    except UserError as error:
        text = textwrap.fill(f"Error: {error}", 100, break_long_words=False, break_on_hyphens=False)
        print(f"\n{text}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            "\nStopped. What was finished is kept; the same command with --resume goes on.", file=sys.stderr
        )
        sys.exit(130)
