"""How alike the beats of a signal are: what repeats with every beat is a heart, what does not is noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import signal as scipy_signal

from datasets.recordings import Signal
from datasets.signals import Floats, bandpass, fill_gaps, resample

BAND = {"ecg": (0.7, 40.0), "pcg": (20.0, 400.0)}
"""Where a heart is heard or seen, hertz; all below it counts neither as heart nor as noise."""
AGREEMENT_RATE = {"ecg": 250.0, "pcg": 200.0}
FEWEST_BEATS = 3


def loudness(pcg: Signal) -> Floats:
    """Return the envelope of a heart sound at 200 Hz: 25-400 Hz, squared, below 20 Hz, root."""
    rate = min(1000.0, pcg.sampling_rate)
    slow = resample(fill_gaps(pcg.samples.astype(np.float64)), pcg.sampling_rate, rate)
    energy = bandpass(slow, rate, (25.0, 400.0)) ** 2
    smooth = scipy_signal.sosfiltfilt(scipy_signal.butter(2, 20.0, fs=rate, output="sos"), energy)
    return resample(np.sqrt(np.maximum(smooth, 0)), rate, AGREEMENT_RATE["pcg"])


def agreement(signal: Signal, kind: str, starts: Floats) -> float:
    """Return how alike the beats of a signal are: 1 all the same, about 0 noise, NaN for too few beats.

    The median over the beats of the correlation between a beat and the mean of all others, over four fifths
    of the median beat; of a heart sound, between their envelopes.

    Parameters
    ----------
    signal : Signal
    kind : {"ecg", "pcg"}
    starts : numpy.ndarray, shape (beats,)
        R-peaks, or S1 onsets, seconds.
    """
    if len(starts) < FEWEST_BEATS:
        return float("nan")
    rate = AGREEMENT_RATE[kind]
    if kind == "pcg":
        shape = loudness(signal)
    else:
        slow = resample(fill_gaps(signal.samples.astype(np.float64)), signal.sampling_rate, rate)
        shape = bandpass(slow, rate, BAND["ecg"])
    cycle = float(np.median(np.diff(starts)))
    return likeness(windows(shape, rate, starts, (-0.2 * cycle, 0.6 * cycle)))


def windows(shape: Floats, rate: float, places: Floats, reach: tuple[float, float]) -> NDArray[np.float64]:
    """Return what lies around each place, from ``reach[0]`` to ``reach[1]`` seconds, (complete ones, n)."""
    offsets = np.arange(round(reach[0] * rate), round(reach[1] * rate))
    rows = np.round(np.asarray(places) * rate).astype(int)[:, None] + offsets
    complete = (rows[:, :1] >= 0).all(axis=1) & (rows[:, -1:] < len(shape)).all(axis=1)
    return np.asarray(shape[rows[complete]], dtype=np.float64)


def likeness(beats: NDArray[np.float64]) -> float:
    """Return the median correlation of a beat with the mean of all others; NaN for fewer than three."""
    if len(beats) < FEWEST_BEATS:
        return float("nan")
    centred = beats - beats.mean(axis=1, keepdims=True)
    scale = centred.std(axis=1, keepdims=True)
    standard = centred / np.where(scale > 0, scale, 1.0)
    others = (standard.sum(axis=0) - standard) / (len(beats) - 1)
    deviation = others.std(axis=1)
    shared = (standard * others).mean(axis=1)
    correlation = np.divide(shared, deviation, out=np.zeros_like(shared), where=deviation > 0)
    return float(np.median(correlation))
