"""Steps on one signal: saturation and gaps, filters, standardization, resampling. Arrays in, arrays out."""

from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np
import scipy  # whose parts are read from disk at their first use; not every preparation needs all of them
from numpy.typing import NDArray

from datasets.sources import DataError

Floats = NDArray[np.floating]

_SHORT_SATURATION = 0.005
"""Longest run of the lowest code, seconds, that is taken for saturation whatever surrounds it."""
_NEAR_RAIL = 0.75
"""Share of the negative range from which a neighbour counts as near the rail."""
_SHORTEST_SPLINE = 4
"""Samples from which a cubic spline takes its usual form."""
_POINTS_AT_ONCE = 8192
"""Points of beats that are cut together: few enough that what is computed on the way stays near the core."""


def separate_saturation_from_gaps(
    digital: NDArray[np.integer], invalid: int, sampling_rate: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell the two meanings of the lowest code apart: negative saturation, and a missing sample.

    WFDB reserves the lowest code of a format for missing samples; a converter that saturates writes the
    same code. A run of it is saturation when it is short, or when a neighbour lies near the rail.

    Parameters
    ----------
    digital : numpy.ndarray of int, shape (n,)
        Samples as stored.
    invalid : int
        The code reserved for missing samples, the lowest of the format.
    sampling_rate : float
        Hertz.

    Returns
    -------
    saturated, missing : numpy.ndarray of bool, shape (n,)
    """
    lowest = digital == invalid
    saturated = np.zeros(len(digital), dtype=bool)
    if not lowest.any():
        return saturated, lowest
    edges = np.flatnonzero(np.diff(np.concatenate(([0], lowest.astype(np.int8), [0]))))
    for start, stop in edges.reshape(-1, 2):
        around = digital[max(start - 1, 0) : stop + 1]
        near_rail = (around[around != invalid] < _NEAR_RAIL * invalid).any()
        if near_rail or stop - start <= _SHORT_SATURATION * sampling_rate:
            saturated[start:stop] = True
    return saturated, lowest & ~saturated


def fill_gaps(signal: Floats) -> Floats:
    """Return the signal with NaN replaced by linear interpolation between its neighbours, shape (n,)."""
    missing = np.isnan(signal)
    if not missing.any():
        return signal
    filled = signal.copy()
    where = np.arange(len(signal))
    filled[missing] = np.interp(where[missing], where[~missing], signal[~missing])
    return filled


def bandpass(signal: Floats, sampling_rate: float, band: tuple[float, float], order: int = 2) -> Floats:
    """Return the signal after a zero-phase Butterworth band-pass.

    Parameters
    ----------
    signal : numpy.ndarray, shape (..., n)
    sampling_rate : float
        Hertz.
    band : tuple of float
        Edges in hertz. An upper edge at or above half the sampling rate leaves a high-pass.

    Raises
    ------
    ValueError
        If the band is empty, not positive, or wholly above half the sampling rate.
    """
    low, high = band
    nyquist = sampling_rate / 2
    if not 0 < low < high or low >= nyquist:
        raise ValueError(f"Band {low}-{high} Hz does not fit a sampling rate of {sampling_rate} Hz.")
    kind, edges = ("bandpass", [low, high]) if high < nyquist else ("highpass", low)
    sections = scipy.signal.butter(order, edges, btype=kind, fs=sampling_rate, output="sos")
    return scipy.signal.sosfiltfilt(sections, signal, axis=-1)


def standardize(signal: Floats) -> Floats:
    """Return the signal with mean 0 and standard deviation 1; a flat signal becomes all zeros."""
    centred = signal - signal.mean()
    deviation = centred.std()
    if deviation <= 1e-8 * max(1.0, float(np.abs(signal).max())):
        return np.zeros_like(centred)
    return centred / deviation


def resample(signal: Floats, sampling_rate: float, target_rate: float) -> Floats:
    """Return the signal at another rate, anti-aliased (polyphase), shape (..., round(n * ratio))."""
    if sampling_rate == target_rate:
        return signal
    ratio = Fraction(target_rate / sampling_rate).limit_denominator(1000)
    return scipy.signal.resample_poly(signal, ratio.numerator, ratio.denominator, axis=-1, padtype="line")


def cut_beats(signal: Floats, sampling_rate: float, spans: Floats, points: int) -> NDArray[np.float32]:
    """Cut spans out of a signal and normalize each to the same number of points with a cubic spline.

    Parameters
    ----------
    signal : numpy.ndarray, shape (n,)
    sampling_rate : float
        Hertz.
    spans : numpy.ndarray, shape (beats, 2)
        Start and end of each beat, seconds; the end is not part of the beat.
    points : int
        Points of a normalized beat.

    Returns
    -------
    numpy.ndarray of float32, shape (beats, points)
    """
    samples: NDArray[np.float64] = np.asarray(signal, dtype=np.float64)
    starts, ends = spans[:, :1] * sampling_rate, spans[:, 1:] * sampling_rate
    phase = np.arange(points) / points
    if len(samples) < _SHORTEST_SPLINE:
        return scipy.interpolate.CubicSpline(np.arange(len(samples)), samples)(
            starts + (ends - starts) * phase
        ).astype(np.float32)
    slopes = _spline_slopes(samples)
    beats = np.empty((len(spans), points), dtype=np.float32)
    together = max(1, _POINTS_AT_ONCE // points)
    for first in range(0, len(spans), together):
        rows = slice(first, first + together)
        beats[rows] = _on_spline(samples, slopes, starts[rows] + (ends[rows] - starts[rows]) * phase)
    return beats


def _spline_slopes(signal: Floats) -> NDArray[np.float64]:
    """Return the slope of the not-a-knot cubic spline at each sample of a signal, one sample apart.

    The third derivative is continuous at the second sample and at the last but one; between them the slopes
    ``m`` obey ``m[i-1] + 4 m[i] + m[i+1] = 3 (y[i+1] - y[i-1])`` (de Boor, A Practical Guide to Splines,
    1978, chapter IV), which is symmetric once both ends are eliminated. `scipy.interpolate.CubicSpline` finds
    the same for samples any distance apart, at four times the cost.

    Parameters
    ----------
    signal : numpy.ndarray, shape (n,)
        Four samples or more.

    Raises
    ------
    ValueError
        If the signal is not finite.
    """
    steps = np.diff(signal)
    first, last = (5 * steps[0] + steps[1]) / 2, (steps[-2] + 5 * steps[-1]) / 2
    right = 3 * (steps[:-1] + steps[1:])
    right[0] -= first
    right[-1] -= last
    inner, _ = scipy.linalg.lapack.dpttrs(*_spline_factors(len(right)), right, overwrite_b=True)
    slopes = np.concatenate(([first - 2 * inner[0]], inner, [last - 2 * inner[-1]]))
    if not np.isfinite(slopes).all():
        raise ValueError("A spline needs samples that are finite.")
    return slopes


@functools.lru_cache(maxsize=2)
def _spline_factors(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the factors of the system of that many inner slopes; both signals of a recording share them."""
    diagonal = np.full(count, 4.0)
    diagonal[0] = diagonal[-1] = 2.0
    factors = scipy.linalg.lapack.dpttrf(diagonal, np.ones(count - 1))
    return factors[0], factors[1]


def _on_spline(
    signal: NDArray[np.float64], slopes: NDArray[np.float64], at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the spline at some places, in samples; beyond an end the outermost cubic goes on."""
    sample = np.clip(np.floor(at).astype(np.intp), 0, len(signal) - 2)
    low, high = sample.min(), sample.max() + 2
    step, slope = np.diff(signal[low:high]), slopes[low:high]
    cubic = slope[:-1] + slope[1:] - 2 * step
    square = step - slope[:-1] - cubic
    past = at - sample
    sample -= low
    value, power = signal[low:high][sample], past
    for coefficients in (slope, square, cubic):
        value += coefficients[sample] * power
        power = power * past
    return value


def shorten_beats(beats: NDArray[np.float32], points: int, chunk: int = 4096) -> NDArray[np.float32]:
    """Return beats with fewer points, anti-aliased; a preset is such a view of the cache.

    Parameters
    ----------
    beats : numpy.ndarray of float32, shape (beats, cached points)
    points : int
        Points requested; must divide the cached number.

    Returns
    -------
    numpy.ndarray of float32, shape (beats, points)
    """
    cached = beats.shape[1]
    if points == cached:
        return np.asarray(beats)
    if points <= 0 or cached % points:
        raise DataError(
            f"Beats of {points} points cannot be made from cached beats of {cached}: "
            f"choose --points that divides {cached}, or prepare a cache with --beat-points {points}."
        )
    short = np.empty((len(beats), points), dtype=np.float32)
    for start in range(0, len(beats), chunk):
        part = np.asarray(beats[start : start + chunk])
        short[start : start + chunk] = scipy.signal.resample_poly(
            part, 1, cached // points, axis=1, padtype="line"
        )
    return short


MINIMUM_DURATION = 1.0
"""Shortest recording that is read, seconds."""
