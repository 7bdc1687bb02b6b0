"""Twelve-lead ECGs: the leads, reading WFDB records, a fixed rate and length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import wfdb
from numpy.typing import NDArray

from datasets.signals import fill_gaps, resample
from datasets.sources import DataError
from datasets.wfdb_files import MILLIVOLTS, check_checksums, signal_files

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


PLAUSIBLE_RATE = (50.0, 20_000.0)
"""Sampling rates that are plausible, hertz."""


@dataclass(frozen=True)
class Ecg:
    """A signal as recorded.

    Attributes
    ----------
    samples : numpy.ndarray of float64, shape (leads, T)
        Millivolts; NaN where missing.
    sampling_rate : float
        Hertz.
    """

    samples: NDArray[np.float64]
    sampling_rate: float

    @property
    def duration(self) -> float:
        """Length, seconds."""
        return self.samples.shape[1] / self.sampling_rate


def prepare_signal(
    signal: NDArray[np.floating], rate: float, target_rate: float, seconds: float
) -> NDArray[np.float32]:
    """Return a signal at another rate and of fixed length, still in its own unit.

    Gaps are filled linearly, flat leads become zero, rates are reduced without aliases, the beginning is
    kept, and what is too short goes on with its last value.

    Parameters
    ----------
    signal : numpy.ndarray, shape (leads, T)
        NaN where missing.
    rate, target_rate : float
        Hertz.
    seconds : float
        Length requested.

    Returns
    -------
    numpy.ndarray of float32, shape (leads, round(seconds * target_rate))
    """
    points = round(seconds * target_rate)
    if signal.ndim != 2 or not signal.shape[1] or rate <= 0 or target_rate <= 0 or points < 1:
        raise ValueError(
            f"A signal of shape {signal.shape} at {rate} Hz cannot become {seconds} s at {target_rate} Hz."
        )
    flat = flat_leads(signal)
    ready = np.zeros((len(signal), points), dtype=np.float32)
    # what lies behind the end still belongs into the anti-alias filter of the last samples
    kept = signal[~flat, : int(np.ceil((seconds + 1) * rate))]
    if kept.shape[0]:
        filled = np.stack([fill_gaps(lead) for lead in kept.astype(np.float64)])
        resampled = resample(filled, rate, target_rate)[:, :points]
        ready[~flat] = np.pad(resampled, [(0, 0), (0, points - resampled.shape[1])], mode="edge")
    return ready


def flat_leads(signal: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Tell which leads hold nothing, or one value throughout, shape (leads,)."""
    lowest, highest = np.fmin.reduce(signal, axis=1), np.fmax.reduce(signal, axis=1)
    return ~(highest > lowest)


def read_ecg(header: Path, root: Path, leads: tuple[str, ...]) -> Ecg:
    """Read leads of a WFDB record, in the order given, whatever order and unit the file has.

    Raises
    ------
    DataError
        If a file is absent, outside ``root`` or damaged, or a lead is lacking.
    """
    signal_files(header, root)
    try:
        record = wfdb.rdrecord(str(header.with_suffix("")), physical=False, return_res=64)
        physical = record.dac(return_res=64)
    except Exception as error:  # wfdb raises many kinds for damaged files
        raise DataError(f"The recording {header.stem} cannot be read: {error}") from error
    check_checksums(record)
    numbers = {name.strip().casefold(): number for number, name in enumerate(record.sig_name)}
    lacking = [lead for lead in leads if lead.casefold() not in numbers]
    if lacking:
        named = ", ".join(record.sig_name)
        raise DataError(f"The recording {header.stem} lacks {', '.join(lacking)}; it has {named}.")
    requested = [numbers[lead.casefold()] for lead in leads]
    units = [str(record.units[number]).lower() for number in requested]
    if set(units) - set(MILLIVOLTS):
        raise DataError(f"The recording {header.stem} is not in V, mV or uV, but in {', '.join(set(units))}.")
    scale = np.array([MILLIVOLTS[unit] for unit in units])
    return Ecg((physical[:, requested] * scale).T, float(record.fs))
