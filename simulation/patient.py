"""The simulated patient: latent physiology, free of any signal.

A patient is a set of numbers (rhythm, intervals, amplitudes, murmur, body); a session is another
(mains, room, sensor). Everything measured is rendered from them elsewhere: ECG and heart sound in
`simulation.signals`. One beat sequence drives all of it, so that modalities stay synchronous.

Each person and each session draws from a random stream of its own (`stream`), so neither the order
of work nor the size of the cohort changes anybody.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MurmurKind = Literal["none", "early", "mid", "late", "holosystolic"]
Floats = NDArray[np.float64]

COLORATION_FREQUENCIES = (25.0, 50.0, 100.0, 200.0, 400.0, 800.0)
"""Hertz; the frequencies that gains of body and room refer to."""

BUMP_COUNT = 6
"""Number of small deflections that give the ECG of a person its own shape."""

# Share of each diagnosis among abnormal persons, and the murmurs it comes with (training-a has 37
# persons with prolapse, 34 with an innocent murmur, 5 with aortic and 7 with other disease).
DIAGNOSES: dict[str, tuple[float, tuple[MurmurKind, ...]]] = {
    "MVP": (0.45, ("mid", "late", "late")),
    "Benign": (0.40, ("early", "mid")),
    "AD": (0.06, ("mid", "holosystolic")),
    "MPC": (0.09, ("early", "holosystolic")),
}

# Start, full strength, beginning of the decline and end of a murmur, as shares of systole.
MURMUR_SHAPES: dict[MurmurKind, tuple[float, float, float, float]] = {
    "none": (0.0, 0.4, 0.6, 1.0),
    "early": (0.0, 0.08, 0.25, 0.70),
    "mid": (0.08, 0.42, 0.55, 0.92),
    "late": (0.35, 0.65, 0.90, 1.0),
    "holosystolic": (0.0, 0.10, 0.90, 1.0),
}


@dataclass(frozen=True)
class Murmur:
    """Turbulence between S1 and S2.

    Attributes
    ----------
    kind : {"none", "early", "mid", "late", "holosystolic"}
        Which part of systole it fills.
    loudness : float
        Its root mean square where loudest, relative to the peak of S1.
    frequency, bandwidth : float
        Centre and half width of its spectrum, hertz.
    start, rise, fall, end : float
        Corners of its envelope as shares of systole (end of S1 to onset of S2), ascending.
    """

    kind: MurmurKind
    loudness: float
    frequency: float
    bandwidth: float
    start: float
    rise: float
    fall: float
    end: float


@dataclass(frozen=True)
class Body:
    """What makes the signals of a person recognizable and says nothing about disease.

    Attributes
    ----------
    ecg_gains : tuple of float
        Factors on the P, Q, R, S and T wave.
    bump_times, bump_widths, bump_amplitudes : tuple of float
        Small deflections of the ECG: seconds after the R peak, seconds, millivolts.
    sound_gains : tuple of float
        Spectral coloration by chest and sensor, decibels at `COLORATION_FREQUENCIES`.
    sound_phases : tuple of float
        Phases of the components of S1 (two) and S2 (two), radians.
    """

    ecg_gains: tuple[float, ...]
    bump_times: tuple[float, ...]
    bump_widths: tuple[float, ...]
    bump_amplitudes: tuple[float, ...]
    sound_gains: tuple[float, ...]
    sound_phases: tuple[float, ...]


@dataclass(frozen=True)
class SimulatedPatient:
    """Latent physiology of one person. Times in seconds, amplitudes in millivolts.

    Attributes
    ----------
    diagnosis : str
        ``Normal``, ``MVP``, ``Benign``, ``AD`` or ``MPC``, as in training-a.
    strain : float
        Load on the left ventricle, 0 to 1. It alone carries disease into the ECG: flatter T, wider
        and larger QRS, larger P, longer QT. Zero for the normal and for a part of the abnormal.
    heart_rate : float
        Beats a minute.
    heart_rate_variability : float
        Standard deviation of the RR interval, seconds.
    respiration_rate : float
        Hertz; modulates RR interval, amplitudes and the split of S2.
    pr_interval, qrs_duration, qt_corrected : float
        P onset to QRS onset; QRS; QT at an RR interval of one second (Fridericia).
    p_amplitude, q_amplitude, r_amplitude, s_amplitude, t_amplitude : float
        Signed amplitudes of the waves.
    electromechanical_delay : float
        R peak to the onset of S1.
    s1_duration, s2_duration, s2_split : float
        Length of both sounds; aortic to pulmonary component of S2.
    s1_loudness, s2_loudness : float
        Peak of each sound; 1 is an ordinary S1.
    s1_frequency, s2_frequency : float
        Hertz.
    murmur : Murmur
    body : Body
    """

    diagnosis: str
    strain: float
    heart_rate: float
    heart_rate_variability: float
    respiration_rate: float
    pr_interval: float
    qrs_duration: float
    qt_corrected: float
    p_amplitude: float
    q_amplitude: float
    r_amplitude: float
    s_amplitude: float
    t_amplitude: float
    electromechanical_delay: float
    s1_duration: float
    s2_duration: float
    s2_split: float
    s1_loudness: float
    s2_loudness: float
    s1_frequency: float
    s2_frequency: float
    murmur: Murmur
    body: Body

    @property
    def label(self) -> int:
        """1 abnormal, 0 normal."""
        return int(self.diagnosis != "Normal")


@dataclass(frozen=True)
class Session:
    """What all recordings of one session share.

    Attributes
    ----------
    mains_frequency : float
        50 or 60 Hz.
    mains_level : float
        Amplitude of the hum in the ECG, millivolts.
    mains_phase : float
        Its phase at the start of a recording, radians.
    room_level : float
        Root mean square of room noise, relative to the peak of an ordinary S1.
    room_gains : tuple of float
        Its spectrum, decibels at `COLORATION_FREQUENCIES`.
    sensor_gain : float
        Counts of the analogue-digital converter for an ordinary S1.
    """

    mains_frequency: float
    mains_level: float
    mains_phase: float
    room_level: float
    room_gains: tuple[float, ...]
    sensor_gain: float


@dataclass(frozen=True)
class BeatSequence:
    """Times of the heart, seconds from the start of the recording; each array has one entry a beat.

    The first beats lie before the recording and the last ones after it, so that both ends are filled.

    Attributes
    ----------
    r_peaks, rr_intervals : numpy.ndarray, shape (beats,)
        R peak, and the interval from it to the next R peak.
    qt_intervals : numpy.ndarray, shape (beats,)
        QT interval, from the RR interval before the beat.
    s1_onsets, systole_onsets, s2_onsets, diastole_onsets : numpy.ndarray, shape (beats,)
        Onsets of the four heart states. S2 begins where the T wave ends.
    respiration : numpy.ndarray, shape (beats,)
        Respiration at the beat, -1 (expiration) to 1 (inspiration).
    """

    r_peaks: Floats
    rr_intervals: Floats
    qt_intervals: Floats
    s1_onsets: Floats
    systole_onsets: Floats
    s2_onsets: Floats
    diastole_onsets: Floats
    respiration: Floats


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return the random stream of one part of the cohort: that of a child of the cohort's seed.

    Parameters
    ----------
    seed : int
        Seed of the cohort.
    *key : int
        Place in the tree of `numpy.random.SeedSequence.spawn`, such as (kind, person, part).
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def draw_within(rng: np.random.Generator, mean: float, deviation: float, low: float, high: float) -> float:
    """Return a normal number, clipped to [low, high]."""
    return float(np.clip(rng.normal(mean, deviation), low, high))


def onset_of_qrs(patient: SimulatedPatient) -> float:
    """Return the onset of the QRS complex relative to the R peak, seconds (negative)."""
    return -0.45 * patient.qrs_duration


def draw_beats(patient: SimulatedPatient, duration: float, rng: np.random.Generator) -> BeatSequence:
    """Return the beats that cover a recording.

    The RR interval is its mean times (1 + respiratory sinus arrhythmia + slow wander); QT follows
    the RR interval before it by Fridericia's formula, ``QT = QTc * RR ** (1 / 3)``.

    Parameters
    ----------
    patient : SimulatedPatient
    duration : float
        Length of the recording, seconds.
    rng : numpy.random.Generator
    """
    mean = 60.0 / patient.heart_rate
    count = int(np.ceil(duration / mean * 1.4)) + 6
    phase = rng.uniform(0, 2 * np.pi) + 2 * np.pi * patient.respiration_rate * mean * np.arange(count)
    respiration = np.sin(phase)
    wander = _autoregressive(count, 0.7, rng)
    spread = np.clip(0.8 * respiration + 0.8 * wander, -2.5, 2.5)
    rr = np.maximum(mean + patient.heart_rate_variability * spread, 0.45)
    r_peaks = np.concatenate([[0.0], np.cumsum(rr)[:-1]]) - rr[0] - rng.uniform(0, rr[1])
    qt = patient.qt_corrected * np.cbrt(np.concatenate([rr[:1], rr[:-1]]))
    s1_onsets = r_peaks + patient.electromechanical_delay
    s2_onsets = r_peaks + onset_of_qrs(patient) + qt
    keep = np.arange(count) <= np.searchsorted(r_peaks, duration)
    return BeatSequence(
        r_peaks=r_peaks[keep],
        rr_intervals=rr[keep],
        qt_intervals=qt[keep],
        s1_onsets=s1_onsets[keep],
        systole_onsets=s1_onsets[keep] + patient.s1_duration,
        s2_onsets=s2_onsets[keep],
        diastole_onsets=s2_onsets[keep] + patient.s2_duration,
        respiration=respiration[keep],
    )


def _autoregressive(count: int, memory: float, rng: np.random.Generator) -> Floats:
    """Return unit-variance noise of shape (count,) in which each value remembers the one before."""
    values = rng.normal(size=count)
    for index in range(1, count):
        values[index] = memory * values[index - 1] + np.sqrt(1 - memory**2) * values[index]
    return values


def at_site(patient: SimulatedPatient, rng: np.random.Generator) -> SimulatedPatient:
    """Return the patient as found at one auscultation site: rate, posture and distances have changed."""

    def factor(deviation: float) -> float:
        return float(np.exp(rng.normal(0, deviation)))

    murmur = dataclasses.replace(patient.murmur, loudness=patient.murmur.loudness * rng.uniform(0.65, 1.0))
    return dataclasses.replace(
        patient,
        heart_rate=float(np.clip(patient.heart_rate * factor(0.05), 45, 115)),
        p_amplitude=patient.p_amplitude * factor(0.08),
        r_amplitude=patient.r_amplitude * factor(0.05),
        t_amplitude=patient.t_amplitude * factor(0.08),
        s1_loudness=patient.s1_loudness * factor(0.15),
        s2_loudness=patient.s2_loudness * factor(0.20),
        murmur=murmur,
    )
