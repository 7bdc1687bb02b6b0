"""Heart-state onsets (S1, systole, S2, diastole) from the `.mat` files of PhysioNet/CinC 2016."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat, whosmat

from datasets.sources import DataError

STATES = ("S1", "systole", "S2", "diastole", "(N", "N)")
NOISE_MARKS = ("(N", "N)")
LONGEST_TABLE = 1_000_000
"""Onsets in one file beyond which its declared size is not believed, nor allocated."""


@dataclass(frozen=True)
class HeartStates:
    """Onsets of heart states in one recording.

    Attributes
    ----------
    time : numpy.ndarray, shape (n,)
        Onsets in seconds from the start of the recording, increasing.
    state : numpy.ndarray of str, shape (n,)
        One of `STATES`; ``(N`` and ``N)`` open and close a noisy span.
    """

    time: NDArray[np.float64]
    state: NDArray[np.str_]


def read_heart_states(path: Path, sampling_rate: float) -> HeartStates:
    """Read the onsets that belong to one recording.

    Parameters
    ----------
    path : pathlib.Path
        A ``_StateAns.mat`` file: one n x 2 cell array, first sample (counted from 1) and state name.
    sampling_rate : float
        Rate at which the file counts samples, hertz.

    Raises
    ------
    DataError
        If the file cannot be read, a state is unknown, or the onsets do not increase.
    """
    table = _cells(path)
    samples = np.array([_plain(cell) for cell in table[:, 0]], dtype=object)
    names = [str(_plain(cell)).strip() for cell in table[:, 1]]
    unknown = sorted(set(names) - set(STATES))
    if unknown:
        words = ", ".join(name[:40] for name in unknown)
        raise DataError(f"{path.name} names heart states that are not known: {words}.")
    try:
        if any(isinstance(value, complex) for value in samples):
            raise TypeError
        first = samples.astype(np.float64) - 1
    except (TypeError, ValueError):
        raise DataError(f"{path.name} holds an onset that is not a number.") from None
    if not np.isfinite(first).all() or (first < 0).any():
        raise DataError(f"{path.name} holds a negative or missing onset.")
    if (np.diff(first) < 0).any():
        raise DataError(f"{path.name} holds onsets that are not in order.")
    return HeartStates(time=first / sampling_rate, state=np.array(names))


def _cells(path: Path) -> NDArray[np.object_]:
    """Return the n x 2 cell array of the file, under whatever variable name it stands."""
    if not path.is_file():
        raise DataError(f"The annotation file {path.name} does not exist.")
    try:
        for name, shape, kind in whosmat(path, appendmat=False):
            if kind == "cell" and len(shape) == 2 and shape[1] == 2 and shape[0] <= LONGEST_TABLE:
                return np.asarray(loadmat(path, appendmat=False, variable_names=[name])[name], dtype=object)
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise DataError(f"The annotation file {path.name} cannot be read: {error}") from error
    raise DataError(f"{path.name} holds no table of two columns (onset and heart state).")


def _plain(cell: object) -> object:
    """Unwrap a value from arrays nested to any depth."""
    while isinstance(cell, np.ndarray):
        if cell.size != 1:
            return None
        cell = cell.reshape(-1)[0]
    return cell


def complete_cycles(states: HeartStates) -> Iterator[tuple[int, int]]:
    """Yield (row of an S1, row of the next S1) for cycles without a noise mark between them.

    A state that occurs twice in a cycle tells that an S1 is missing in it: that is no cycle.
    """
    onsets = np.flatnonzero(states.state == "S1")
    noisy = np.isin(states.state, NOISE_MARKS)
    for first, following in itertools.pairwise(onsets):
        within = states.state[first:following]
        if not noisy[first:following].any() and len(set(within)) == len(within):
            yield int(first), int(following)
