"""Spectral features of one recording: a phase-normalized time-frequency grid, and ECG band powers.

The grid asks how loud each band of the heart sound is in each part of the cardiac cycle. S1, systole, S2 and
diastole of every complete beat are cut into 3, 6, 3 and 10 equal parts, so a cell means the same in a fast
and in a slow heart; percentiles over the beats tell what is there in all of them (the lowest) from what
passes.

Grid     band-pass 20-950 Hz, spikes removed, unit variance; Hann 256, hop 16 at 2000 Hz; mean power in 34
         bands and 22 cells; log10; 10th, 50th, 75th percentile over beats: 3 x 22 x 34 = 2244 features
ECG      band-pass 0.7-90 Hz, unit variance; Welch, 2 s; log10 of the mean power in 13 bands
"""

from __future__ import annotations

import numpy as np
import scipy  # whose parts are read from disk at their first use
from numpy.typing import NDArray

from datasets.beats import HeartStates, complete_cycles
from datasets.signals import Floats, bandpass, fill_gaps, resample

RATE = 2000.0
"""Rate to which signals are brought first, hertz."""
PCG_BAND = (20.0, 950.0)
"""Pass band of the heart sound, hertz."""
FRAME, HOP = 256, 16
"""Length of a frame of the spectrogram and step between frames, samples."""
BAND_EDGES = (*range(3, 20), 20, 22, 24, 26, 28, 31, 34, 38, 42, 47, 52, 58, 64, 72, 82, 96, 112, 122)
"""Edges of the bands in bins of 7.8125 Hz; the upper edge is outside."""
STATE_PARTS = {"S1": 3, "systole": 6, "S2": 3, "diastole": 10}
"""Equal parts into which each heart state is cut."""
PERCENTILES = (10, 50, 75)
"""Percentiles over the beats."""
BANDS, CELLS = len(BAND_EDGES) - 1, sum(STATE_PARTS.values())
GRID_SHAPE = (len(PERCENTILES), CELLS, BANDS)
"""What a row of `PhaseGrid.pcg` is when reshaped: percentile, cell, band."""
ECG_BAND = (0.7, 90.0)
"""Pass band of the ECG, hertz."""
ECG_EDGES = (0.7, 2.0, 4.0, 6.0, 10.0, 15.0, 20.0, 30.0, 40.0, 48.0, 52.0, 58.0, 62.0, 90.0)
"""Edges of the bands of the ECG, hertz; the upper edge is outside."""
ECG_BANDS = len(ECG_EDGES) - 1
_WELCH_SECONDS = 2.0
_SPIKE_WINDOW, _SPIKE_RATIO = 0.5, 3.0
"""Windows in which spikes are sought, seconds; peak over the median peak of all windows that makes one."""
QUIET = 1e-12
"""Power below which all is silence, so that its logarithm exists; the signal's variance is 1."""
FLAT = 1e-8
"""Standard deviation after the filter, as a share of the highest value before, below which nothing varies."""
_CHUNK = 16384
"""Frames transformed at a time, which bounds the memory of a long recording."""


def pcg_grid(pcg: Floats, sampling_rate: float, states: HeartStates) -> NDArray[np.float64]:
    """Return the phase-normalized time-frequency grid of one heart sound.

    Parameters
    ----------
    pcg : numpy.ndarray, shape (n,)
        Gaps may be NaN; the unit does not matter.
    sampling_rate : float
        Hertz.
    states : HeartStates

    Returns
    -------
    numpy.ndarray, shape (2244,)
        All NaN without a signal or without a complete beat.
    """
    edges = cell_edges(states, len(pcg) / sampling_rate) if len(pcg) else np.zeros((0, CELLS + 1))
    ready = _conditioned(pcg, sampling_rate, PCG_BAND, spikes=True) if len(edges) else None
    if ready is None:
        return np.full(np.prod(GRID_SHAPE), np.nan)
    power = np.log10(np.maximum(cell_means(_band_powers(ready), edges, RATE / HOP), QUIET))
    return np.percentile(power, PERCENTILES, axis=0).ravel()


def ecg_band_powers(ecg: Floats, sampling_rate: float) -> NDArray[np.float64]:
    """Return log10 of the mean power of an ECG of unit variance in the bands of `ECG_EDGES`.

    Parameters
    ----------
    ecg : numpy.ndarray, shape (n,)
        Gaps may be NaN; the unit does not matter.
    sampling_rate : float
        Hertz.

    Returns
    -------
    numpy.ndarray, shape (13,)
        All NaN without a signal of at least two seconds.
    """
    long_enough = len(ecg) > 0 and len(ecg) >= _WELCH_SECONDS * sampling_rate
    ready = _conditioned(ecg, sampling_rate, ECG_BAND) if long_enough else None
    if ready is None:
        return np.full(ECG_BANDS, np.nan)
    length = min(len(ready), round(_WELCH_SECONDS * RATE))
    frequency, density = scipy.signal.welch(ready, RATE, nperseg=length)
    first = np.searchsorted(frequency, ECG_EDGES)
    totals = np.add.reduceat(density[: first[-1]], first[:-1])
    return np.log10(np.maximum(totals / np.diff(first), QUIET))


