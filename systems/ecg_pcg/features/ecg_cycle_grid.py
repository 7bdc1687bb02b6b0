"""Phase x frequency grid of the ECG, from R-peak to R-peak, which needs no heart sound.

The counterpart of `spectral.pcg_grid`: how much power each band of the ECG has in each of 22 equal
parts of the cycle. R-peaks are found in the ECG itself, so a recording without heart sound, or without
annotated heart states, has the same grid. Computed once for a cache and kept beside it.

Band-pass 0.5-90 Hz, unit variance; Hann window of 256 ms, hop 16 ms; power in 24 bands of 3.9 Hz from 0 to
94 Hz and 22 cells; log10; 10th, 50th, 75th percentile over the beats: 3 x 22 x 24 = 1584 features.
"""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path

import joblib
import numpy as np
import scipy  # whose parts are read from disk at their first use
from numpy.typing import NDArray
from tqdm import tqdm

from common.files import replacing
from datasets.beats import r_peak_spans
from datasets.cache import Cache
from datasets.signals import Floats, bandpass, fill_gaps, resample
from systems.ecg_pcg.features.spectral import CELLS, FLAT, PERCENTILES, QUIET, cell_means

VERSION = 1
RATE = 500.0
"""Rate to which the ECG is brought, hertz."""
BAND = (0.5, 90.0)
"""Pass band, hertz."""
FRAME, HOP = 128, 8
"""Length of a frame of the spectrogram and step between frames, samples."""
BANDS = 24
"""Bands, each one bin of 3.9 Hz."""
SHAPE = (len(PERCENTILES), CELLS, BANDS)
"""What a row of the grid is when reshaped: percentile, cell, band."""
FEWEST_BEATS = 3


def ecg_cycle_grid(ecg: Floats, sampling_rate: float) -> NDArray[np.float64]:
    """Return the grid of one ECG.

    Parameters
    ----------
    ecg : numpy.ndarray, shape (n,)
        Gaps may be NaN; the unit does not matter.
    sampling_rate : float
        Hertz.

    Returns
    -------
    numpy.ndarray, shape (1584,)
        All NaN without a signal, or with fewer than three beats.
    """
    nothing = np.full(int(np.prod(SHAPE)), np.nan)
    if len(ecg) < 2 * sampling_rate or not np.isfinite(ecg).any():
        return nothing
    ready = bandpass(resample(fill_gaps(ecg.astype(np.float64)), sampling_rate, RATE), RATE, BAND)
    if ready.std() <= FLAT * np.abs(ready).max():
        return nothing
    spans = r_peak_spans(ready, RATE)
    if len(spans) < FEWEST_BEATS:
        return nothing
    edges = spans[:, :1] + np.linspace(0, 1, CELLS + 1) * np.diff(spans, axis=1)
    means = cell_means(_power(ready / ready.std()), edges, RATE / HOP)
    power = np.log10(np.maximum(means, QUIET))
    return np.percentile(power, PERCENTILES, axis=0).ravel()


def _power(signal: Floats) -> NDArray[np.float64]:
    """Return the power of each band around every eighth sample, shape (frames, bands)."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(signal, FRAME // 2), FRAME)[::HOP]
    spectrum = np.fft.rfft(frames * scipy.signal.get_window("hann", FRAME), axis=1)[:, :BANDS]
    return spectrum.real**2 + spectrum.imag**2


def cycle_grids(cache: Cache, jobs: int = -1, *, progress: bool = True) -> NDArray[np.float32]:
    """Return the grids of a cache's recordings, in their order, shape (N, 1584); NaN where there is none.

    Parameters
    ----------
    cache : Cache
    jobs : int
        Processes; -1: one a core.
    progress : bool
        Whether to show a bar.
    """
    recordings = cache.table("recordings")
    names = recordings["recording"].to_numpy(str)
    path = cache.path / f"derived-ecg-cycle-grid-v{VERSION}.npz"
    kept = _read(path, names)
    if kept is not None:
        return kept
    waveforms = cache.waveforms("ecg")
    places = recordings[["ecg_offset", "ecg_length", "ecg_rate"]].itertuples(index=False, name=None)
    made = joblib.Parallel(n_jobs=jobs, return_as="generator")(
        joblib.delayed(ecg_cycle_grid)(np.array(waveforms[start : start + length]), float(rate))
        for start, length, rate in places
    )
    bar = tqdm(made, total=len(recordings), desc="ECG grid", unit="recording", disable=not progress)
    grids = np.stack(list(bar)).astype(np.float32)
    with contextlib.suppress(OSError), replacing(path) as temporary:  # a cache may be on a read-only disk
        np.savez(temporary, recording=names, grids=grids)
    return grids


def _read(path: Path, names: NDArray[np.str_]) -> NDArray[np.float32] | None:
    """Return the grids of a file; None if it is absent, damaged or of other recordings."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return content["grids"] if np.array_equal(content["recording"], names) else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
