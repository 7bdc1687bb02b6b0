"""Find the beats of a recording: S1 to S1 from annotated heart states, or R to R from the ECG."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datasets.heart_states import HeartStates, complete_cycles
from datasets.signals import Floats, bandpass, resample

R_PEAK_RATE = 250.0
"""Rate at which R-peaks are sought, hertz; the detector finds none at 2000 Hz."""
R_PEAK_BAND = (5.0, 40.0)
"""Band of the QRS complex, hertz."""
ARTEFACT = 4.0
"""Values beyond so many times the usual peak of two seconds are cut off: one settling electrode at the
start of a recording would otherwise set the detector's threshold above every QRS complex."""
DETECTOR = {"ref_period": 0.3, "t_inspect_period": 0.6}
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

    slow = resample(ecg, sampling_rate, R_PEAK_RATE)
    slow = _without_artefacts(bandpass(slow, R_PEAK_RATE, R_PEAK_BAND))
    detector = XQRS(sig=slow, fs=R_PEAK_RATE, conf=XQRS.Conf(**DETECTOR))
    detector.detect(verbose=False)
    near = np.asarray(detector.qrs_inds, dtype=int)
    reach = int(0.05 * R_PEAK_RATE)
    refined = []
    for peak in near:
        start = max(peak - reach, 0)
        refined.append(start + int(np.argmax(np.abs(slow[start : peak + reach + 1]))))
    return np.unique(refined) / R_PEAK_RATE


def _without_artefacts(ecg: Floats) -> Floats:
    """Return the filtered ECG with what towers over its usual peaks cut off, shape (n,)."""
    stretches = np.array_split(np.abs(ecg), max(1, int(len(ecg) / (2 * R_PEAK_RATE))))
    limit = ARTEFACT * np.median([np.percentile(stretch, 98) for stretch in stretches])
    return np.clip(ecg, -limit, limit)


def r_peak_spans(ecg: Floats, sampling_rate: float) -> NDArray[np.float64]:
    """Return spans from each R-peak to the next, without intervals no heart would have, shape (beats, 2)."""
    peaks = r_peaks(ecg, sampling_rate)
    spans = np.stack([peaks[:-1], peaks[1:]], axis=1) if len(peaks) > 1 else np.zeros((0, 2))
    interval = spans[:, 1] - spans[:, 0]
    return spans[(interval >= PLAUSIBLE_CYCLE[0]) & (interval <= PLAUSIBLE_CYCLE[1])]
