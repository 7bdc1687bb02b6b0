"""Array files, which state neither a rate nor a unit: NumPy (.npy) and MATLAB (.mat)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.sources import DataError

ARRAYS = (".npy", ".mat")
"""Endings of array files."""
_COMPRESSED, _MATRIX = 15, 14
_TYPES = range(1, 19)
_LARGEST_CONTENT = 2**28
"""Bytes of a compressed part of a .mat beyond which it is not unpacked."""
_LONGEST = 10**9
"""Numbers in one array beyond which its declared size is not trusted, nor allocated."""


def read_array(path: Path) -> NDArray[Any]:
    """Read an array of numbers; nothing that could hold code is read.

    Raises
    ------
    DataError
        If there is none, or a .mat holds several.
    """
    try:
        values = _mat(path) if path.suffix.lower() == ".mat" else np.load(path, allow_pickle=False)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
            raise ValueError("it holds no array of numbers")
    except Exception as error:  # numpy and scipy raise many kinds for a damaged file
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise DataError(f"{path.name} cannot be read: {reason}.") from error
    return values


def _mat(path: Path) -> NDArray[Any]:
    """Return the one array with more than one number of a MATLAB file up to version 7."""
    from scipy.io import loadmat, whosmat  # takes a tenth of a second

    check_types(path)
    try:
        found = whosmat(path, appendmat=False)
    except NotImplementedError:
        raise ValueError("it is of MATLAB version 7.3: save it with -v7") from None
    arrays = {name: shape for name, shape, _ in found if 1 < np.prod(shape, dtype=float) <= _LONGEST}
    if len(arrays) != 1:
        raise ValueError(
            f"it holds {', '.join(name for name, _, _ in found) or 'nothing'}, and one array is needed"
        )
    (name,) = arrays
    return np.asarray(loadmat(path, appendmat=False, variable_names=[name])[name])


def check_types(path: Path) -> None:
    """Refuse a .mat of version 5 to 7 with a type of data that does not exist: SciPy would end the program.

    Raises
    ------
    ValueError
    """
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order and content[124:126] != (b"\0\2" if order == "<" else b"\2\0"):  # 7.3 is another format
        _check_elements(content, 128, len(content), struct.Struct(f"{order}II").unpack_from)


def _check_elements(content: bytes, at: int, end: int, unpack: Callable[..., tuple[int, ...]]) -> None:
    """Check the types of elements in a row, and of those within them ("MAT-File Format", level 5)."""
    while at + 8 <= end:
        kind, size = unpack(content, at)
        begin = at + 8
        if kind > 0xFFFF:  # a short element, within its own tag
            kind, size, begin = kind & 0xFFFF, 0, at + 8 * (kind >> 16 <= 4)
        if kind not in _TYPES or begin + size > end or begin == at:
            raise ValueError("it is damaged")
        if kind == _COMPRESSED:
            inner = zlib.decompressobj().decompress(content[begin : begin + size], _LARGEST_CONTENT)
            _check_elements(inner, 0, len(inner), unpack)
        elif kind == _MATRIX and size:
            _check_elements(content, begin, begin + size, unpack)
        at = begin + size + (0 if kind == _COMPRESSED else -size % 8)
