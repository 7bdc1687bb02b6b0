"""Read one signal from a file that is no WFDB record: a .wav sound, an array (.npy), a column (.csv)."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import wavfile

from datasets.recordings import Signal
from datasets.signal_quality import SignalWarning
from datasets.signals import MINIMUM_DURATION
from datasets.sources import DataError

SAMPLES = (".npy", ".csv", ".txt")
"""Endings of files of samples without a rate."""


def read_samples(path: Path) -> NDArray[np.float64]:
    """Return the samples of an array file, or of a table of one column."""
    return _read_npy(path) if path.suffix.lower() == ".npy" else _read_column(path)


def read_wav(path: Path) -> tuple[Signal, list[SignalWarning]]:
    """Read a heart sound as a share of full scale; of several channels the first.

    Raises
    ------
    DataError
        If the file is no .wav that can be read, or nothing usable is in it.
    """
    try:
        with catch_warnings():
            simplefilter("ignore", wavfile.WavFileWarning)  # chunks of text, a length left open
            rate, stored = wavfile.read(path)
    except Exception as error:  # scipy raises many kinds for a damaged file
        reason = str(error) or type(error).__name__
        raise DataError(f"{path.name} cannot be read as a .wav file: {reason}") from error
    warnings = []
    if stored.ndim > 1:
        text = f"{path.name} has {stored.shape[1]} channels; the first one is taken for the heart sound."
        warnings.append(SignalWarning("channels", "pcg", text))
        stored = stored[:, 0]
    samples, lowest, highest = _share_of_full_scale(stored)
    saturated = float(((stored <= lowest) | (stored >= highest)).mean()) if len(stored) else 0.0
    return make_signal(samples, float(rate), path.name, saturated), warnings


def _share_of_full_scale(stored: NDArray[Any]) -> tuple[NDArray[np.float64], float, float]:
    """Return the samples of a .wav as a share of full scale, and the lowest and highest value stored."""
    if stored.dtype.kind == "f":
        limit = 1.0 if np.abs(stored[np.isfinite(stored)]).max(initial=0) <= 1 else np.inf
        return stored.astype(np.float64), -limit, limit
    bits = 8 * stored.dtype.itemsize
    if stored.dtype.kind == "u":  # 8 bits and fewer are stored without a sign
        return (stored.astype(np.float64) - 2 ** (bits - 1)) / 2 ** (bits - 1), 0.0, 2.0**bits - 1
    whole = 2.0 ** (bits - 1)
    # 24 bits arrive in the upper part of 32: the lowest byte of their highest value is empty
    return stored / whole, -whole, whole - (256.0 if bits == 32 else 1.0)


def _read_npy(path: Path) -> NDArray[np.float64]:
    """Read one row of numbers from an array file; nothing that could hold code is read."""
    try:
        values = np.load(path, allow_pickle=False)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
            raise ValueError("it holds no array of numbers")
    except Exception as error:  # numpy raises many kinds for a damaged file
        raise DataError(f"{path.name} cannot be read: {error}.") from error
    if values.squeeze().ndim != 1:
        raise DataError(f"{path.name} holds an array of shape {values.shape}; one row of samples is needed.")
    return values.squeeze().astype(np.float64)


def _read_column(path: Path) -> NDArray[np.float64]:
    """Read one column of numbers, with or without a name above it; empty cells are gaps."""
    try:
        cells = pd.read_csv(path, header=None, dtype=str, encoding="utf-8-sig", skip_blank_lines=False)
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


def make_signal(
    samples: NDArray[np.float64], sampling_rate: float, name: str, saturated: float = 0.0
) -> Signal:
    """Return samples as a signal; what is not finite counts as missing.

    Raises
    ------
    DataError
        If they are too few, all missing or constant, or the rate is no number above zero.
    """
    if not sampling_rate > 0:
        raise DataError(f"{name} states a sampling rate of {sampling_rate:g} Hz.")
    if len(samples) < MINIMUM_DURATION * sampling_rate:
        raise DataError(
            f"{name} lasts {len(samples) / sampling_rate:.2f} s; at least {MINIMUM_DURATION:g} s are needed."
        )
    present = np.isfinite(samples)
    if not present.any():
        raise DataError(f"{name} holds no sample.")
    if np.ptp(samples[present]) == 0:
        raise DataError(f"{name} is constant: nothing was recorded.")
    clean = np.where(present, samples, np.nan).astype(np.float32)
    return Signal(clean, sampling_rate, saturated=saturated, missing=float((~present).mean()))
