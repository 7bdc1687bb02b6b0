"""Corruptions of signals: noise, clipping, delay and lower sampling rates, each by name and level.

What is random comes from the seed, the recording and the noise alone, not from the order of work. The level
only scales it, so a curve over levels does not depend on other random numbers.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.signal.windows import hann

from common.errors import UserError
from datasets.recordings import Signal
from datasets.signals import Floats, fill_gaps, resample
from datasets.sources import DataError
from systems.ecg_pcg.settings import PreparationSettings
from systems.ecg_pcg.sources.beats_of_recording import MODALITIES, _condition, cut_samples

CLEAN = "clean"
"""Kind of a row without a corruption."""
SNR = (20.0, 10.0, 5.0, 0.0, -5.0)
"""Signal-to-noise ratios of the study, decibels."""
_PEAK_PERCENTILE = 99.9
"""Percentile of the distance from the median that counts as the peak of a signal, for clipping."""
_HARMONIC = 0.2
"""Amplitude of the third harmonic of mains hum; that of the fundamental is 1."""
_LONGEST_PERIOD = 40.0
"""Noise is drawn for at least so many seconds and cut, so that short recordings get slow noise as well."""
_SILENT = -100.0
"""Gain, decibels, that stands for nothing at all."""
_WANDER_GAINS = ((0.02, 6.0), (0.1, 3.0), (0.3, 0.0), (0.45, -20.0), (0.5, _SILENT))
_MUSCLE_GAINS = ((18.0, _SILENT), (22.0, -6.0), (50.0, 0.0), (90.0, 0.0), (145.0, -6.0), (155.0, _SILENT))
_AMBIENT_GAINS = ((20.0, -30.0), (60.0, 0.0), (600.0, -10.0), (780.0, -20.0), (850.0, _SILENT))
_RUB_GAINS = ((50.0, _SILENT), (100.0, -10.0), (250.0, 0.0))
"""Spectra of noises: corners in hertz and decibels, straight between them over the logarithm of frequency."""


# Noise: (number of samples, sampling rate, random stream) -> noise of any power, shape (n,) ----------------


def _baseline_wander(count: int, sampling_rate: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Return what breathing and electrodes do to an ECG: drift below 0.5 Hz."""
    return _shaped(count, sampling_rate, _WANDER_GAINS, random)


