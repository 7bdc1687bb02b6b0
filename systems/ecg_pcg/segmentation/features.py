"""Envelopes of a heart sound at 50 frames a second, from which its states are derived, and how they repeat.

After Schmidt et al., Physiological Measurement 31:513 (2010), and Springer, Tarassenko and Clifford, IEEE
Transactions on Biomedical Engineering 63:822 (2016), with more bands than theirs. At 1000 Hz, band-passed
25-400 Hz, spikes removed:

homomorphic   magnitude of the analytic signal, logarithm, low-pass 8 Hz
Hilbert       magnitude of the analytic signal, low-pass 20 Hz, logarithm
5 bands       25-40, 40-60, 60-100, 100-180, 180-400 Hz: power, low-pass 12 Hz, logarithm

Logarithms are standardized by median and spread over the recording, so that neither its loudness nor a
loud stretch moves them.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, special
from scipy import signal as scipy_signal

from common.files import write_json
from datasets.signals import Floats, bandpass, fill_gaps, resample
from datasets.sources import DataError
from systems.ecg_pcg.features.spectral import FLAT, remove_spikes

FRAME_RATE = 50
"""Frames a second; frame k stands for the time k / 50 s."""
_SOUND_RATE = 1000.0
"""Rate to which the heart sound is brought first, hertz."""
_SOUND_BAND = (25.0, 400.0)
"""Pass band of the heart sound, hertz."""
BANDS = ((25.0, 40.0), (40.0, 60.0), (60.0, 100.0), (100.0, 180.0), (180.0, 400.0))
"""Bands whose power is followed, hertz."""
_HOMOMORPHIC_EDGE, _HILBERT_EDGE, _POWER_EDGE = 8.0, 20.0, 12.0
"""Edges of the low-passes, hertz."""
QUIET = 1e-3
"""Share of the median envelope below which all is silence, so that its logarithm exists."""
SPREAD = 2.563
"""Distance of the 10th from the 90th percentile of a normal distribution, in standard deviations."""
_SMALLEST_SPREAD = 0.05
_RANGE = (-4.0, 6.0)
"""Standardized values are cut off here."""
SHORTEST_DURATION = 3.0
"""Shortest heart sound that is segmented, seconds."""
_SLOWEST_RATE = 500.0
"""Lowest sampling rate that is segmented, hertz."""
_LONGEST_BRIDGED = 0.1
"""Longest run of missing samples that interpolation makes good, seconds."""
_LONGEST_CONSTANT = 2.0
"""A signal that stays the same for longer than any diastole was interrupted, seconds."""


def _check_heart_sound(pcg: Floats, sampling_rate: float) -> None:
    """Refuse a heart sound that cannot be segmented.

    Raises
    ------
    DataError
        If it is not one channel, too short, sampled too slowly, empty of numbers, or flat.
    """
    if np.ndim(pcg) != 1:
        raise DataError(
            f"A heart sound has one channel, and this one has the shape {np.shape(pcg)}: choose one of them."
        )
    if not np.isfinite(sampling_rate) or sampling_rate < _SLOWEST_RATE:
        raise DataError(
            f"The heart sound has {sampling_rate:g} samples a second, and {_SLOWEST_RATE:g} or more are "
            "needed to find the heart states: check the rate, or record at 1000 Hz or more."
        )
    if len(pcg) < SHORTEST_DURATION * sampling_rate:
        raise DataError(
            f"The heart sound lasts {len(pcg) / sampling_rate:.2f} s, and {SHORTEST_DURATION:g} s or more "
            "are needed to find the heart states: record for longer."
        )
    present = ~interruptions(pcg, sampling_rate)
    if present.sum() < SHORTEST_DURATION * sampling_rate:
        raise DataError(
            f"Only {present.sum() / sampling_rate:.2f} s of the heart sound hold a signal, as the rest is "
            f"missing or constant; {SHORTEST_DURATION:g} s or more are needed to find the heart states."
        )


def interruptions(signal: Floats, sampling_rate: float) -> NDArray[np.bool_]:
    """Return which samples are missing, or constant for longer than any heart is silent, shape (n,)."""
    missing = ~np.isfinite(signal)
    steady = np.concatenate(([False], np.diff(signal) == 0)) | missing
    interrupted = np.zeros(len(signal), dtype=bool)
    for lost, longest in ((missing, _LONGEST_BRIDGED), (steady, _LONGEST_CONSTANT)):
        for start, stop in runs(lost):
            if stop - start > longest * sampling_rate:
                interrupted[start:stop] = True
    return interrupted


def runs(marked: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return first and past-the-last place of each run of True, shape (runs, 2)."""
    edges = np.diff(np.concatenate(([0], marked.astype(np.int8), [0])))
    return np.flatnonzero(edges).reshape(-1, 2)


