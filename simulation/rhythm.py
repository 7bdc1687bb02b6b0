"""When a heart beats: sinus rhythm, atrial fibrillation, ventricular ectopic beats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulation.heart import Drivers
from simulation.patient import Floats

_SHORTEST_INTERVAL = 0.33
"""Seconds between two beats at least."""
_FIBRILLATION_SPREAD = 0.24
"""Coefficient of variation of the RR interval in atrial fibrillation."""
FIBRILLATION_RATE = 1.15
"""Heart rate in atrial fibrillation, relative to that in sinus rhythm."""
_PREMATURITY = (0.32, 0.44)
"""How much earlier than expected an ectopic beat comes, as a share of the RR interval."""
_BEFORE, _AFTER = 2, 2
"""Beats before and after the recording, so that both ends are filled."""


@dataclass(frozen=True)
class Paroxysm:
    """What comes and goes: present on the day of one recording, absent on another.

    Attributes
    ----------
    fibrillation : bool
        Atrial fibrillation.
    ectopic_beats : int
        Ventricular ectopic beats in the recording, beyond the person's own rate.
    st_depression : float
        Millivolts in lead II.
    late_potentials : float
        Amplitude in lead II of what follows the QRS complex, millivolts.
    """

    fibrillation: bool = False
    ectopic_beats: int = 0
    st_depression: float = 0.0
    late_potentials: float = 0.0


@dataclass(frozen=True)
class Beats:
    """The beats of one recording and some around it; arrays of shape (beats,).

    Attributes
    ----------
    onsets : numpy.ndarray
        Onset of the QRS complex, seconds from the start of the recording, ascending.
    qt_intervals : numpy.ndarray
        Seconds.
    conducted : numpy.ndarray of bool
        Whether a P wave precedes the beat.
    ectopic : numpy.ndarray of bool
        Whether the beat comes from a ventricle.
    respiration : numpy.ndarray
        -1 (expiration) to 1 (inspiration).
    """

    onsets: Floats
    qt_intervals: Floats
    conducted: NDArray[np.bool_]
    ectopic: NDArray[np.bool_]
    respiration: Floats


def draw_beats(drivers: Drivers, paroxysm: Paroxysm, duration: float, rng: np.random.Generator) -> Beats:
    """Return the beats that cover a recording.

    Sinus rhythm: the mean interval, respiratory arrhythmia and a slow wander. Fibrillation: independent
    log-normal intervals, no P waves. An ectopic beat takes the place of the next one, early, and the
    one after comes when it would have come anyway (compensatory pause). QT follows the mean of the two
    intervals before a beat by Fridericia's formula.

    Parameters
    ----------
    drivers : Drivers
    paroxysm : Paroxysm
    duration : float
        Seconds.
    rng : numpy.random.Generator
    """
    fibrillation = paroxysm.fibrillation or drivers.rhythm == "fibrillation"
    mean = 60 / (drivers.heart_rate * (FIBRILLATION_RATE if fibrillation else 1.0))
    count = int(np.ceil(1.35 * duration / mean)) + _BEFORE + _AFTER + 4
    phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * drivers.traits.respiration_rate * mean * np.arange(count)
    respiration = np.sin(phase)
    intervals = (
        _irregular(count, mean, rng)
        if fibrillation
        else _sinus(respiration, mean, drivers.traits.variability, rng)
    )
    onsets = np.cumsum(intervals) - intervals[:_BEFORE].sum() - rng.uniform(0, 1) * intervals[_BEFORE]
    qt_corrected = drivers.traits.qt_corrected - 0.006 * drivers.pump
    history = np.convolve(intervals, (0.5, 0.5))[:count]
    history[0] = intervals[0]
    ectopic = _ectopic(onsets, drivers, paroxysm, duration, rng)
    early = rng.uniform(*_PREMATURITY, count) * intervals
    onsets = np.where(ectopic, onsets - early, onsets)
    keep = np.arange(count) < np.searchsorted(onsets, duration) + _AFTER
    return Beats(
        onsets=onsets[keep],
        qt_intervals=(qt_corrected * np.cbrt(history))[keep],
        conducted=(~ectopic & (not fibrillation))[keep],
        ectopic=ectopic[keep],
        respiration=respiration[keep],
    )


def _sinus(respiration: Floats, mean: float, deviation: float, rng: np.random.Generator) -> Floats:
    """Return intervals of sinus rhythm, seconds: half of the variance is respiration, half a slow wander."""
    wander = rng.normal(size=len(respiration))
    for index in range(1, len(wander)):
        wander[index] = 0.7 * wander[index - 1] + np.sqrt(1 - 0.7**2) * wander[index]
    spread = respiration + np.sqrt(0.5) * wander
    return np.maximum(mean + deviation * np.clip(spread, -2.5, 2.5), _SHORTEST_INTERVAL)


def _irregular(count: int, mean: float, rng: np.random.Generator) -> Floats:
    """Return intervals of atrial fibrillation, seconds."""
    width = np.sqrt(np.log1p(_FIBRILLATION_SPREAD**2))
    intervals = mean * np.exp(width * rng.normal(size=count) - width**2 / 2)
    return np.asarray(np.maximum(intervals, _SHORTEST_INTERVAL))


def _ectopic(
    onsets: Floats, drivers: Drivers, paroxysm: Paroxysm, duration: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return which beats are ectopic: never two in a row, and all of them well inside the recording."""
    requested = rng.poisson(drivers.ectopic_rate * duration / 60) + paroxysm.ectopic_beats
    places = np.flatnonzero((onsets > 1.0) & (onsets < duration - 0.7))
    chosen = np.zeros(len(onsets), bool)
    for place in rng.permutation(places):
        if requested > chosen.sum() and not chosen[place - 1 : place + 2].any():
            chosen[place] = True
    return chosen
