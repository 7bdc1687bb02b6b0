"""Find the heart states (S1, systole, S2, diastole) of any heart sound, with or without an ECG.

A hidden Markov model with durations, after Schmidt et al., Physiological Measurement 31:513 (2010), and
Springer, Tarassenko and Clifford, IEEE Transactions on Biomedical Engineering 63:822 (2016). The states
follow one another in a ring; each lasts as its distribution of durations says, and is heard through a
logistic regression on envelopes (`systems.ecg_pcg.segmentation.features`). The first and the last state of a
recording are cut.

The autocorrelation of an envelope offers cycles and systolic intervals; the best path under each offer is
found, and the most likely of all is kept. R-peaks of an ECG are evidence like any other: a beat sends one
R-peak out near its S1, detectors miss some and invent others. So neither a poor ECG nor a poor heart sound
decides alone.

Fitted by ``python -m studies.segmentation`` on the hand-corrected onsets of PhysioNet/CinC 2016, six
databases, which come in frames of 20 ms and put S1 at the R-peak.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from datasets.beats import NOISE_MARKS, HeartStates, r_peaks
from datasets.signals import Floats, fill_gaps
from datasets.sources import DataError
from systems.ecg_pcg.segmentation.features import (
    FRAME_RATE,
    RING,
    SHORTEST_DURATION,
    SHORTEST_STATE,
    Envelopes,
    Parameters,
    autocorrelation,
    duration_distributions,
    envelopes,
    peaks_between,
    shipped_parameters,
)

_EVIDENCE_WEIGHT = 0.3
"""Power to which the evidence of a frame is taken, as frames 20 ms apart say nearly the same."""
_STATE_RELIEF = 1.25
"""Log-likelihood that is given back for each state. Every state costs the logarithm of a probability, so
without it a path of half as many beats is the cheaper one, and up to a fifth of the recordings of a database
get half their heart rate. Both values were chosen on hand-corrected onsets of six databases, each with
parameters of the other five."""
PLAUSIBLE_CYCLE = (1 / 3, 2.0)
"""Shortest and longest cardiac cycle that is looked for, seconds (180 to 30 beats a minute)."""
_USUAL_CYCLE, _CYCLE_SPREAD = 0.85, 0.35
"""Usual cycle, seconds, and the standard deviation of its logarithm between people."""
_CYCLES_OFFERED = 4
"""Cycles that the autocorrelation offers, the most regular first."""
_SYSTOLE_REACH = 0.1
"""How far from its usual value the systolic interval is looked for, seconds."""
NEAR_R_PEAK = 0.1
"""Greatest distance of an S1 from its R-peak when their agreement is counted, seconds."""


@dataclass(frozen=True)
class Segmentation:
    """The heart states of one recording, and how far to trust them.

    Attributes
    ----------
    states : HeartStates
        From the first onset that is heard on; an interrupted heart sound is marked ``(N`` and ``N)``.
    quality : float
        Mean probability that frames, each by itself, give to the state they were put in, 0 to 1.
    heart_rate : float
        Beats a minute.
    r_peak_agreement : float
        Share of S1 and R-peaks with the other within 100 ms; NaN without an ECG, or without R-peaks.
    """

    states: HeartStates
    quality: float
    heart_rate: float
    r_peak_agreement: float


def segment_heart_sound(
    pcg: Floats, pcg_rate: float, ecg: Floats | None = None, ecg_rate: float | None = None
) -> HeartStates:
    """Return the heart states of a recording; `segment` says more, and takes the same."""
    return segment(pcg, pcg_rate, ecg, ecg_rate).states


def segment(
    pcg: Floats,
    pcg_rate: float,
    ecg: Floats | None = None,
    ecg_rate: float | None = None,
    parameters: Parameters | None = None,
) -> Segmentation:
    """Find the heart states of a recording with one heart rate, of minutes rather than hours.

    Parameters
    ----------
    pcg : numpy.ndarray, shape (n,)
        Heart sound; gaps may be NaN, the unit does not matter.
    pcg_rate : float
        Hertz, 500 or more.
    ecg : numpy.ndarray, shape (m,), optional
        ECG that began at the same moment, of either polarity; gaps may be NaN, the unit does not matter.
    ecg_rate : float, optional
        Hertz.
    parameters : Parameters, optional
        Default: those of the repository.

    Raises
    ------
    DataError
        If the heart sound is too short, sampled too slowly or flat, or the ECG has no rate.
    """
    fitted = parameters or shipped_parameters()
    return segment_envelopes(envelopes(pcg, pcg_rate), find_r_peaks(ecg, ecg_rate), fitted)


def segment_envelopes(found: Envelopes, peaks: NDArray[np.float64], parameters: Parameters) -> Segmentation:
    """Find the heart states behind the envelopes of a heart sound and R-peaks (seconds, or none)."""
    probability = _frame_probabilities(found.levels, parameters)
    evidence = found.heard[:, None] * (np.log(probability) - np.log(parameters.share))
    onset, state = _most_likely(found.levels[:, 0], _EVIDENCE_WEIGHT * evidence, peaks, parameters)
    of_frame = np.repeat(state, np.diff(onset, append=len(probability)))
    trust = np.take_along_axis(probability, of_frame[:, None], axis=1)[found.heard]
    time, state = onset[1:] / FRAME_RATE, state[1:]
    beats = time[state == RING.index("S1")]
    return Segmentation(
        states=_heart_states(time, state, found.interruptions),
        quality=float(trust.mean()),
        heart_rate=float(60 / np.median(np.diff(beats))) if len(beats) > 1 else float("nan"),
        r_peak_agreement=_agreement(beats, peaks),
    )


def _frame_probabilities(found: NDArray[np.float64], fitted: Parameters) -> NDArray[np.float64]:
    """Return what each frame says of its state by itself, shape (frames, 4)."""
    return special.softmax(found @ fitted.weights.T + fitted.bias, axis=1)


def find_r_peaks(ecg: Floats | None, rate: float | None) -> NDArray[np.float64]:
    """Return the R-peaks of an ECG, seconds; none where there is no ECG, or too little of one."""
    if ecg is None:
        return np.zeros(0)
    if rate is None or not np.isfinite(rate) or rate <= 0 or np.ndim(ecg) != 1:
        raise DataError(
            f"An ECG needs a sampling rate above zero and one channel: it came with the rate {rate} and "
            f"the shape {np.shape(ecg)}."
        )
    present = np.isfinite(ecg)
    if present.sum() < SHORTEST_DURATION * rate or np.ptp(ecg[present]) == 0:
        return np.zeros(0)
    return r_peaks(fill_gaps(np.where(present, ecg, np.nan).astype(np.float64)), rate)


def _most_likely(
    envelope: Floats, evidence: NDArray[np.float64], peaks: NDArray[np.float64], fitted: Parameters
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the states of the best path of all offers, and the frames in which they begin."""
    offers = _offers(envelope, peaks, fitted)
    durations = np.stack([duration_distributions(cycle, interval, fitted) for cycle, interval in offers])
    durations *= np.exp(_STATE_RELIEF)
    scores, paths = decode(evidence, _beat_evidence(peaks, len(evidence), fitted), durations)
    cycle, interval = np.array(offers).T
    usual = np.array([fitted.usual_interval(value) for value in cycle])
    scores -= (np.log(cycle / _USUAL_CYCLE) / _CYCLE_SPREAD) ** 2 / 2
    scores -= ((interval - usual) / fitted.systolic_interval[2]) ** 2 / 2
    return paths[int(scores.argmax())]