def _conditioned(
    signal: Floats, sampling_rate: float, band: tuple[float, float], *, spikes: bool = False
) -> NDArray[np.float64] | None:
    """Return a signal at 2000 Hz, filtered, with variance 1; None if nothing varies in it."""
    if not np.isfinite(signal).any():
        return None
    filled = resample(fill_gaps(signal.astype(np.float64)), sampling_rate, RATE)
    filtered = bandpass(filled, RATE, band)
    if filtered.std() <= FLAT * np.abs(filled).max():
        return None
    if spikes:
        filtered = remove_spikes(filtered, RATE)
    return filtered / filtered.std()


def remove_spikes(signal: Floats, sampling_rate: float) -> NDArray[np.float64]:
    """Return the signal without short, loud disturbances: friction, or a bump of the microphone.

    Schmidt et al., Physiological Measurement 31:513 (2010). In windows of half a second, while the highest
    peak of a window is over three times the median of the peaks of all windows, the swing that holds it
    is set to zero, from the zero crossing before to the one after it.

    Parameters
    ----------
    signal : numpy.ndarray, shape (n,)
        Without an offset.
    sampling_rate : float
        Hertz.
    """
    size = round(_SPIKE_WINDOW * sampling_rate)
    windows = np.pad(np.asarray(signal, dtype=np.float64), (0, -len(signal) % size)).reshape(-1, size)
    peaks = np.abs(windows).max(axis=1)
    while peaks.max() > _SPIKE_RATIO * np.median(peaks) > 0:
        loudest = int(peaks.argmax())
        window = windows[loudest]
        at = int(np.abs(window).argmax())
        other_side = np.flatnonzero(np.sign(window) != np.sign(window[at]))
        start = other_side[other_side < at].max(initial=-1) + 1
        stop = other_side[other_side > at].min(initial=size)
        window[start:stop] = 0.0
        peaks[loudest] = np.abs(window).max()
    return windows.ravel()[: len(signal)]


def _band_powers(signal: Floats) -> NDArray[np.float32]:
    """Return the mean power in each band around every sixteenth sample of a signal at 2000 Hz.

    Returns
    -------
    numpy.ndarray of float32, shape (frames, 34)
        Frame ``k`` is centred on sample 16 k.
    """
    padded = np.pad(signal.astype(np.float32), FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    taper = scipy.signal.get_window("hann", FRAME).astype(np.float32)
    power = np.empty((len(frames), BANDS), dtype=np.float32)
    for start in range(0, len(frames), _CHUNK):
        spectrum = scipy.fft.rfft(frames[start : start + _CHUNK] * taper, axis=1)[:, : BAND_EDGES[-1]]
        density = spectrum.real**2 + spectrum.imag**2
        power[start : start + _CHUNK] = np.add.reduceat(density, BAND_EDGES[:-1], axis=1)
    power /= np.diff(BAND_EDGES).astype(np.float32)
    return power


def cell_edges(states: HeartStates, duration: float) -> NDArray[np.float64]:
    """Return the edges of the cells of every complete beat: its four states, in order, without noise.

    Parameters
    ----------
    states : HeartStates
    duration : float
        Length of the recording, seconds; a beat must end within it.

    Returns
    -------
    numpy.ndarray, shape (beats, 23)
        Seconds, rising.
    """
    order = np.array(list(STATE_PARTS))
    first = np.array(
        [
            start
            for start, end in complete_cycles(states)
            if end - start == len(order) and (states.state[start:end] == order).all()
        ],
        dtype=int,
    )
    onsets = states.time[first[:, None] + np.arange(len(order) + 1)]
    onsets = onsets[(np.diff(onsets) > 0).all(axis=1) & (onsets[:, -1] <= duration)]
    parts = np.array(list(STATE_PARTS.values()))
    place = np.concatenate([state + np.arange(count) / count for state, count in enumerate(parts)])
    state, within = place.astype(int), place % 1
    starts = onsets[:, state] + within * (onsets[:, state + 1] - onsets[:, state])
    return np.concatenate([starts, onsets[:, -1:]], axis=1)


def cell_means(power: NDArray[np.floating], edges: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """Return the mean over each cell of a power that is constant around each frame's centre.

    Parameters
    ----------
    power : numpy.ndarray, shape (frames, bands)
    edges : numpy.ndarray, shape (beats, cells + 1)
        Seconds.
    rate : float
        Frames a second.

    Returns
    -------
    numpy.ndarray, shape (beats, cells, bands)
    """
    place = edges * rate + 0.5
    frame = np.minimum(place.astype(int), len(power) - 1)
    total = np.cumsum(power, axis=0, dtype=np.float64) - power
    integral = total[frame] + (place - frame)[..., None] * power[frame]
    return np.diff(integral, axis=1) / np.diff(place)[..., None]
