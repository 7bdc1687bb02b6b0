"""The resting ECG of a simulated patient: loops of the dipole, beat after beat, seen by twelve leads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulation.electrodes import electrode_noise, twelve_leads, with_derived_leads
from simulation.heart import Drivers, Heart
from simulation.loops import Loops, Waves, beat_loops, ectopic_loops
from simulation.patient import Floats
from simulation.rhythm import Beats, Paroxysm, draw_beats

_WINDOW = (-0.30, 0.70)
"""Seconds around the onset of QRS in which a beat has waves."""
_ST_DIRECTION = np.array([0.35, 0.78, -0.10])
_LATE_DIRECTION = np.array([0.30, 0.85, -0.40])
_LATE_FREQUENCY = 85.0
"""Hertz, of late potentials."""
_FIBRILLATION_WAVES = np.array([-0.016, 0.032, -0.050])
"""Size and direction of the waves of atrial fibrillation, millivolts."""
_RESTING = Paroxysm()


def render_ecg(
    subject: Heart | Drivers,
    duration: float,
    sampling_rate: float,
    rng: np.random.Generator,
    paroxysm: Paroxysm = _RESTING,
    noise: float = 1.0,
) -> NDArray[np.float32]:
    """Return a 12-lead ECG.

    Parameters
    ----------
    subject : Heart or Drivers
        Of a heart, only the drivers are looked at.
    duration : float
        Seconds.
    sampling_rate : float
        Hertz.
    rng : numpy.random.Generator
        Of this recording: its beats and its noise.
    paroxysm : Paroxysm
        What is there on the day of this recording only.
    noise : float
        Factor on baseline wander, muscle noise and mains hum; 0: none.

    Returns
    -------
    numpy.ndarray of float32, shape (12, samples)
        Millivolts, in the order I, II, III, aVR, aVL, aVF, V1 to V6. The limb leads fulfil Einthoven's
        and Goldberger's equations in every sample.

    Raises
    ------
    ValueError
        If the recording has no sample, or noise is negative.
    """
    drivers = subject.drivers if isinstance(subject, Heart) else subject
    count = round(duration * sampling_rate)
    if count < 1:
        raise ValueError(f"{duration} seconds at {sampling_rate} hertz are no sample; choose more.")
    if noise < 0:
        raise ValueError(f"noise is {noise}, but must be 0 or more.")
    beat_rng, wave_rng, noise_rng = rng.spawn(3)
    beats = draw_beats(drivers, paroxysm, duration, beat_rng)
    leads = twelve_leads(
        _dipole(drivers, beats, paroxysm, count, sampling_rate, wave_rng), drivers.traits.lead_gains
    )
    independent = leads[[0, 1, *range(6, 12)]]
    if noise > 0:
        independent = independent + electrode_noise(count, sampling_rate, noise, noise_rng)
    # the derived leads are computed from what is stored, so that the identities hold in it
    return with_derived_leads(independent.astype(np.float32)).astype(np.float32)


def _dipole(
    drivers: Drivers,
    beats: Beats,
    paroxysm: Paroxysm,
    count: int,
    sampling_rate: float,
    rng: np.random.Generator,
) -> Floats:
    """Return the dipole of a recording, millivolts, shape (3, samples); breathing scales it a little."""
    scale = 1 + 0.03 * beats.respiration + 0.012 * rng.normal(size=len(beats.onsets))
    dipole = np.zeros((3, count))
    for loops, chosen in ((beat_loops(drivers), ~beats.ectopic), (ectopic_loops(), beats.ectopic)):
        if not chosen.any():
            continue
        places, time = _windows(beats.onsets[chosen], sampling_rate)
        qt = beats.qt_intervals[chosen] + (0.05 if loops.p.centers.size == 0 else 0.0)
        vectors = _beat_vectors(loops, time, qt, beats.conducted[chosen], paroxysm)
        _add(dipole, scale[chosen, None, None] * vectors, places)
    if not beats.conducted.any() or paroxysm.fibrillation or drivers.rhythm == "fibrillation":
        dipole += _FIBRILLATION_WAVES[:, None] * _fibrillation(count, sampling_rate, rng)
    return dipole


def _beat_vectors(
    loops: Loops, time: Floats, qt: Floats, conducted: NDArray[np.bool_], paroxysm: Paroxysm
) -> Floats:
    """Return the dipole of each beat, shape (beats, window, 3)."""
    ones = np.ones_like(qt)
    vectors = _summed(loops.qrs, time, ones) + _summed(loops.t, time, qt)
    vectors += conducted[:, None, None] * _summed(loops.p, time, ones)
    if paroxysm.st_depression:
        toward = -paroxysm.st_depression * _ST_DIRECTION / twelve_leads(_ST_DIRECTION[:, None])[1]
        segment = Waves(np.array([0.36, 0.50]), np.array([0.10, 0.10]), 0.62 * np.stack([toward, toward]))
        vectors += _summed(segment, time, qt)
    if paroxysm.late_potentials:
        toward = paroxysm.late_potentials * _LATE_DIRECTION / twelve_leads(_LATE_DIRECTION[:, None])[1]
        since = time - loops.qrs_duration - 0.012
        burst = np.sin(2 * np.pi * _LATE_FREQUENCY * since) * np.exp(-0.5 * (since / 0.014) ** 2)
        vectors += burst[:, :, None] * toward
    return vectors


def _summed(waves: Waves, time: Floats, unit: Floats) -> Floats:
    """Return waves added up, shape (beats, window, 3); their times are multiples of each beat's unit."""
    share = (time / unit[:, None])[:, :, None]
    bells = np.exp(-0.5 * ((share - waves.centers) / waves.widths) ** 2)
    return np.asarray(bells @ waves.vectors)


def _windows(onsets: Floats, sampling_rate: float) -> tuple[NDArray[np.intp], Floats]:
    """Return samples around each onset, and their times from it in seconds: (beats, window)."""
    first = np.round((onsets + _WINDOW[0]) * sampling_rate).astype(np.intp)
    places = first[:, None] + np.arange(round((_WINDOW[1] - _WINDOW[0]) * sampling_rate))
    return places, places / sampling_rate - onsets[:, None]


def _add(dipole: Floats, vectors: Floats, places: NDArray[np.intp]) -> None:
    """Add the beats where they belong; what lies outside the recording is dropped."""
    inside = (places >= 0) & (places < dipole.shape[1])
    for part in range(3):
        dipole[part] += np.bincount(places[inside], vectors[inside, part], dipole.shape[1])


def _fibrillation(count: int, sampling_rate: float, rng: np.random.Generator) -> Floats:
    """Return the waves of atrial fibrillation, amplitude about 1, shape (samples,): 5 to 8 hertz, uneven."""
    time = np.arange(count) / sampling_rate
    waves = np.zeros(count)
    for rate in rng.uniform(5.0, 8.0, 2):
        phase = 2 * np.pi * rate * time + 1.5 * np.sin(
            2 * np.pi * rng.uniform(0.2, 0.7) * time + rng.uniform(0, 6)
        )
        waves += np.sin(phase + rng.uniform(0, 2 * np.pi)) + 0.35 * np.sin(2 * phase)
    return waves