def _offers(envelope: Floats, peaks: NDArray[np.float64], fitted: Parameters) -> list[tuple[float, float]]:
    """Return pairs of cycle and systolic interval, seconds, that may be those of a recording."""
    correlation = autocorrelation(envelope)
    cycles = list(peaks_between(correlation, *PLAUSIBLE_CYCLE, _CYCLES_OFFERED))
    if len(peaks) > 2:
        cycles.append(np.clip(np.median(np.diff(peaks)), *PLAUSIBLE_CYCLE))
    offers = []
    for cycle in cycles or [_USUAL_CYCLE]:
        usual = fitted.usual_interval(cycle)
        last = min(usual + _SYSTOLE_REACH, cycle - fitted.second_sound[0] - SHORTEST_STATE)
        heard = peaks_between(correlation, usual - _SYSTOLE_REACH, last, 1)
        offers += [(float(cycle), float(interval)) for interval in (usual, *heard)]
    return offers


def _beat_evidence(peaks: NDArray[np.float64], frames: int, fitted: Parameters) -> NDArray[np.float64]:
    """Return the log-likelihood ratio that R-peaks lend to an S1 that begins in each frame, shape (frames,).

    R-peaks are points of a Poisson process: some at random, and around each beat one, or none.
    """
    if not len(peaks):
        return np.zeros(frames)
    delay, deviation, share, stray = fitted.r_peak
    distance = (np.arange(frames)[:, None] / FRAME_RATE - peaks - delay) / deviation
    density = np.exp(-(distance**2) / 2) / (deviation * np.sqrt(2 * np.pi))
    return np.log1p(share * density / stray).sum(axis=1) - share