def muscle(count: int, sampling_rate: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Return what muscles add to an ECG: 20-150 Hz, in bursts of half a second to two."""
    envelope = 0.2 + _bursts(count, sampling_rate, 0.4, (0.5, 2.0), random)
    return envelope * _shaped(count, sampling_rate, _MUSCLE_GAINS, random)


def mains(
    count: int, sampling_rate: float, random: np.random.Generator, *, frequency: float
) -> NDArray[np.float64]:
    """Return mains hum: a sine and its third harmonic, each where it is below half the sampling rate."""
    time = np.arange(count) / sampling_rate
    phases = random.uniform(0, 2 * np.pi, 2)
    parts = zip((1, 3), (1.0, _HARMONIC), phases, strict=True)
    waves = [
        height * np.sin(2 * np.pi * times * frequency * time + phase)
        for times, height, phase in parts
        if times * frequency < sampling_rate / 2
    ]
    return np.sum([np.zeros(count), *waves], axis=0)


def white(count: int, sampling_rate: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Return Gaussian noise, the same at all frequencies."""
    return random.normal(size=count)


def ambient(count: int, sampling_rate: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Return the noise of a room: pinkish below 800 Hz, swelling and fading within seconds."""
    slow = _shaped(count, sampling_rate, ((0.2, 0.0), (1.0, -3.0), (4.0, _SILENT)), random)
    return np.exp(0.5 * slow / slow.std()) * _shaped(count, sampling_rate, _AMBIENT_GAINS, random)


def rub(count: int, sampling_rate: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Return friction of the stethoscope: broadband, in bursts of 20 to 150 ms, two a second."""
    envelope = 0.02 + _bursts(count, sampling_rate, 2.0, (0.02, 0.15), random)
    return envelope * _shaped(count, sampling_rate, _RUB_GAINS, random)


def _shaped(
    count: int, sampling_rate: float, gains: Sequence[tuple[float, float]], random: np.random.Generator
) -> NDArray[np.float64]:
    """Return Gaussian noise with gains in decibels at some frequencies, shape (count,)."""
    length = fft.next_fast_len(max(count, round(_LONGEST_PERIOD * sampling_rate)), real=True)
    frequency = np.maximum(fft.rfftfreq(length, 1 / sampling_rate), 1e-3)
    corners, decibels = zip(*gains, strict=True)
    gain = np.interp(np.log(frequency), np.log(corners), decibels)
    factor = np.where(gain > _SILENT, 10 ** (gain / 20), 0.0)
    return fft.irfft(factor * fft.rfft(random.normal(size=length)), length)[:count]


def _bursts(
    count: int,
    sampling_rate: float,
    per_second: float,
    lengths: tuple[float, float],
    random: np.random.Generator,
) -> NDArray[np.float64]:
    """Return an envelope of bumps at random times, of random length (seconds) and height, shape (count,)."""
    envelope = np.zeros(count)
    for _ in range(random.poisson(per_second * count / sampling_rate)):
        size = max(3, round(random.uniform(*lengths) * sampling_rate))
        start = int(random.integers(count))
        height = random.uniform(0.3, 1.0)
        envelope[start : start + size] += height * hann(size)[: count - start]
    return envelope


NOISES: dict[str, Callable[[int, float, np.random.Generator], NDArray[np.float64]]] = {
    "wander": _baseline_wander,
    "muscle": muscle,
    "mains-50": functools.partial(mains, frequency=50.0),
    "mains-60": functools.partial(mains, frequency=60.0),
    "white": white,
    "ambient": ambient,
    "rub": rub,
}


def add_noise(signal: Floats, noise: Floats, snr: float) -> Floats:
    """Return a signal with noise added at a ratio of powers.

    Powers are variances over the samples that are there; a drifting baseline counts as signal. A flat
    signal has no power to which noise could be scaled, and stays as it is.

    Parameters
    ----------
    signal : numpy.ndarray, shape (n,)
        Gaps may be NaN, and stay.
    noise : numpy.ndarray, shape (n,)
        Of any power.
    snr : float
        10 log10(power of the signal / power of the noise), decibels.

    Raises
    ------
    ValueError
        If the noise is flat and the signal is not.
    """
    there = np.isfinite(signal)
    power = signal[there].var() if there.any() else 0.0
    if power == 0:
        return signal
    centred = noise - noise[there].mean()
    deviation = centred[there].std()
    if deviation == 0:
        raise ValueError("The noise is flat.")
    return signal + centred * (np.sqrt(power) * 10 ** (-snr / 20) / deviation)


# Other changes: (signal, sampling rate, level) -> (signal, sampling rate) ----------------------------------


def clip(signal: Floats, sampling_rate: float, level: float) -> tuple[Floats, float]:
    """Return a signal cut off at a share of its peak on both sides of its median."""
    middle = np.nanmedian(signal)
    peak = np.nanpercentile(np.abs(signal - middle), _PEAK_PERCENTILE)
    return np.clip(signal, middle - level * peak, middle + level * peak), sampling_rate


def delay(signal: Floats, sampling_rate: float, milliseconds: float) -> tuple[Floats, float]:
    """Return a signal that comes later (earlier, if negative), its length kept, its first value held."""
    steps = round(milliseconds / 1000 * sampling_rate)
    source = np.clip(np.arange(len(signal)) - steps, 0, len(signal) - 1)
    return fill_gaps(signal)[source], sampling_rate


def _lower_rate(signal: Floats, sampling_rate: float, target_rate: float) -> tuple[Floats, float]:
    """Return a signal anti-aliased to a lower rate; one that has no higher rate stays as it is."""
    if sampling_rate <= target_rate:
        return signal, sampling_rate
    return resample(fill_gaps(signal), sampling_rate, target_rate), target_rate


CHANGES: dict[str, Callable[[Floats, float, float], tuple[Floats, float]]] = {
    "clip": clip,
    "delay": delay,
    "lower-rate": _lower_rate,
}


# What there is to choose from ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One kind of corruption.

    Attributes
    ----------
    unit : str
        Of the levels.
    levels : tuple of float
        Those of the study, the mildest first where there is an order.
    changes : mapping of str to str
        For "ecg" and "pcg" what happens to it, by name in `NOISES` or `CHANGES`.
    signals : tuple of str
        Signals it can be done to: "ecg" alone, "pcg" alone, "both".
    """

    unit: str
    levels: tuple[float, ...]
    changes: Mapping[str, str]
    signals: tuple[str, ...]

    def allows(self, level: float) -> bool:
        """Whether a level has a meaning."""
        in_range = {"of peak": 0 < level <= 1, "Hz": level > 0}.get(self.unit, True)
        return bool(np.isfinite(level)) and in_range


def _everywhere(name: str) -> dict[str, str]:
    return dict.fromkeys(MODALITIES, name)


EACH = ("ecg", "pcg", "both")
KINDS: dict[str, Kind] = {
    "wander": Kind("dB", SNR, {"ecg": "wander"}, ("ecg",)),
    "muscle": Kind("dB", SNR, {"ecg": "muscle"}, ("ecg",)),
    "mains-50": Kind("dB", SNR, {"ecg": "mains-50"}, ("ecg",)),
    "mains-60": Kind("dB", SNR, {"ecg": "mains-60"}, ("ecg",)),
    "ambient": Kind("dB", SNR, {"pcg": "ambient"}, ("pcg",)),
    "rub": Kind("dB", SNR, {"pcg": "rub"}, ("pcg",)),
    "white": Kind("dB", SNR, _everywhere("white"), EACH),
    "movement": Kind("dB", SNR, {"ecg": "muscle", "pcg": "rub"}, ("both",)),
    "room": Kind("dB", SNR, {"ecg": "mains-50", "pcg": "ambient"}, ("both",)),
    "clipping": Kind("of peak", (0.5, 0.25, 0.1), _everywhere("clip"), EACH),
    "shift": Kind("ms", (-200.0, -100.0, -50.0, 50.0, 100.0, 200.0), {"ecg": "delay"}, ("ecg",)),
    "rate": Kind("Hz", (1000.0, 500.0, 250.0, 125.0), _everywhere("lower-rate"), EACH),
}
"""All kinds. Movement and room put on both signals at once what muscle and rub, or mains and ambient noise,
put on one. A shift moves the ECG, as the onsets belong to the heart sound."""


@dataclass(frozen=True)
class Corruption:
    """One corruption of signals.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    signal : {"ecg", "pcg", "both"}
        What it is done to.
    level : float
        Signal-to-noise ratio, share of the peak, milliseconds by which the ECG comes later, or hertz.

    Raises
    ------
    UserError
        If there is no such kind, or it cannot be done to that signal or at that level.
    """

    kind: str
    signal: str
    level: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"There is no corruption {self.kind!r}: choose from {', '.join(KINDS)}.")
        kind = KINDS[self.kind]
        if self.signal not in kind.signals:
            raise UserError(f"{self.kind} is done to {' or '.join(kind.signals)}, not to {self.signal!r}.")
        if not kind.allows(self.level):
            raise UserError(f"{self.kind} has no level {self.level:g} {kind.unit}.")

    def change(self, modality: str) -> str | None:
        """Return the name of what happens to "ecg" or "pcg", or None."""
        return KINDS[self.kind].changes.get(modality) if self.signal in (modality, "both") else None


def corruptions(kinds: Sequence[str] = tuple(KINDS)) -> list[Corruption]:
    """Return the corruptions of some kinds: every signal they are done to, every level."""
    unknown = [name for name in kinds if name not in KINDS]
    if unknown:
        raise UserError(f"There is no corruption {unknown[0]!r}: choose from {', '.join(KINDS)}.")
    return [
        Corruption(name, signal, level)
        for name in kinds
        for signal in KINDS[name].signals
        for level in KINDS[name].levels
    ]


def corrupt(
    signal: Floats, sampling_rate: float, modality: str, corruption: Corruption, recording: str, seed: int = 0
) -> tuple[Floats, float]:
    """Return one continuous signal as a corruption leaves it, and its sampling rate.

    Parameters
    ----------
    signal : numpy.ndarray, shape (n,)
        Gaps are NaN. Noise and clipping keep them; a delay or another rate bridges them with straight lines,
        as preparation does.
    sampling_rate : float
        Hertz.
    modality : {"ecg", "pcg"}
    corruption : Corruption
    recording : str
        Name of the recording; its noise is its own.
    seed : int

    Raises
    ------
    DataError
        If the noise lies wholly above half the sampling rate.
    """
    change = corruption.change(modality)
    if change is None or not np.isfinite(signal).any():
        return signal, sampling_rate
    precise = signal.astype(np.float64)
    if change in CHANGES:
        changed, sampling_rate = CHANGES[change](precise, sampling_rate, corruption.level)
        return changed.astype(np.float32), sampling_rate
    noise = NOISES[change](len(signal), sampling_rate, _stream(seed, recording, modality, change))
    try:
        return add_noise(precise, noise, corruption.level).astype(np.float32), sampling_rate
    except ValueError:
        raise DataError(
            f"The {modality.upper()} of {recording}, sampled at {sampling_rate:g} Hz, "
            f"cannot hold {change} noise: leave {corruption.kind} out."
        ) from None


def prepare_beats(
    signal: Floats, sampling_rate: float, modality: str, spans: Floats, settings: PreparationSettings
) -> NDArray[np.float32]:
    """Return the samples that preparation cuts from one (corrupted) signal, shape (beats, points)."""
    ready = _condition(Signal(signal.astype(np.float32), sampling_rate, 0.0, 0.0), modality, settings)
    return cut_samples(*ready, spans, settings)


def _stream(seed: int, *names: str) -> np.random.Generator:
    """Return a random stream that depends on the seed and the names alone."""
    digest = hashlib.sha256("|".join([str(seed), *names]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))
