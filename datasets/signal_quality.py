"""How good the signals of one recording are: measures, and a warning in a sentence for each that is poor.

Limits come from training-a of PhysioNet/CinC 2016: of its 392 recordings that were labelled good, each limit
on noise flags 2 to 10 % (the ECG's agreement most, where R-peaks are hard to find). They show which
recordings to look at before a probability is used, not which probabilities are right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # whose parts are read from disk at their first use
from numpy.typing import NDArray

from datasets.beats import r_peaks
from datasets.recordings import Recording, Signal
from datasets.signals import Floats, bandpass, fill_gaps, resample

NAMES = {"ecg": "ECG", "pcg": "heart sound"}
SHORTEST, SHORT = 5.0, 10.0
"""Lengths below which a recording is refused, and below which there is a warning, seconds."""
FLAT_WINDOW, FLAT_RANGE, LARGEST_FLAT = 0.5, 1e-5, 0.02
"""Windows in which nothing moves, seconds; the range that counts as nothing, as a share of the signal's; the
share of such windows that is borne."""
RAIL_RUN, LARGEST_CLIPPED = 3, 1e-3
"""Samples in a row at the highest or lowest value that make a clipped peak; share of them that is borne."""
_LARGEST_MISSING = 0.01
_SMALLEST_IN_BAND = {"ecg": 0.7, "pcg": 0.9}
"""Share of the power from the lower edge of the band up that must lie within it."""
_NEEDED_RATE = {"ecg": 100.0, "pcg": 1000.0}
"""Rate below which a signal lacks much of what models were trained on, hertz."""
_SMALLEST_AGREEMENT = {"ecg": 0.7, "pcg": 0.5}
"""Correlation of a beat with the mean of the others below which a signal is noisy, or its beats are wrong."""
NO_HEART = 0.3
"""Agreement below which a signal shows no heart beat."""
_LARGEST_DIFFERENCE = 1.0
"""Seconds by which ECG and heart sound may differ in length."""
_HEART_RATES = (35.0, 180.0)
"""Plausible heart rates at rest, beats a minute; another rate suggests a wrong sampling rate."""
BAND = {"ecg": (0.7, 40.0), "pcg": (20.0, 400.0)}
"""Frequencies of a heart, hertz; all below counts neither as heart nor as noise."""
_AGREEMENT_RATE = {"ecg": 250.0, "pcg": 200.0}
FEWEST_BEATS = 3
_IN_STEP = (-0.03, 0.13)
"""When S1 is loudest after the R-peak, seconds: on training-a 0.005 to 0.085 for 95 of 100 recordings."""
STEP_MARGIN, STEP_LIKENESS = 0.1, 0.6
"""Correlation that a pattern out of step must have more than any in step; agreement of the heart sound over
the R-to-R beats from which a step can be measured."""
_SYSTOLES = np.arange(0.22, 0.42, 0.02)
"""Times from S1 to S2 that are tried, seconds."""
_LONGEST_SYSTOLE = 0.55
"""Share of the cycle that systole takes at most."""


@dataclass(frozen=True)
class SignalWarning:
    """One thing that is doubtful about a recording.

    Attributes
    ----------
    code : str
        A word for programs: flat, clipped, gaps, noisy, short, rate, heart-rate, out-of-step, ...
    signal : {"ecg", "pcg", ""}
        What it is about; empty: the whole recording. Of a patient: the modality.
    text : str
        One sentence.
    """

    code: str
    signal: str
    text: str


@dataclass(frozen=True)
class Quality:
    """How good a recording is.

    Attributes
    ----------
    signals : dict of str to dict
        For each signal what `measure` returns, and its ``agreement`` where there are beats enough.
    sound_delay : float or None
        Seconds from the R-peak to where S1 is loudest; None where it cannot be measured.
    warnings : list of SignalWarning
    """

    signals: dict[str, dict[str, float]]
    sound_delay: float | None
    warnings: list[SignalWarning]

    def shows_no_heart(self, used: Iterable[str]) -> bool:
        """Whether none of these signals repeats from beat to beat."""
        agreed = [self.signals[modality].get("agreement", 1.0) for modality in used]
        return bool(agreed) and max(agreed) < NO_HEART


def examine(recording: Recording, spans: Floats) -> Quality:
    """Return how good the signals of a recording are, and whether they fit each other.

    Parameters
    ----------
    recording : Recording
    spans : numpy.ndarray, shape (beats, 2)
        Start and end of its beats, seconds; by them the beats of the heart sound are compared.
    """
    present = {modality: signal for modality in NAMES if (signal := getattr(recording, modality)) is not None}
    metadata = {modality: measure(signal, modality) for modality, signal in present.items()}
    peaks = np.zeros(0)
    if recording.ecg is not None:
        ecg = fill_gaps(recording.ecg.samples.astype(np.float64))
        peaks = r_peaks(ecg, recording.ecg.sampling_rate)
    starts = {"ecg": peaks, "pcg": np.asarray(spans)[:, 0] if len(spans) else peaks}
    for modality, signal in present.items():
        agreed = agreement(signal, modality, starts[modality])
        if np.isfinite(agreed):
            metadata[modality]["agreement"] = agreed
    duration = min(signal.duration for signal in present.values())
    warnings = [warning for name in present for warning in warnings_of_signal(metadata[name], name)]
    warnings += warnings_of_length(duration) + warnings_of_rhythm(spans)
    delay = None
    if len(present) == 2:
        warnings += _warnings_of_ends(present)
        if metadata["ecg"].get("agreement", 0.0) >= _SMALLEST_AGREEMENT["ecg"]:
            delay, warning = _step(present["pcg"], peaks)
            warnings += warning
    return Quality(metadata, delay, warnings)


def _step(pcg: Signal, peaks: Floats) -> tuple[float | None, list[SignalWarning]]:
    """Return the delay of the heart sound after the R-peaks, and a warning where no heart has it."""
    measured = sound_delay(pcg, peaks)
    if measured is None:
        return None, []
    delay, in_step = measured
    text = (
        f"ECG and heart sound are out of step: S1 is loudest {1000 * delay:+.0f} ms from the R-peak, and a "
        f"heart takes {1000 * _IN_STEP[0]:.0f} to {1000 * _IN_STEP[1]:.0f} ms. Did both start together?"
    )
    return delay, [] if in_step else [SignalWarning("out-of-step", "", text)]


def _warnings_of_ends(present: Mapping[str, Signal]) -> list[SignalWarning]:
    """Return a warning about signals of which one goes on when the other has ended."""
    ecg, pcg = present["ecg"].duration, present["pcg"].duration
    text = f"The ECG lasts {ecg:.1f} s and the heart sound {pcg:.1f} s: were they recorded together?"
    return [] if abs(ecg - pcg) <= _LARGEST_DIFFERENCE else [SignalWarning("lengths", "", text)]


def measure(signal: Signal, modality: str) -> dict[str, float]:
    """Return what one signal is like.

    Parameters
    ----------
    signal : Signal
    modality : {"ecg", "pcg"}

    Returns
    -------
    dict of str to float
        ``duration`` (seconds), ``sampling_rate`` (hertz), and shares from 0 to 1: ``missing``, ``clipped``,
        ``flat``, ``in_band``.
    """
    samples = fill_gaps(signal.samples.astype(np.float64))
    return {
        "duration": signal.duration,
        "sampling_rate": signal.sampling_rate,
        "missing": float(np.isnan(signal.samples).mean()),
        "clipped": max(signal.saturated, clipped_share(samples)),
        "flat": flat_share(samples, signal.sampling_rate),
        "in_band": in_band_share(samples, signal.sampling_rate, modality),
    }


def clipped_share(samples: Floats) -> float:
    """Return the share of samples in runs of three or more at the highest or the lowest value."""
    counted = 0
    for extreme in (samples.max(), samples.min()):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], (samples == extreme).astype(np.int8), [0]))))
        lengths = edges[1::2] - edges[::2]
        counted += int(lengths[lengths >= RAIL_RUN].sum())
    return counted / len(samples)


def flat_share(samples: Floats, sampling_rate: float) -> float:
    """Return the share of half-second windows in which nothing moves; 1 for a constant signal."""
    size = max(2, round(FLAT_WINDOW * sampling_rate))
    count = len(samples) // size
    if not count:
        return float(np.ptp(samples) == 0)
    ranges = np.ptp(samples[: count * size].reshape(count, size), axis=1)
    return float((ranges <= FLAT_RANGE * np.ptp(samples)).mean())


def in_band_share(samples: Floats, sampling_rate: float, modality: str) -> float:
    """Return the share of the power, from the lower edge of the heart's band up, that lies in the band."""
    low, high = BAND[modality]
    frequency, power = scipy.signal.welch(
        samples - samples.mean(), sampling_rate, nperseg=min(len(samples), round(2 * sampling_rate))
    )
    above = power[frequency >= low].sum()
    return float(power[(frequency >= low) & (frequency <= high)].sum() / above) if above > 0 else 0.0


