"""Find the heart states (S1, systole, S2, diastole) of any heart sound, with or without an ECG.

A hidden Markov model with durations, after Schmidt et al., Physiological Measurement 31:513 (2010), and
Springer, Tarassenko and Clifford, IEEE Transactions on Biomedical Engineering 63:822 (2016). The states follow
one another in a ring. Each lasts as long as its distribution of durations says, and speaks through a
logistic regression on envelopes (`datasets.segmentation_features`).

The cycle and the systolic interval are what the autocorrelation of the homomorphic envelope offers; the
path of every offer is found, and the most likely one is kept. R-peaks of an ECG are one more piece of
evidence: each beat sends out one R-peak at about its S1, a detector misses some and invents others. So
neither a poor ECG nor a poor heart sound decides alone.

Fitted by ``python -m benchmarks.segmentation`` on the hand-corrected onsets of training-a, which gives the onset
of S1 as the R-peak, to whole frames of 20 ms.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special

from datasets.beats import r_peaks
from datasets.heart_states import NOISE_MARKS, HeartStates
from datasets.segmentation_features import (
    FRAME_RATE,
    PLAUSIBLE_CYCLE,
    autocorrelation,
    envelopes,
    frames_of,
    interruptions,
    peaks_between,
    runs,
    with_context,
)
from datasets.signals import Floats, fill_gaps
from datasets.sources import DataError

WEIGHTS = Path(__file__).with_name("segmentation_weights.json")
FORMAT = 1
RING = ("S1", "systole", "S2", "diastole")
"""Heart states in the order in which they follow one another."""
EVIDENCE_WEIGHT = 0.5
"""Power to which the evidence of a frame is taken: frames 20 ms apart say nearly the same thing."""
LONGEST_STATE = 2.0
"""Longest duration of a state, seconds."""
SHORTEST_SOUND, SHORTEST_PAUSE = 0.04, 0.02
"""Shortest duration of S1, systole and S2, and of diastole, seconds."""
LOOSE_SYSTOLE, LOOSE_DIASTOLE = 0.01, 0.03
"""Share of systoles and diastoles that may have any duration (early beats, pauses)."""
CYCLES = 4
"""Cycles that the autocorrelation offers."""
USUAL_CYCLE, CYCLE_SPREAD = 0.85, 0.35
"""Usual cycle, seconds, and the standard deviation of its logarithm between people."""
NEAR_R_PEAK = 0.1
"""Greatest distance of an S1 from its R-peak, seconds, when their agreement is counted."""
IMPOSSIBLE = -1e30


@dataclass(frozen=True)
class Parameters:
    """What is fitted. Times in seconds.

    Attributes
    ----------
    weights : numpy.ndarray, shape (4, 35)
        Logistic regression of the states of `RING` on the features of a frame.
    bias : numpy.ndarray, shape (4,)
    share : numpy.ndarray, shape (4,)
        Share of frames in each state, by which the regression's probabilities are divided.
    sounds : numpy.ndarray, shape (2, 2)
        Mean and standard deviation of the duration of S1 and of S2.
    systole : float
        Standard deviation of systole within a recording.
    diastole : float
        Standard deviation of diastole within a recording, as a share of it.
    systolic_interval : numpy.ndarray, shape (3,)
        Onset of S1 to that of S2 is the first, times the cycle to the power of the second; the third is the
        standard deviation between recordings.
    r_peak : numpy.ndarray, shape (4,)
        Onset of S1 after the R-peak, mean and standard deviation; share of beats with an R-peak; R-peaks
        that belong to no beat, a second.
    """

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    share: NDArray[np.float64]
    sounds: NDArray[np.float64]
    systole: float
    diastole: float
    systolic_interval: NDArray[np.float64]
    r_peak: NDArray[np.float64]


@dataclass(frozen=True)
class Segmentation:
    """The heart states of one recording, and how far to trust them.

    Attributes
    ----------
    states : HeartStates
        From the first onset that was heard. Where the heart sound is interrupted, ``(N`` and ``N)``.
    quality : float
        Mean probability that single frames give to the state they were put in, 0 to 1.
    heart_rate : float
        Beats a minute.
    r_peak_agreement : float
        Of S1 onsets and R-peaks, the share that have each other within 100 ms; NaN without an ECG.
    """

    states: HeartStates
    quality: float
    heart_rate: float
    r_peak_agreement: float


@functools.cache
def shipped_parameters() -> Parameters:
    """Return the parameters that come with the repository, fitted on all sessions of training-a."""
    content = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    if content["format"] != FORMAT:
        raise DataError(
            f"{WEIGHTS.name} has format {content['format']}, and {FORMAT} is needed. "
            "Take the file that belongs to this version, or run python -m benchmarks.segmentation."
        )
    values = {field.name: content[field.name] for field in dataclasses.fields(Parameters)}
    return Parameters(
        **{name: np.array(value) if isinstance(value, list) else value for name, value in values.items()}
    )


def segment_heart_sound(
    pcg: Floats, pcg_rate: float, ecg: Floats | None = None, ecg_rate: float | None = None
) -> HeartStates:
    """Return the heart states of a recording; see `segment`, which tells their quality as well."""
    return segment(pcg, pcg_rate, ecg, ecg_rate).states


def segment(
    pcg: Floats,
    pcg_rate: float,
    ecg: Floats | None = None,
    ecg_rate: float | None = None,
    parameters: Parameters | None = None,
) -> Segmentation:
    """Find the heart states of a recording whose heart rate does not change much.

    Parameters
    ----------
    pcg : numpy.ndarray, shape (n,)
        Heart sound; gaps may be NaN, the unit does not matter.
    pcg_rate : float
        Hertz, 500 or more.
    ecg : numpy.ndarray, shape (m,), optional
        ECG that began at the same moment; either polarity, gaps may be NaN, the unit does not matter.
    ecg_rate : float, optional
        Hertz.
    parameters : Parameters, optional
        Default: those that come with the repository.

    Raises
    ------
    DataError
        If the heart sound is too short, too slowly sampled or flat, or an ECG comes without its rate.
    """
    fitted = parameters or shipped_parameters()
    found = envelopes(pcg, pcg_rate)
    peaks = _r_peaks(ecg, ecg_rate)
    lost = interruptions(pcg, pcg_rate)
    probability = frame_probabilities(found, fitted)
    evidence = EVIDENCE_WEIGHT * (np.log(probability) - np.log(fitted.share))
    evidence[frames_of(lost, pcg_rate, len(found))] = 0.0
    onset, state = _most_likely(found[:, 0], evidence, peaks, fitted)
    ...
    return None


def frame_probabilities(found: NDArray[np.float64], fitted: Parameters) -> NDArray[np.float64]:
    """Return the probability of each state from single frames and those around them, shape (frames, 4)."""
    return special.softmax(with_context(found) @ fitted.weights.T + fitted.bias, axis=1)
