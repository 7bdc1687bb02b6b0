"""Read one signal from a file without a rate: an array (.npy, .mat), a column (.csv)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datasets.array_files import ARRAYS, read_array
from datasets.sources import DataError

SAMPLES = (*ARRAYS, ".csv", ".txt")
"""Endings of files of samples without a rate."""


def read_samples(path: Path) -> NDArray[np.float64]:
    """Return the samples of an array file, or of a table of one column."""
    return _read_row(path) if path.suffix.lower() in ARRAYS else _read_column(path)


def _read_row(path: Path) -> NDArray[np.float64]:
    """Read one row of numbers from an array file."""
    values = read_array(path)
    if values.squeeze().ndim != 1:
        raise DataError(f"{path.name} holds an array of shape {values.shape}; one row of samples is needed.")
    return values.squeeze().astype(np.float64)


def _read_column(path: Path) -> NDArray[np.float64]:
    """Read one column of numbers, with or without a name above it; empty cells are gaps."""
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\r\n", "\n")  # ends of lines, ended twice
        cells = pd.read_csv(io.StringIO(text), header=None, dtype=str, skip_blank_lines=False)
    except (ValueError, OSError) as error:  # pandas' errors of parsing and of decoding are ValueErrors
        raise DataError(f"{path.name} cannot be read as a table: {error}") from error
    if cells.shape[1] != 1:
        raise DataError(f"{path.name} has {cells.shape[1]} columns; keep one, that of the ECG.")
    column = cells[0].str.strip()
    numbers = pd.to_numeric(column, errors="coerce")
    strange = np.flatnonzero(numbers.isna() & column.notna() & (column != "") & (column.str.lower() != "nan"))
    if len(strange) and strange[0] == 0:
        numbers, strange = numbers.iloc[1:], strange[1:]
    if len(strange):
        raise DataError(f"{path.name}, line {strange[0] + 1}: {column[strange[0]]!r} is no number.")
    return numbers.to_numpy(dtype=np.float64)