def warnings_of_signal(metadata: Mapping[str, Any], modality: str) -> list[SignalWarning]:
    """Return what is doubtful about one signal, from its `measure` and, where known, its ``agreement``."""
    name = NAMES[modality]
    agreed = metadata.get("agreement")
    low, high = BAND[modality]
    checks = [
        (
            "gaps",
            metadata["missing"] > _LARGEST_MISSING,
            f"{metadata['missing']:.1%} of the {name} is missing.",
        ),
        (
            "flat",
            metadata["flat"] > LARGEST_FLAT,
            f"The {name} is flat for {metadata['flat']:.0%} of the time.",
        ),
        (
            "clipped",
            metadata["clipped"] > LARGEST_CLIPPED,
            f"{metadata['clipped']:.2%} of the {name} is clipped: record it more softly.",
        ),
        (
            "rate",
            metadata["sampling_rate"] < _NEEDED_RATE[modality],
            f"The {name} is sampled at {metadata['sampling_rate']:g} Hz, so nothing above "
            f"{metadata['sampling_rate'] / 2:g} Hz is in it; models were trained on more.",
        ),
        (
            "noisy",
            metadata["in_band"] < _SMALLEST_IN_BAND[modality],
            f"The {name} is noisy: {metadata['in_band']:.0%} of its power is at {low:g} to {high:g} Hz.",
        ),
        (
            "noisy",
            agreed is not None and agreed < _SMALLEST_AGREEMENT[modality],
            f"The beats of the {name} do not look alike (agreement {agreed or 0:.2f} of 1): it is noisy, or "
            "its beats were not found rightly.",
        ),
    ]
    return [SignalWarning(code, modality, text) for code, doubtful, text in checks if doubtful]


