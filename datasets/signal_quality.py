"""How good the signals of one recording are: what is doubtful about them, measured and said in a sentence.

Limits come from training-a of PhysioNet/CinC 2016: of its 392 recordings that were labelled good, each limit
on noise flags 2 to 10 % (the ECG's agreement most, where R-peaks are hard to find). They say which recordings
to look at before a probability is believed; they do not say which probabilities are right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import signal as scipy_signal

from datasets.beat_agreement import BAND, agreement
from datasets.beats import r_peaks
from datasets.recordings import Recording, Signal
from datasets.signals import Floats, fill_gaps
from datasets.sound_delay import IN_STEP, sound_delay

NAMES = {"ecg": "ECG", "pcg": "heart sound"}
SHORTEST, SHORT = 5.0, 10.0
"""Lengths below which a recording is refused, and below which it is doubted, seconds."""
FLAT_WINDOW, FLAT_RANGE, LARGEST_FLAT = 0.5, 1e-5, 0.02
"""Windows in which nothing moves, seconds; the range that counts as nothing, as a share of the signal's; the
share of such windows that is borne."""
RAIL_RUN, LARGEST_CLIPPED = 3, 1e-3
"""Samples in a row at the highest or lowest value that make a clipped peak; share of them that is borne."""
LARGEST_MISSING = 0.01
SMALLEST_IN_BAND = {"ecg": 0.7, "pcg": 0.9}
"""Share of the power from the lower edge of the band up that must lie within it."""
NEEDED_RATE = {"ecg": 100.0, "pcg": 1000.0}
"""Rate below which a signal lacks much of what models were trained on, hertz."""
SMALLEST_AGREEMENT = {"ecg": 0.7, "pcg": 0.5}
"""Correlation of a beat with the mean of the others below which a signal is noisy, or its beats are wrong."""
NO_HEART = 0.3
"""Agreement below which a signal shows no heart beat."""
LARGEST_DIFFERENCE = 1.0
"""Seconds by which ECG and heart sound may differ in length."""
HEART_RATES = (35.0, 180.0)
"""Heart rates at rest that are believed, beats a minute; another rate suggests a wrong sampling rate."""


@dataclass(frozen=True)
class SignalWarning:
    """One thing that is doubtful about a recording.

    Attributes
    ----------
    code : str
        A word for programs: flat, clipped, gaps, noisy, short, rate, heart-rate, out-of-step, ...
    signal : {"ecg", "pcg", ""}
        What it is about; empty: the whole recording. Of a patient: the view.
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
        For each signal what `measure` says, and its ``agreement`` where there are beats enough.
    sound_delay : float or None
        Seconds from the R-peak to where S1 is loudest; None where it cannot be told.
    warnings : list of SignalWarning
    """

    signals: dict[str, dict[str, float]]
    sound_delay: float | None
    warnings: list[SignalWarning]

    def shows_no_heart(self, used: Iterable[str]) -> bool:
        """Whether none of these signals repeats from beat to beat."""
        agreed = [self.signals[kind].get("agreement", 1.0) for kind in used]
        return bool(agreed) and max(agreed) < NO_HEART


def examine(recording: Recording, spans: Floats) -> Quality:
    """Return how good the signals of a recording are, and whether they fit each other.

    Parameters
    ----------
    recording : Recording
    spans : numpy.ndarray, shape (beats, 2)
        Start and end of its beats, seconds; by them the beats of the heart sound are compared.
    """
    present = {kind: signal for kind in NAMES if (signal := getattr(recording, kind)) is not None}
    metadata = {kind: measure(signal, kind) for kind, signal in present.items()}
    peaks = np.zeros(0)
    if recording.ecg is not None:
        ecg = fill_gaps(recording.ecg.samples.astype(np.float64))
        peaks = r_peaks(ecg, recording.ecg.sampling_rate)
    starts = {"ecg": peaks, "pcg": np.asarray(spans)[:, 0] if len(spans) else peaks}
    for kind, signal in present.items():
        agreed = agreement(signal, kind, starts[kind])
        if np.isfinite(agreed):
            metadata[kind]["agreement"] = agreed
    duration = min(signal.duration for signal in present.values())
    warnings = [warning for kind in present for warning in warnings_of_signal(metadata[kind], kind)]
    warnings += warnings_of_length(duration) + warnings_of_rhythm(spans)
    delay = None
    if len(present) == 2:
        warnings += _warnings_of_ends(present)
        if metadata["ecg"].get("agreement", 0.0) >= SMALLEST_AGREEMENT["ecg"]:
            delay, doubts = _step(present["pcg"], peaks)
            warnings += doubts
    return Quality(metadata, delay, warnings)


def _step(pcg: Signal, peaks: Floats) -> tuple[float | None, list[SignalWarning]]:
    """Return the delay of the heart sound after the R-peaks, and the doubt it raises."""
    measured = sound_delay(pcg, peaks)
    if measured is None:
        return None, []
    delay, in_step = measured
    text = (
        f"ECG and heart sound are out of step: S1 is loudest {1000 * delay:+.0f} ms from the R-peak, and a "
        f"heart takes {1000 * IN_STEP[0]:.0f} to {1000 * IN_STEP[1]:.0f} ms. Did both start together?"
    )
    return delay, [] if in_step else [SignalWarning("out-of-step", "", text)]


def _warnings_of_ends(present: Mapping[str, Signal]) -> list[SignalWarning]:
    """Return the doubt about signals of which one goes on when the other has ended."""
    ecg, pcg = present["ecg"].duration, present["pcg"].duration
    if abs(ecg - pcg) <= LARGEST_DIFFERENCE:
        return []
    text = f"The ECG lasts {ecg:.1f} s and the heart sound {pcg:.1f} s: were they recorded together?"
    return [SignalWarning("lengths", "", text)]


def measure(signal: Signal, kind: str) -> dict[str, float]:
    """Return what one signal is like.

    Parameters
    ----------
    signal : Signal
    kind : {"ecg", "pcg"}

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
        "in_band": in_band_share(samples, signal.sampling_rate, kind),
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


