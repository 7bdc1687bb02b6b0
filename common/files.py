"""Write files so that a reader finds either the old one or the new one, never a part."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

FLOATS, BYTES = "<f4", "|u1"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``, with its ending, that takes its place when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path`` that takes its place when the block ends well.

    If ``path`` has come to exist by then (another process was faster), that one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    temporary.mkdir()
    try:
        yield temporary
        if not path.exists():
            _take_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_place(temporary: Path, path: Path) -> None:
    """Rename a folder, unless another process was faster by a moment."""
    try:
        temporary.replace(path)
    except OSError:
        if not path.is_dir():
            raise


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or "absent", or "unreadable"."""
    if not path.is_file():
        return "absent"
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # whoever prepares the recording will say so
        return "unreadable"


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all; NaN is refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_table(path: Path, table: pd.DataFrame, digits: int | None = 6) -> None:
    """Write a table as CSV, numbers with so many significant digits; None: all that they have."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format=f"%.{digits}g" if digits else None)


class NpyWriter:
    """An ``.npy`` file that grows along its first axis, so that arrays are written as they come.

    Parameters
    ----------
    path : pathlib.Path
    row_shape : tuple of int
        Shape of one row; ``()`` for a plain vector.
    kind : str
        numpy's name of the type in the file: `FLOATS`, to which rows are rounded, or `BYTES`.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...] = (), kind: str = FLOATS) -> None:
        self.row_shape, self.kind = row_shape, np.dtype(kind)
        self.rows = 0
        self._file: IO[bytes] = path.open("wb")
        self._write_header()
        self._data_start = self._file.tell()

    def _write_header(self) -> None:
        # numpy pads the header so that the first axis can grow in place (GROWTH_AXIS_MAX_DIGITS)
        shape = (self.rows, *self.row_shape)
        header = {"descr": self.kind.str, "fortran_order": False, "shape": shape}
        npy_format.write_array_header_1_0(self._file, header)

    def append(self, rows: NDArray[Any]) -> None:
        """Append rows of shape (n, ...), each of the row shape."""
        if rows.shape[1:] != self.row_shape or not np.can_cast(rows.dtype, self.kind, "same_kind"):
            raise ValueError(
                f"Rows of shape {rows.shape[1:]} and type {rows.dtype} do not fit a file of rows "
                f"{self.row_shape} of type {self.kind}."
            )
        self._file.write(np.ascontiguousarray(rows, dtype=self.kind).data)
        self.rows += len(rows)

    def append_zeros(self, count: int) -> None:
        """Append rows of zeros as a hole, which takes no space where the file system knows holes."""
        self.rows += count
        size = self.kind.itemsize * count * int(np.prod(self.row_shape, dtype=int))
        self._file.seek(size, os.SEEK_CUR)
        self._file.truncate()

    def close(self) -> None:
        """Write the final shape and close the file."""
        self._file.seek(0)
        self._write_header()
        if self._file.tell() != self._data_start:
            raise RuntimeError("The header of the array file changed its size.")
        self._file.close()