def warnings_of_rhythm(spans: Floats) -> list[SignalWarning]:
    """Return what is doubtful about a heart rate that no heart at rest has; ``spans`` (beats, 2), seconds."""
    if not len(spans):
        return []
    rate = 60 / float(np.median(spans[:, 1] - spans[:, 0]))
    if _HEART_RATES[0] <= rate <= _HEART_RATES[1]:
        return []
    text = (
        f"The heart rate would be {rate:.0f} a minute: is the sampling rate right, were beats found rightly?"
    )
    return [SignalWarning("heart-rate", "", text)]


def warnings_of_length(seconds: float) -> list[SignalWarning]:
    """Return a warning about a short recording."""
    text = f"It lasts {seconds:.1f} s; {SHORT:g} s or more give a steadier prediction."
    return [] if seconds >= SHORT else [SignalWarning("short", "", text)]


# How alike beats are: what repeats with every beat is a heart, what does not is noise -------------------


def loudness(pcg: Signal) -> Floats:
    """Return the envelope of a heart sound at 200 Hz: 25-400 Hz, squared, below 20 Hz, root."""
    rate = min(1000.0, pcg.sampling_rate)
    slow = resample(fill_gaps(pcg.samples.astype(np.float64)), pcg.sampling_rate, rate)
    energy = bandpass(slow, rate, (25.0, 400.0)) ** 2
    smooth = scipy.signal.sosfiltfilt(scipy.signal.butter(2, 20.0, fs=rate, output="sos"), energy)
    return resample(np.sqrt(np.maximum(smooth, 0)), rate, _AGREEMENT_RATE["pcg"])


