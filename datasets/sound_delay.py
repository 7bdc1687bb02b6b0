"""How long after the R-peak the heart sound is heard, and whether a heart does that: from its envelope."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datasets.beat_agreement import AGREEMENT_RATE, FEWEST_BEATS, likeness, loudness, windows
from datasets.recordings import Signal
from datasets.signals import Floats

IN_STEP = (-0.03, 0.13)
"""When S1 is loudest after the R-peak, seconds: on training-a 0.005 to 0.085 for 95 of 100 recordings."""
STEP_MARGIN, STEP_LIKENESS = 0.1, 0.6
"""Correlation that a pattern out of step must have more than any in step; agreement of the heart sound over
the R-to-R beats from which a step can be measured."""
SYSTOLES = np.arange(0.22, 0.42, 0.02)
"""Times from S1 to S2 that are tried, seconds."""
LONGEST_SYSTOLE = 0.55
"""Share of the cycle that systole takes at most."""


def sound_delay(pcg: Signal, peaks: Floats) -> tuple[float, bool] | None:
    """Measure when S1 is loudest after the R-peak, from the envelope of the heart sound alone.

    The envelope, averaged around the R-peaks over one cycle, is compared with two bumps, S1 and S2, at
    all delays and all plausible times between them.

    Parameters
    ----------
    pcg : Signal
    peaks : numpy.ndarray, shape (beats,)
        R-peaks, seconds.

    Returns
    -------
    tuple of (float, bool) or None
        The delay in seconds, negative where S1 comes first, and whether it is one that a heart has. None
        where the heart sound does not repeat with the R-peaks clearly enough to tell.
    """
    if len(peaks) < FEWEST_BEATS:
        return None
    rate, cycle = AGREEMENT_RATE["pcg"], float(np.median(np.diff(peaks)))
    beats = windows(loudness(pcg), rate, peaks, (-cycle / 2, cycle / 2))
    if len(beats) < FEWEST_BEATS or not likeness(beats) >= STEP_LIKENESS:
        return None
    beats = beats / np.maximum(np.median(beats, axis=1, keepdims=True), 1e-12)
    delays, fit = _two_sounds(np.median(beats, axis=0), rate)
    possible = (delays >= IN_STEP[0]) & (delays <= IN_STEP[1])
    in_step = bool(fit[possible].max(initial=-1.0) >= fit.max() - STEP_MARGIN)
    best = np.where(possible, fit, -1.0).argmax() if in_step else fit.argmax()
    return float(delays[best]), in_step


def _two_sounds(cycle: NDArray[np.float64], rate: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return delays (n,) and, for each, the best correlation (n,) of the cycle with an S1 there and an S2."""
    count = len(cycle)
    time = np.arange(count) / rate
    spectrum = np.fft.rfft(_standard(cycle))
    fits = []
    for systole in SYSTOLES:
        if systole >= LONGEST_SYSTOLE * count / rate:
            break
        first, second = (_circular(time - centre, count / rate) for centre in (0.0, systole))
        pattern = np.exp(-((first / 0.03) ** 2) / 2) + 0.8 * np.exp(-((second / 0.025) ** 2) / 2)
        fits.append(np.fft.irfft(spectrum * np.conj(np.fft.rfft(_standard(pattern))), count) / count)
    fit = np.max(fits, axis=0) if fits else np.zeros(count)
    return time - (count // 2) / rate, fit


def _circular(time: NDArray[np.float64], period: float) -> NDArray[np.float64]:
    return (time + period / 2) % period - period / 2


def _standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = values - values.mean()
    deviation = centred.std()
    return centred / deviation if deviation > 0 else centred