def in_band_share(samples: Floats, sampling_rate: float, kind: str) -> float:
    """Return the share of the power, from the lower edge of the heart's band up, that lies in the band."""
    low, high = BAND[kind]
    frequency, power = scipy_signal.welch(
        samples - samples.mean(), sampling_rate, nperseg=min(len(samples), round(2 * sampling_rate))
    )
    above = power[frequency >= low].sum()
    return float(power[(frequency >= low) & (frequency <= high)].sum() / above) if above > 0 else 0.0


def warnings_of_signal(metadata: Mapping[str, Any], kind: str) -> list[SignalWarning]:
    """Return what is doubtful about one signal, from its `measure` and, where known, its ``agreement``."""
    name = NAMES[kind]
    agreed = metadata.get("agreement")
    low, high = BAND[kind]
    doubts = [
        (
            "gaps",
            metadata["missing"] > LARGEST_MISSING,
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
            metadata["sampling_rate"] < NEEDED_RATE[kind],
            f"The {name} is sampled at {metadata['sampling_rate']:g} Hz, so nothing above "
            f"{metadata['sampling_rate'] / 2:g} Hz is in it; models were trained on more.",
        ),
        (
            "noisy",
            metadata["in_band"] < SMALLEST_IN_BAND[kind],
            f"The {name} is noisy: {metadata['in_band']:.0%} of its power is at {low:g} to {high:g} Hz.",
        ),
        (
            "noisy",
            agreed is not None and agreed < SMALLEST_AGREEMENT[kind],
            f"The beats of the {name} do not look alike (agreement {agreed or 0:.2f} of 1): it is noisy, or "
            "its beats were not found rightly.",
        ),
    ]
    return [SignalWarning(code, kind, text) for code, doubtful, text in doubts if doubtful]


def warnings_of_rhythm(spans: Floats) -> list[SignalWarning]:
    """Return what is doubtful about a heart rate that no heart at rest has; ``spans`` (beats, 2), seconds."""
    if not len(spans):
        return []
    rate = 60 / float(np.median(spans[:, 1] - spans[:, 0]))
    if HEART_RATES[0] <= rate <= HEART_RATES[1]:
        return []
    text = (
        f"The heart rate would be {rate:.0f} a minute: is the sampling rate right, were beats found rightly?"
    )
    return [SignalWarning("heart-rate", "", text)]


def warnings_of_length(seconds: float) -> list[SignalWarning]:
    """Return the doubt about a short recording."""
    if seconds >= SHORT:
        return []
    text = f"It lasts {seconds:.1f} s; {SHORT:g} s or more give a steadier answer."
    return [SignalWarning("short", "", text)]