def agreement(signal: Signal, modality: str, starts: Floats) -> float:
    """Return how alike the beats of a signal are: 1 all the same, about 0 noise, NaN for too few beats.

    The median over the beats of the correlation between a beat and the mean of all others, over four fifths
    of the median beat; of a heart sound, between their envelopes.

    Parameters
    ----------
    signal : Signal
    modality : {"ecg", "pcg"}
    starts : numpy.ndarray, shape (beats,)
        R-peaks, or S1 onsets, seconds.
    """
    if len(starts) < FEWEST_BEATS:
        return float("nan")
    rate = _AGREEMENT_RATE[modality]
    if modality == "pcg":
        shape = loudness(signal)
    else:
        slow = resample(fill_gaps(signal.samples.astype(np.float64)), signal.sampling_rate, rate)
        shape = bandpass(slow, rate, BAND["ecg"])
    cycle = float(np.median(np.diff(starts)))
    return likeness(windows(shape, rate, starts, (-0.2 * cycle, 0.6 * cycle)))


def windows(shape: Floats, rate: float, times: Floats, reach: tuple[float, float]) -> NDArray[np.float64]:
    """Return what lies around each time, from ``reach[0]`` to ``reach[1]`` seconds, (complete ones, n)."""
    offsets = np.arange(round(reach[0] * rate), round(reach[1] * rate))
    rows = np.round(np.asarray(times) * rate).astype(int)[:, None] + offsets
    complete = (rows[:, :1] >= 0).all(axis=1) & (rows[:, -1:] < len(shape)).all(axis=1)
    return np.asarray(shape[rows[complete]], dtype=np.float64)


def likeness(beats: NDArray[np.float64]) -> float:
    """Return the median correlation of a beat with the mean of all others; NaN for fewer than three."""
    if len(beats) < FEWEST_BEATS:
        return float("nan")
    centred = beats - beats.mean(axis=1, keepdims=True)
    scale = centred.std(axis=1, keepdims=True)
    standard = centred / np.where(scale > 0, scale, 1.0)
    others = (standard.sum(axis=0) - standard) / (len(beats) - 1)
    deviation = others.std(axis=1)
    shared = (standard * others).mean(axis=1)
    correlation = np.divide(shared, deviation, out=np.zeros_like(shared), where=deviation > 0)
    return float(np.median(correlation))


# When S1 is loudest after the R-peak -----------------------------------------------------------------


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
        where the heart sound does not repeat with the R-peaks clearly enough.
    """
    if len(peaks) < FEWEST_BEATS:
        return None
    rate, cycle = _AGREEMENT_RATE["pcg"], float(np.median(np.diff(peaks)))
    beats = windows(loudness(pcg), rate, peaks, (-cycle / 2, cycle / 2))
    if len(beats) < FEWEST_BEATS or not likeness(beats) >= STEP_LIKENESS:
        return None
    beats = beats / np.maximum(np.median(beats, axis=1, keepdims=True), 1e-12)
    delays, fit = _two_sounds(np.median(beats, axis=0), rate)
    possible = (delays >= _IN_STEP[0]) & (delays <= _IN_STEP[1])
    in_step = bool(fit[possible].max(initial=-1.0) >= fit.max() - STEP_MARGIN)
    best = np.where(possible, fit, -1.0).argmax() if in_step else fit.argmax()
    return float(delays[best]), in_step


def _two_sounds(cycle: NDArray[np.float64], rate: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return delays (n,) and, for each, the best correlation (n,) of the cycle with an S1 there and an S2."""
    count = len(cycle)
    time = np.arange(count) / rate
    spectrum = np.fft.rfft(_standard(cycle))
    fits = []
    for systole in _SYSTOLES:
        if systole >= _LONGEST_SYSTOLE * count / rate:
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
