"""Files that are either complete or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`, and move it there when the block ends without an error.

    Parameters
    ----------
    path : path
        File to write; its folder is made where missing. After an error it is as it was before.

    Yields
    ------
    pathlib.Path
        Where to write instead, with the same ending.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        temporary = Path(folder) / target.name
        yield temporary
        temporary.replace(target)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file as a whole."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