@dataclass(frozen=True)
class Envelopes:
    """The envelopes of one heart sound.

    Attributes
    ----------
    levels : numpy.ndarray, shape (frames, 7)
        Homomorphic and Hilbert envelope, then the bands; standardized.
    heard : numpy.ndarray of bool, shape (frames,)
        Where the heart sound is not interrupted; elsewhere levels are zero.
    interruptions : numpy.ndarray, shape (n, 2)
        First and last second of each interruption.
    """

    levels: NDArray[np.float64]
    heard: NDArray[np.bool_]
    interruptions: NDArray[np.float64]


def envelopes(pcg: Floats, sampling_rate: float) -> Envelopes:
    """Return the envelopes of a heart sound.

    Parameters
    ----------
    pcg : numpy.ndarray, shape (n,)
        Gaps may be NaN; the unit does not matter.
    sampling_rate : float
        Hertz.

    Raises
    ------
    DataError
        If the heart sound cannot be segmented (`_check_heart_sound`), or is flat after the filter.
    """
    _check_heart_sound(pcg, sampling_rate)
    lost = runs(interruptions(pcg, sampling_rate)) / sampling_rate
    sound = fill_gaps(np.where(np.isfinite(pcg), pcg, np.nan).astype(np.float64))
    sound = resample(sound, sampling_rate, _SOUND_RATE)
    filtered = bandpass(sound, _SOUND_RATE, _SOUND_BAND)
    if filtered.std() <= FLAT * np.abs(sound).max():
        raise DataError(
            "The heart sound is flat between 25 and 400 Hz, so no heart states can be found in it: "
            "check the microphone and the channel."
        )
    levels = _levels(remove_spikes(filtered / filtered.std(), _SOUND_RATE))
    heard = np.ones(len(levels), dtype=bool)
    for start, stop in lost * FRAME_RATE:
        heard[max(int(start) - 1, 0) : int(np.ceil(stop)) + 2] = False
    if not heard.any():
        raise DataError("The heart sound is interrupted too often: no stretch of it is long enough.")
    return Envelopes(np.where(heard[:, None], _standardized(levels, heard), 0.0), heard, lost)


def _levels(sound: Floats) -> NDArray[np.float64]:
    """Return the logarithms of the envelopes of a heart sound at 1000 Hz, shape (frames, 7)."""
    size = fft.next_fast_len(len(sound))
    magnitude = np.abs(scipy_signal.hilbert(sound, size)[: len(sound)])
    floor = max(QUIET * float(np.median(magnitude)), 1e-9)
    found = [
        _low_pass(np.log(magnitude + floor), _HOMOMORPHIC_EDGE),
        np.log(np.maximum(_low_pass(magnitude, _HILBERT_EDGE), floor)),
    ]
    for band in BANDS:
        power = _low_pass(bandpass(sound, _SOUND_RATE, band) ** 2, _POWER_EDGE)
        found.append(np.log(np.maximum(power, floor**2)) / 2)
    return np.stack(found, axis=1)


def _low_pass(signal: Floats, edge: float) -> NDArray[np.float64]:
    """Return a signal at 1000 Hz after a zero-phase low-pass of first order, every 20th sample."""
    sections = scipy_signal.butter(1, edge, fs=_SOUND_RATE, output="sos")
    return scipy_signal.sosfiltfilt(sections, signal)[:: round(_SOUND_RATE / FRAME_RATE)]


