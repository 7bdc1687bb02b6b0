"""From latent physiology to signals: ECG and heart sound of one beat sequence.

ECG: each wave is a Gaussian whose place follows the intervals of its beat. Heart sound: S1 and S2
are pairs of short tone bursts, a murmur is band noise under an envelope in systole; the body colors
their spectrum. Then the session adds mains hum and room noise, and the converter rounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulation.patient import (
    COLORATION_FREQUENCIES,
    BeatSequence,
    Body,
    Floats,
    Murmur,
    Session,
    SimulatedPatient,
    draw_beats,
    onset_of_qrs,
)

SAMPLING_RATE = 2000
"""Hertz, of both signals."""
ECG_COUNTS_PER_MILLIVOLT = 1000
_MUSCLE_NOISE = 0.012
"""Millivolts, root mean square."""
_POOR_NOISE = 7.0
"""Factor on all noise of a recording of poor quality."""
_ECG_WINDOW = (-0.40, 0.60)
"""Seconds around the R peak in which a beat has waves."""
_SOUND_WINDOW = (-0.06, 0.16)
"""Seconds around the onset of a sound in which it is heard."""


@dataclass(frozen=True)
class Signals:
    """What one recording consists of.

    Attributes
    ----------
    ecg : numpy.ndarray of int16, shape (samples,)
        Thousandths of a millivolt.
    pcg : numpy.ndarray of int16, shape (samples,)
        Counts of the converter.
    beats : BeatSequence
        The beats that drove both.
    gap : tuple of float or None
        Seconds between which handling drowns the heart sound.
    """

    ecg: NDArray[np.int16]
    pcg: NDArray[np.int16]
    beats: BeatSequence
    gap: tuple[float, float] | None = None


def simulate_signals(
    patient: SimulatedPatient,
    session: Session,
    duration: float,
    rng: np.random.Generator,
    poor: bool = False,
    with_gap: bool = False,
) -> Signals:
    """Return ECG and heart sound of one recording.

    Parameters
    ----------
    patient, session
        Who is measured, and where.
    duration : float
        Seconds.
    rng : numpy.random.Generator
    poor : bool
        Drown the signals in noise.
    with_gap : bool
        Let handling drown the heart sound for a few beats in the middle.
    """
    beat_rng, ecg_rng, pcg_rng = rng.spawn(3)
    count = round(duration * SAMPLING_RATE)
    beats = draw_beats(patient, duration, beat_rng)
    noise = _POOR_NOISE if poor else 1.0
    ecg = render_ecg(patient, beats, count, ecg_rng) + ecg_noise(patient, session, count, noise, ecg_rng)
    pcg = render_pcg(patient, beats, count, pcg_rng) + pcg_noise(patient, session, count, noise, pcg_rng)
    gap = _middle_gap(beats, duration) if with_gap else None
    if gap is not None:
        first, last = (int(second * SAMPLING_RATE) for second in gap)
        pcg[first:last] += pcg_rng.normal(0, 1.0, last - first)
    return Signals(
        ecg=_digitized(ecg * ECG_COUNTS_PER_MILLIVOLT),
        pcg=_digitized(pcg * session.sensor_gain),
        beats=beats,
        gap=gap,
    )


def _middle_gap(beats: BeatSequence, duration: float) -> tuple[float, float]:
    """Return the seconds from a diastole in the middle of a recording to that three beats later."""
    first = min(int(np.searchsorted(beats.diastole_onsets, 0.4 * duration)), len(beats.r_peaks) - 4)
    return float(beats.diastole_onsets[first]), min(float(beats.diastole_onsets[first + 3]), duration)


def _digitized(signal: Floats) -> NDArray[np.int16]:
    """Return a signal rounded to 16 bits; -32768 is left out, which readers take for a missing value."""
    return np.clip(np.round(signal), -32767, 32767).astype(np.int16)


# ECG ---------------------------------------------------------------------------------------------


def _ecg_waves(patient: SimulatedPatient, qt_intervals: Floats) -> tuple[Floats, Floats, Floats]:
    """Return times, widths and amplitudes of the waves of some beats.

    Parameters
    ----------
    patient : SimulatedPatient
    qt_intervals : numpy.ndarray, shape (beats,)
        Seconds.

    Returns
    -------
    times : numpy.ndarray, shape (beats, waves)
        Seconds after the R peak: P, Q, R, S, T, the foot of T, then the bumps of the body.
    widths : numpy.ndarray, shape (beats, waves)
        Standard deviations of the Gaussians, seconds.
    amplitudes : numpy.ndarray, shape (waves,)
        Millivolts.
    """
    body, qrs = patient.body, patient.qrs_duration
    qrs_onset = onset_of_qrs(patient)
    t_width = 0.095 * qt_intervals
    t_time = qrs_onset + qt_intervals - 2.4 * t_width
    p_time = qrs_onset - patient.pr_interval + 0.045
    ones = np.ones_like(qt_intervals)
    times = [p_time * ones, -0.27 * qrs * ones, 0 * ones, 0.30 * qrs * ones, t_time, t_time - 1.3 * t_width]
    widths = [0.019 * ones, 0.085 * qrs * ones, 0.11 * qrs * ones, 0.10 * qrs * ones, t_width, 1.2 * t_width]
    times += [time * ones for time in body.bump_times]
    widths += [width * ones for width in body.bump_widths]
    waves = np.array([patient.p_amplitude, patient.q_amplitude, patient.r_amplitude, patient.s_amplitude])
    t_wave = patient.t_amplitude * body.ecg_gains[4]
    amplitudes = [*(waves * body.ecg_gains[:4]), t_wave, 0.3 * t_wave, *body.bump_amplitudes]
    return np.stack(times, axis=1), np.stack(widths, axis=1), np.array(amplitudes)


def render_ecg(
    patient: SimulatedPatient, beats: BeatSequence, count: int, rng: np.random.Generator
) -> Floats:
    """Return the ECG without noise, millivolts, shape (count,); breathing scales it a little."""
    times, widths, amplitudes = _ecg_waves(patient, beats.qt_intervals)
    scale = 1 + 0.04 * beats.respiration[:, None] + 0.03 * rng.normal(size=times.shape)
    places, grid = _windows(beats.r_peaks, _ECG_WINDOW)
    waveform = np.zeros_like(grid)
    for wave in range(times.shape[1]):
        standard = (grid - times[:, wave, None]) / widths[:, wave, None]
        waveform += (scale[:, wave, None] * amplitudes[wave]) * np.exp(-0.5 * standard**2)
    return _placed(waveform, places, count)


def ecg_noise(
    patient: SimulatedPatient, session: Session, count: int, factor: float, rng: np.random.Generator
) -> Floats:
    """Return baseline wander, muscle noise and mains hum of an ECG, millivolts, shape (count,)."""
    time = np.arange(count) / SAMPLING_RATE
    wander = 0.08 * _shaped_noise(count, (0.05, 0.15, 0.5, 1.0, 4.0), (0.0, 0.0, -20.0, -60.0, -100.0), rng)
    wander += 0.03 * np.sin(2 * np.pi * patient.respiration_rate * time + rng.uniform(0, 2 * np.pi))
    muscle = _shaped_noise(count, (5.0, 20.0, 90.0, 140.0, 300.0), (-10.0, 0.0, 0.0, -20.0, -50.0), rng)
    hum = np.sin(2 * np.pi * session.mains_frequency * time + session.mains_phase)
    offset = rng.normal(0, 0.3)
    muscle_level = _MUSCLE_NOISE * np.exp(rng.normal(0, 0.3))
    return offset + factor * (wander + muscle_level * muscle) + session.mains_level * hum


# Heart sound -------------------------------------------------------------------------------------


def render_pcg(
    patient: SimulatedPatient, beats: BeatSequence, count: int, rng: np.random.Generator
) -> Floats:
    """Return the heart sound without noise, shape (count,); an ordinary S1 peaks at 1 before coloration."""
    phases = patient.body.sound_phases
    split = np.full_like(beats.respiration, 0.022)
    first = _tone_pair(beats.s1_onsets + 0.040, split, patient.s1_frequency, phases[:2], rng)
    split = patient.s2_split * (1 + 0.5 * beats.respiration)
    second = _tone_pair(beats.s2_onsets + 0.030, split, patient.s2_frequency, phases[2:], rng)
    sound = patient.s1_loudness * _placed(*first, count) + patient.s2_loudness * _placed(*second, count)
    sound += patient.s1_loudness * _murmur_sound(patient.murmur, beats, count, rng)
    return _colored(sound, patient.body)


def _tone_pair(
    centers: Floats, split: Floats, frequency: float, phases: tuple[float, ...], rng: np.random.Generator
) -> tuple[Floats, NDArray[np.intp]]:
    """Return two tone bursts a beat: waveforms and their sample numbers, both of shape (beats, window)."""
    places, grid = _windows(centers, _SOUND_WINDOW)
    loudness = np.exp(rng.normal(0, 0.12, (len(centers), 2)))
    width = 0.65 / frequency
    waveform = np.zeros_like(grid)
    for part, share in enumerate((0.75, 0.35)):
        time = grid - part * split[:, None]
        pitch = frequency * (1 + 0.2 * part)
        burst = np.exp(-0.5 * (time / width) ** 2) * np.cos(2 * np.pi * pitch * time + phases[part])
        waveform += share * loudness[:, part, None] * burst
    return waveform, places


def _murmur_envelope(murmur: Murmur, beats: BeatSequence, count: int) -> Floats:
    """Return the envelope of a murmur, 0 to 1, shape (count,): a trapezoid in each systole."""
    systole = beats.s2_onsets - beats.systole_onsets
    shares = np.array([murmur.start, murmur.rise, murmur.fall, murmur.end])
    corners = beats.systole_onsets[:, None] + systole[:, None] * shares
    heights = np.broadcast_to([0.0, 1.0, 1.0, 0.0], corners.shape)
    return np.interp(np.arange(count) / SAMPLING_RATE, corners.ravel(), heights.ravel())


def _murmur_sound(murmur: Murmur, beats: BeatSequence, count: int, rng: np.random.Generator) -> Floats:
    """Return a murmur relative to the peak of S1, shape (count,); its beats are not all equally loud."""
    frequencies = np.array(COLORATION_FREQUENCIES)
    frequencies = np.unique(np.concatenate([frequencies, np.arange(30.0, 600.0, 10.0)]))
    gains = -4.34 * ((frequencies - murmur.frequency) / murmur.bandwidth) ** 2
    noise = _shaped_noise(count, tuple(frequencies), tuple(np.maximum(gains, -60.0)), rng)
    factors = np.exp(rng.normal(0, 0.15, len(beats.r_peaks)))
    strength = np.interp(np.arange(count) / SAMPLING_RATE, beats.r_peaks, factors)
    return murmur.loudness * strength * _murmur_envelope(murmur, beats, count) * noise


def pcg_noise(
    patient: SimulatedPatient, session: Session, count: int, factor: float, rng: np.random.Generator
) -> Floats:
    """Return room noise, breath and handling noise of a heart sound, shape (count,)."""
    time = np.arange(count) / SAMPLING_RATE
    room = _shaped_noise(count, COLORATION_FREQUENCIES, session.room_gains, rng)
    breath = _colored(
        _shaped_noise(count, (40.0, 100.0, 200.0, 500.0), (-8.0, 0.0, -6.0, -30.0), rng), patient.body
    )
    cycle = 1 + np.sin(2 * np.pi * patient.respiration_rate * time + rng.uniform(0, 2 * np.pi))
    breath_level = 0.016 * np.exp(rng.normal(0, 0.4))
    noise = factor * (session.room_level * room + breath_level * cycle * breath)
    for _ in range(rng.poisson(0.08 * count / SAMPLING_RATE)):
        start = rng.uniform(0, count / SAMPLING_RATE)
        decay = np.where(time < start, 0.0, np.exp(-np.maximum(time - start, 0) / rng.uniform(0.02, 0.08)))
        noise += rng.uniform(0.2, 0.8) * decay * rng.normal(size=count) * 0.5
    return noise


# Shared ------------------------------------------------------------------------------------------


def _windows(centers: Floats, window: tuple[float, float]) -> tuple[NDArray[np.intp], Floats]:
    """Return samples around each center, and their times relative to it in seconds: (beats, window)."""
    first = np.round((centers + window[0]) * SAMPLING_RATE).astype(np.intp)
    places = first[:, None] + np.arange(round((window[1] - window[0]) * SAMPLING_RATE))
    return places, places / SAMPLING_RATE - centers[:, None]


def _placed(waveform: Floats, places: NDArray[np.intp], count: int) -> Floats:
    """Return waveforms added up where they belong, shape (count,); what lies outside is dropped."""
    inside = (places >= 0) & (places < count)
    return np.bincount(places[inside], waveform[inside], count).astype(np.float64)


def _shaped_noise(
    count: int, frequencies: tuple[float, ...], gains: tuple[float, ...], rng: np.random.Generator
) -> Floats:
    """Return Gaussian noise of unit variance, shape (count,), with gains in decibels at some frequencies."""
    shape = _response(count, frequencies, gains)
    noise = np.fft.irfft(np.fft.rfft(rng.normal(size=count)) * shape, count)
    return noise / np.std(noise)


def _colored(sound: Floats, body: Body) -> Floats:
    """Return a sound as chest and sensor let it through."""
    response = _response(len(sound), COLORATION_FREQUENCIES, body.sound_gains)
    return np.fft.irfft(np.fft.rfft(sound) * response, len(sound))


def _response(count: int, frequencies: tuple[float, ...], gains: tuple[float, ...]) -> Floats:
    """Return amplitude factors at the frequencies of a real FFT, linear in decibels over log frequency."""
    axis = np.fft.rfftfreq(count, 1 / SAMPLING_RATE)
    decibels = np.interp(np.log(np.maximum(axis, 1e-3)), np.log(frequencies), gains)
    return 10 ** (decibels / 20)
