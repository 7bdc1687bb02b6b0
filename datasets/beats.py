"""Find the beats of a recording: S1 to S1 from annotated heart states, or R to R from the ECG."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat, whosmat

from datasets.array_files import check_types
from datasets.signals import Floats, bandpass, resample
from datasets.sources import DataError

_R_PEAK_RATE = 250.0
"""Rate at which R-peaks are sought, hertz; the detector finds none at 2000 Hz."""
_R_PEAK_BAND = (5.0, 40.0)
"""Band of the QRS complex, hertz."""
_ARTEFACT = 4.0
"""Values beyond so many times the usual peak of two seconds are cut off: one settling electrode at the
start of a recording would otherwise set the detector's threshold above every QRS complex."""
_DETECTOR = {"ref_period": 0.3, "t_inspect_period": 0.6}
"""Longer than wfdb's defaults, so that tall T waves (as in training-a) are not taken for beats, seconds."""
PLAUSIBLE_CYCLE = (0.3, 2.5)
"""Shortest and longest R-to-R interval taken for one beat, seconds."""


def annotated_spans(states: HeartStates, duration: float) -> NDArray[np.float64]:
    """Return the spans from each S1 to the next that hold no noise mark and end within the recording.

    Returns
    -------
    numpy.ndarray, shape (beats, 2)
        Start and end in seconds.
    """
    rows = np.array(list(complete_cycles(states)), dtype=int).reshape(-1, 2)
    spans = states.time[rows]
    return spans[(spans[:, 1] <= duration) & (spans[:, 1] > spans[:, 0])]


def r_peaks(ecg: Floats, sampling_rate: float) -> NDArray[np.float64]:
    """Return the times of R-peaks, seconds, found by wfdb's XQRS on the ECG (NaN-free), shape (peaks,)."""
    from wfdb.processing import XQRS  # takes half a second, and annotated recordings need none of it

    slow = resample(ecg, sampling_rate, _R_PEAK_RATE)
    slow = _without_artefacts(bandpass(slow, _R_PEAK_RATE, _R_PEAK_BAND))
    detector = XQRS(sig=slow, fs=_R_PEAK_RATE, conf=XQRS.Conf(**_DETECTOR))
    detector.detect(verbose=False)
    near = np.asarray(detector.qrs_inds, dtype=int)
    reach = int(0.05 * _R_PEAK_RATE)
    refined = []
    for peak in near:
        start = max(peak - reach, 0)
        refined.append(start + int(np.argmax(np.abs(slow[start : peak + reach + 1]))))
    return np.unique(refined) / _R_PEAK_RATE


def _without_artefacts(ecg: Floats) -> Floats:
    """Return the filtered ECG with what towers over its usual peaks cut off, shape (n,)."""
    stretches = np.array_split(np.abs(ecg), max(1, int(len(ecg) / (2 * _R_PEAK_RATE))))
    limit = _ARTEFACT * np.median([np.percentile(stretch, 98) for stretch in stretches])
    return np.clip(ecg, -limit, limit)


def r_peak_spans(ecg: Floats, sampling_rate: float) -> NDArray[np.float64]:
    """Return spans from each R-peak to the next, without intervals no heart would have, shape (beats, 2)."""
    peaks = r_peaks(ecg, sampling_rate)
    spans = np.stack([peaks[:-1], peaks[1:]], axis=1) if len(peaks) > 1 else np.zeros((0, 2))
    interval = spans[:, 1] - spans[:, 0]
    return spans[(interval >= PLAUSIBLE_CYCLE[0]) & (interval <= PLAUSIBLE_CYCLE[1])]


def groups_of_beats(spans: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return spans of ``count`` beats that follow one another without a gap, no beat in two of them.

    Parameters
    ----------
    spans : numpy.ndarray, shape (beats, 2)
        Start and end of single beats in seconds, in order.
    count : int

    Returns
    -------
    numpy.ndarray, shape (n, 2)
    """
    grouped, first = [], 0
    while first + count <= len(spans):
        gaps = np.flatnonzero(spans[first + 1 : first + count, 0] != spans[first : first + count - 1, 1])
        if len(gaps):
            first += int(gaps[-1]) + 1
        else:
            grouped.append((spans[first, 0], spans[first + count - 1, 1]))
            first += count
    return np.array(grouped, dtype=np.float64).reshape(-1, 2)


def sliding_windows(duration: float, seconds: float, step: float) -> NDArray[np.float64]:
    """Return the whole windows of so many seconds, one every ``step`` seconds, shape (windows, 2)."""
    count = int((duration - seconds) / step + 1e-9) + 1 if duration >= seconds else 0
    starts = step * np.arange(count)
    return np.stack([starts, starts + seconds], axis=1)


STATES = ("S1", "systole", "S2", "diastole", "(N", "N)")
NOISE_MARKS = ("(N", "N)")
_BORNE_GAP = 0.01
"""Seconds between two spans of a table that are no gap in its annotation."""
LONGEST_TABLE = 1_000_000
"""Onsets in one file beyond which its declared size is not trusted, nor allocated."""


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
        A ``_StateAns.mat`` file: one n x 2 cell array, first sample (counted from 1) and state name. Or the
        ``.tsv`` of CirCor: start and end in seconds; 0 (not annotated), 1 S1, 2 systole, 3 S2, 4 diastole.
    sampling_rate : float
        Rate at which the file counts samples, hertz.

    Raises
    ------
    DataError
        If the file cannot be read, a state is unknown, or the onsets do not increase.
    """
    if path.suffix.lower() == ".tsv":
        return _read_spans(path)
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


def _read_spans(path: Path) -> HeartStates:
    """Read a table of spans; what is not annotated counts as noise, and so does time between spans."""
    try:
        if not path.stat().st_size:
            raise ValueError("it is empty")
        start, end, state = np.loadtxt(path, ndmin=2, encoding="utf-8-sig", unpack=True)
    except (ValueError, OSError) as error:
        raise DataError(f"The annotation file {path.name} cannot be read: {error}") from error
    if not np.isin(state, range(5)).all():
        raise DataError(f"{path.name} names heart states that are not known: 0 to 4 are.")
    if not ((start >= 0) & (end >= start)).all() or (np.diff(start) < 0).any():
        raise DataError(f"{path.name} holds spans that are negative or not in order.")
    onsets: list[tuple[float, str]] = []
    last = 0.0
    for first, until, number in zip(start, end, state.astype(int), strict=True):
        if first - last > _BORNE_GAP and onsets:
            onsets += [(last, NOISE_MARKS[0]), (first, NOISE_MARKS[1])]
        onsets += (
            [(first, STATES[number - 1])] if number else [(first, NOISE_MARKS[0]), (until, NOISE_MARKS[1])]
        )
        last = until
    return HeartStates(np.array([time for time, _ in onsets]), np.array([name for _, name in onsets]))


def _cells(path: Path) -> NDArray[np.object_]:
    """Return the n x 2 cell array of the file, under whatever variable name it stands."""
    if not path.is_file():
        raise DataError(f"The annotation file {path.name} does not exist.")
    try:
        check_types(path)
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