def _standardized(levels: NDArray[np.float64], usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return levels less their median, over their spread; both from frames that are usable."""
    low, middle, high = np.percentile(levels[usable], (10, 50, 90), axis=0)
    spread = np.maximum((high - low) / SPREAD, _SMALLEST_SPREAD)
    return np.clip((levels - middle) / spread, *_RANGE)


def autocorrelation(envelope: Floats) -> NDArray[np.float64]:
    """Return the unbiased autocorrelation of an envelope, 1 at lag zero, shape (frames,)."""
    centred = envelope - envelope.mean()
    count = len(centred)
    spectrum = fft.rfft(centred, fft.next_fast_len(2 * count))
    found = fft.irfft(np.abs(spectrum) ** 2, fft.next_fast_len(2 * count))[:count]
    return found / np.arange(count, 0, -1) / max(found[0] / count, 1e-12)


def peaks_between(correlation: Floats, first: float, last: float, count: int) -> NDArray[np.float64]:
    """Return the lags of the highest peaks of an autocorrelation between two lags, seconds, highest first."""
    start = max(round(first * FRAME_RATE), 1)
    stop = min(round(last * FRAME_RATE), len(correlation) - 2)
    lags = np.arange(start, stop + 1)
    middle = correlation[lags]
    peak = (middle >= correlation[lags - 1]) & (middle > correlation[lags + 1])
    order = np.argsort(-middle[peak], kind="stable")
    return lags[peak][order][:count] / FRAME_RATE


WEIGHTS = Path(__file__).with_name("weights.json")


FORMAT = 1


RING = ("S1", "systole", "S2", "diastole")
"""Heart states in the order in which they follow one another."""


_LONGEST_STATE = 2.0
"""Longest duration of a state, seconds."""


SHORTEST_STATE = 0.04
"""Shortest duration of a state, seconds."""


_LOOSE_SYSTOLE, _LOOSE_DIASTOLE = 0.01, 0.03
"""Share of systoles and of diastoles that may last any time: early beats, pauses, steps of the rate."""


@dataclass(frozen=True)
class Parameters:
    """What is fitted; times in seconds.

    Attributes
    ----------
    weights : numpy.ndarray, shape (4, 7)
        Logistic regression of the states of `RING` on the envelopes of a frame.
    bias : numpy.ndarray, shape (4,)
    share : numpy.ndarray, shape (4,)
        Share of all frames that each state has.
    first_sound, second_sound : numpy.ndarray, shape (2,)
        Mean and standard deviation of the durations of S1 and S2.
    systole, diastole : float
        Standard deviation within a recording of systole, and of diastole as a share of its length.
    systolic_interval : numpy.ndarray, shape (3,)
        S1 to S2 is the first times the cycle to the power of the second; the third is the standard
        deviation between recordings.
    r_peak : numpy.ndarray, shape (4,)
        S1 after the R-peak, mean and standard deviation; share of beats with an R-peak; R-peaks that
        belong to no beat, a second.
    """

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    share: NDArray[np.float64]
    first_sound: NDArray[np.float64]
    second_sound: NDArray[np.float64]
    systole: float
    diastole: float
    systolic_interval: NDArray[np.float64]
    r_peak: NDArray[np.float64]

    def usual_interval(self, cycle: float) -> float:
        """Return the usual time from S1 to S2 at a cycle, leaving room for S2 and diastole, seconds."""
        law = self.systolic_interval[0] * cycle ** self.systolic_interval[1]
        return float(min(law, cycle - self.second_sound[0] - SHORTEST_STATE))


@functools.cache
def shipped_parameters() -> Parameters:
    """Return the parameters of the repository, fitted on the six databases of PhysioNet/CinC 2016."""
    return read_parameters(WEIGHTS)


def read_parameters(path: Path) -> Parameters:
    """Read parameters that `write_parameters` wrote.

    Raises
    ------
    DataError
        If the file is damaged, or of another format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        values = {field.name: content["parameters"][field.name] for field in fields(Parameters)}
        known = content["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"The parameters of segmentation in {path.name} cannot be read: {error!r}.") from None
    if not known:
        raise DataError(f"{path.name} has format {content['format']}, and {FORMAT} is needed.")
    arrays: dict[str, Any] = {
        name: np.array(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return Parameters(**arrays)


def write_parameters(path: Path, parameters: Parameters, metadata: dict[str, Any]) -> None:
    """Write parameters, and metadata about how they came to be, as JSON."""
    values = {
        name: np.round(value, 6).tolist() if isinstance(value, np.ndarray) else round(value, 6)
        for name, value in asdict(parameters).items()
    }
    write_json(path, {"format": FORMAT, **metadata, "parameters": values})


def duration_distributions(cycle: float, interval: float, fitted: Parameters) -> NDArray[np.float64]:
    """Return how likely each state of `RING` is to last 1, 2, ... frames, shape (4, frames)."""
    diastole = max(cycle - interval - fitted.second_sound[0], SHORTEST_STATE)
    uneven = fitted.diastole * diastole + 0.5 / FRAME_RATE
    return np.stack(
        [
            _durations(*fitted.first_sound),
            _durations(
                interval - fitted.first_sound[0], np.hypot(fitted.systole, 1 / FRAME_RATE), _LOOSE_SYSTOLE
            ),
            _durations(*fitted.second_sound),
            _durations(diastole, uneven, _LOOSE_DIASTOLE),
        ]
    )


def _durations(mean: float, deviation: float, loose: float = 0.0) -> NDArray[np.float64]:
    """Return a normal distribution of durations in frames, a share of it spread over all durations."""
    length = np.arange(1, round(_LONGEST_STATE * FRAME_RATE) + 1) / FRAME_RATE
    half = 0.5 / FRAME_RATE
    within = special.ndtr((length + half - mean) / deviation) - special.ndtr(
        (length - half - mean) / deviation
    )
    possible = length > SHORTEST_STATE - half
    within = np.where(possible, np.maximum(within, 1e-12), 0.0)
    return (1 - loose) * within / within.sum() + loose * possible / possible.sum()
