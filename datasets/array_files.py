"""Array files, which state neither a rate nor a unit: NumPy (.npy) and MATLAB (.mat)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.sources import DataError

ARRAYS = (".npy", ".mat")
"""Endings of array files."""
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
        reason = str(error).rstrip(".") or type(error).__name__
        raise DataError(f"{path.name} cannot be read: {reason}.") from error
    return values


def _mat(path: Path) -> NDArray[Any]:
    """Return the one array with more than one number of a MATLAB file up to version 7."""
    from scipy.io import loadmat, whosmat  # takes a tenth of a second

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
