"""Who is in the cohort: drawing patients, sessions, and which persons are abnormal.

Disease shows in the heart sound as a murmur and in the ECG through ``strain``, which only a part of
the abnormal have; both overlap with the normal. The fingerprint (body, session) is drawn without
looking at the label.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulation.patient import (
    BUMP_COUNT,
    COLORATION_FREQUENCIES,
    DIAGNOSES,
    MURMUR_SHAPES,
    Body,
    Murmur,
    MurmurKind,
    Session,
    SimulatedPatient,
    draw_within,
    stream,
)
from simulation.settings import SimulationSettings

# First word of the key of a random stream: what is drawn.
LABELS, ORDER, _SITTING, _PERSON, RECORDING, SEGMENTATION = range(6)
_PHYSIOLOGY, _MURMUR, _BODY = range(3)

STRAINED_SHARE = 0.6
"""Share of abnormal persons whose ECG shows it."""
_NORMAL_LOUDNESS = 0.035
"""Median turbulence of a normal heart, relative to the peak of S1."""
_ABNORMAL_LOUDNESS = 0.28
"""Median loudness of a murmur of an unstrained heart, relative to the peak of S1."""
_STRAIN_SOFTENS = 0.5
"""Share of its loudness that a murmur loses at full strain."""
_ROOM_SPECTRUM = (0.0, 0.0, -5.0, -12.0, -22.0, -32.0)
"""Mean spectrum of a room, decibels at `COLORATION_FREQUENCIES`."""


def assign_labels(settings: SimulationSettings) -> NDArray[np.bool_]:
    """Return who is abnormal, bool of shape (sessions, persons).

    Labels are uneven over sessions, as in training-a: some sessions are all abnormal, few all normal,
    the rest are mixed. The number of abnormal persons is the share asked for, rounded; where both
    kinds are asked for and there are two persons or more, each kind has one at least.
    """
    sessions, persons, share = settings.sessions, settings.persons, settings.abnormal_share
    total = sessions * persons
    abnormal = round(share * total)
    if 0 < share < 1 and total > 1:
        abnormal = min(max(abnormal, 1), total - 1)
    all_abnormal = min(int(0.6 * share * sessions), abnormal // persons)
    all_normal = min(int(0.25 * (1 - share) * sessions), (total - abnormal) // persons)
    rng = stream(settings.seed, LABELS)
    mixed = np.arange(total - (all_abnormal + all_normal) * persons) < abnormal - all_abnormal * persons
    blocks = [
        np.ones(all_abnormal * persons, bool),
        np.zeros(all_normal * persons, bool),
        rng.permutation(mixed),
    ]
    labels: NDArray[np.bool_] = np.concatenate(blocks).reshape(sessions, persons)
    return labels[rng.permutation(sessions)]


def draw_patient(seed: int, person: int, abnormal: bool, fingerprint: float) -> SimulatedPatient:
    """Return one person.

    Parameters
    ----------
    seed : int
        Seed of the cohort.
    person : int
        Number of the person in the cohort; names the person's own random streams.
    abnormal : bool
    fingerprint : float
        Strength of the coloration by the body; 0: none.
    """
    rng = stream(seed, _PERSON, person, _MURMUR)
    diagnosis = "Normal"
    if abnormal:
        names = list(DIAGNOSES)
        diagnosis = str(rng.choice(names, p=[DIAGNOSES[name][0] for name in names]))
    strained = abnormal and rng.random() < STRAINED_SHARE
    strain = float(rng.uniform(0.6, 1.0)) if strained else 0.0
    murmur = _draw_murmur(diagnosis, strain, rng)
    body = _draw_body(fingerprint, stream(seed, _PERSON, person, _BODY))
    return _draw_physiology(diagnosis, strain, murmur, body, stream(seed, _PERSON, person, _PHYSIOLOGY))


def _draw_murmur(diagnosis: str, strain: float, rng: np.random.Generator) -> Murmur:
    """Return the murmur of a diagnosis: softer in a strained heart, which moves the blood less.

    A normal heart is not quite silent in systole either.
    """
    kind: MurmurKind = "none"
    loudness = draw_within(rng, 0, 0.5, -1.0, 1.0)
    median = _NORMAL_LOUDNESS
    if diagnosis != "Normal":
        kinds = DIAGNOSES[diagnosis][1]
        kind = kinds[rng.integers(len(kinds))]
        median = _ABNORMAL_LOUDNESS * (0.8 if diagnosis == "Benign" else 1.0) * (1 - _STRAIN_SOFTENS * strain)
    start, rise, fall, end = MURMUR_SHAPES[kind]
    shift = draw_within(rng, 0, 0.03, -0.05, 0.05) * (kind in ("mid", "late"))
    frequency = draw_within(rng, 130, 25, 85, 190)
    return Murmur(
        kind=kind,
        loudness=float(min(median * np.exp(loudness), 0.45)),
        frequency=frequency,
        bandwidth=float(frequency * rng.uniform(0.25, 0.4)),
        start=start,
        rise=rise + shift,
        fall=fall + shift,
        end=end,
    )


def _draw_body(fingerprint: float, rng: np.random.Generator) -> Body:
    """Return the coloration of one person; every draw is scaled by the fingerprint."""
    gains = np.exp(fingerprint * np.array([0.20, 0.35, 0.12, 0.40, 0.10]) * rng.normal(size=5))
    times = np.sort(rng.uniform(-0.22, 0.42, BUMP_COUNT))
    widths = rng.uniform(0.010, 0.035, BUMP_COUNT)
    amplitudes = fingerprint * 0.10 * rng.normal(size=BUMP_COUNT)
    sound_gains = fingerprint * 6.0 * rng.normal(size=len(COLORATION_FREQUENCIES))
    phases = fingerprint * rng.uniform(-np.pi, np.pi, 4)
    columns = (gains, times, widths, amplitudes, sound_gains, phases)
    return Body(*(tuple(float(value) for value in column) for column in columns))


def _draw_physiology(
    diagnosis: str, strain: float, murmur: Murmur, body: Body, rng: np.random.Generator
) -> SimulatedPatient:
    """Return a patient with ordinary physiology, changed by strain."""
    return SimulatedPatient(
        diagnosis=diagnosis,
        strain=strain,
        heart_rate=draw_within(rng, 74, 9, 52, 100),
        heart_rate_variability=draw_within(rng, 0.032, 0.010, 0.012, 0.06),
        respiration_rate=draw_within(rng, 0.25, 0.04, 0.15, 0.35),
        pr_interval=draw_within(rng, 0.158, 0.012, 0.125, 0.195),
        qrs_duration=draw_within(rng, 0.090, 0.005, 0.078, 0.105) + 0.014 * strain,
        qt_corrected=draw_within(rng, 0.405, 0.010, 0.380, 0.430) + 0.014 * strain,
        p_amplitude=draw_within(rng, 0.12, 0.02, 0.06, 0.18) * (1 + 0.35 * strain),
        q_amplitude=-draw_within(rng, 0.08, 0.03, 0.01, 0.18),
        r_amplitude=draw_within(rng, 1.0, 0.14, 0.6, 1.5) * (1 + 0.15 * strain),
        s_amplitude=-draw_within(rng, 0.22, 0.07, 0.05, 0.45) * (1 + 0.3 * strain),
        t_amplitude=draw_within(rng, 0.30, 0.05, 0.14, 0.48) * (1 - 0.65 * strain),
        electromechanical_delay=draw_within(rng, 0.032, 0.006, 0.018, 0.048),
        s1_duration=draw_within(rng, 0.120, 0.006, 0.105, 0.135),
        s2_duration=draw_within(rng, 0.100, 0.006, 0.085, 0.115),
        s2_split=draw_within(rng, 0.018, 0.006, 0.006, 0.035),
        s1_loudness=draw_within(rng, 1.0, 0.12, 0.7, 1.3),
        s2_loudness=draw_within(rng, 0.75, 0.14, 0.4, 1.1),
        s1_frequency=draw_within(rng, 48, 5, 36, 62),
        s2_frequency=draw_within(rng, 62, 6, 46, 80),
        murmur=murmur,
        body=body,
    )


def draw_session(seed: int, session: int, fingerprint: float) -> Session:
    """Return one session.

    Parameters
    ----------
    seed : int
        Seed of the cohort.
    session : int
        Number of the session; names its random stream.
    fingerprint : float
        How much rooms, sensors and hum differ between sessions; 0: all alike but for the phase of the hum.
    """
    rng = stream(seed, _SITTING, session)
    spread = rng.normal(size=3) * fingerprint
    deviations = 5.0 * fingerprint * rng.normal(size=len(COLORATION_FREQUENCIES))
    return Session(
        mains_frequency=50.0 if fingerprint == 0 or rng.random() < 0.6 else 60.0,
        mains_level=float(0.02 * np.exp(0.6 * spread[0])),
        mains_phase=float(rng.uniform(0, 2 * np.pi)),
        room_level=float(0.035 * np.exp(0.35 * spread[1])),
        room_gains=tuple(float(gain) for gain in _ROOM_SPECTRUM + deviations),
        sensor_gain=float(6000 * np.exp(0.4 * spread[2])),
    )