def _heart_states(
    time: NDArray[np.float64], state: NDArray[np.int64], interruptions: NDArray[np.float64]
) -> HeartStates:
    """Return onsets as annotations have them; those in an interruption give way to its two marks."""
    name = np.array(RING, dtype=object)[state]
    for start, stop in interruptions:
        outside = (time < start) | (time > stop)
        time = np.concatenate([time[outside], [start, stop]])
        name = np.concatenate([name[outside], NOISE_MARKS])
    order = np.argsort(time, kind="stable")
    heard = np.cumsum(np.isin(name[order], RING)) > 0  # nothing is known before the first onset
    return HeartStates(time[order][heard], name[order][heard].astype(str))


def _agreement(beats: NDArray[np.float64], peaks: NDArray[np.float64]) -> float:
    """Return the share of S1 and of R-peaks between the first and the last S1 that have each other near."""
    if len(beats):
        peaks = peaks[(peaks > beats[0] - NEAR_R_PEAK) & (peaks < beats[-1] + NEAR_R_PEAK)]
    if not len(beats) or not len(peaks):
        return float("nan")
    near = np.abs(beats[:, None] - peaks) <= NEAR_R_PEAK
    return float((near.any(axis=1).sum() + near.any(axis=0).sum()) / sum(near.shape))


_IMPOSSIBLE = -1e30


def decode(
    evidence: NDArray[np.float64], beat: NDArray[np.float64], durations: NDArray[np.float64]
) -> tuple[NDArray[np.float64], list[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """Find the most likely path through the ring of states, for several sets of durations at once.

    The recording begins and ends anywhere in the ring: the first state has begun before (how long it still
    lasts follows from the mean time spent in each), and the last one goes on.

    Parameters
    ----------
    evidence : numpy.ndarray, shape (frames, 4)
        Logarithm of how likely the sound of each frame is in each state.
    beat : numpy.ndarray, shape (frames,)
        What is added for an S1 that begins in a frame.
    durations : numpy.ndarray, shape (sets, 4, longest)
        How likely each state is to last 1, 2, ... frames: probabilities, or a multiple of them.

    Returns
    -------
    scores : numpy.ndarray, shape (sets,)
        Log-likelihoods of the best paths.
    paths : list of (onset, state)
        For each set, the frames in which the states of the path begin, the first 0, and the states.
    """
    frames, (sets, ring, longest) = len(evidence), durations.shape
    at_least = durations[:, :, ::-1].cumsum(axis=2)  # from the longest down, as the window below runs
    mean = (durations * np.arange(1, longest + 1)).sum(axis=(1, 2))
    whole, cut = _log(durations[:, :, ::-1]), _log(at_least)
    begun = cut[:, :, ::-1] - np.log(mean)[:, None, None]
    total = np.concatenate([np.zeros((1, ring)), evidence.cumsum(axis=0)])
    entry = -total[:-1]
    entry[:, 0] += beat
    started = np.full((sets, ring, longest + frames), _IMPOSSIBLE)
    lasted = np.zeros((frames + 1, sets, ring), dtype=np.int64)
    each_set, each_state = np.arange(sets)[:, None], np.arange(ring)
    before = each_state - 1
    score = np.zeros((sets, ring))
    for frame in range(1, frames + 1):
        ended = started[:, :, frame : frame + longest] + (whole if frame < frames else cut)
        best = ended.argmax(axis=2)
        score, length = ended[each_set, each_state, best], longest - best
        if frame <= longest:
            earlier = begun[:, :, frame - 1] > score
            score, length = np.where(earlier, begun[:, :, frame - 1], score), np.where(earlier, frame, length)
        score = score + total[frame]
        lasted[frame] = length
        if frame < frames:
            started[:, :, longest + frame] = score[:, before] + entry[frame]
    return score.max(axis=1), [_trace(lasted[:, k], int(score[k].argmax())) for k in range(sets)]


def _log(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithm, of nothing a very low number."""
    return np.log(np.maximum(probability, 1e-300))


def _trace(lasted: NDArray[np.int64], state: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the path that ends in a state, read from how long each state lasted when it ended."""
    frame, onsets, states = len(lasted) - 1, [], []
    while frame > 0:
        frame -= int(lasted[frame, state])
        onsets.append(frame)
        states.append(state)
        state = (state - 1) % lasted.shape[1]
    return np.array(onsets[::-1]), np.array(states[::-1])
