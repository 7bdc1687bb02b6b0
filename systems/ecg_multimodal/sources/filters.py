"""Filters of prepared signals: what is too slow or too fast for an ECG, and its baseline."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from systems.ecg_multimodal.settings import ModalitySettings

_ORDER = 2
_BASELINE_SECONDS = (0.2, 0.6)
"""Windows of the medians that remove QRS and P waves, then T waves: de Chazal, O'Dwyer, Reilly, IEEE TBME 51
(2004) 1196."""


def filtered(signal: NDArray[np.float32], settings: ModalitySettings) -> NDArray[np.float32]:
    """Return a prepared signal (leads, points; millivolts) after the filters that the settings name."""
    found = signal.astype(np.float64)
    if settings.baseline:
        baseline = found
        for seconds in _BASELINE_SECONDS:
            window = 2 * int(seconds * settings.signal_rate / 2) + 1
            baseline = scipy.ndimage.median_filter(baseline, size=(1, window), mode="nearest")
        found = found - baseline
    for kind, edge in (("highpass", settings.high_pass), ("lowpass", settings.low_pass)):
        if edge:
            sections = scipy.signal.butter(_ORDER, edge, btype=kind, fs=settings.signal_rate, output="sos")
            found = scipy.signal.sosfiltfilt(sections, found, axis=-1)
    return found.astype(np.float32)
