"""Fit the segmentation of heart sounds to annotated recordings of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from datasets.beats import HeartStates
from datasets.cache import Cache
from datasets.sources import DataError
from systems.ecg_pcg.segmentation.features import (
    FRAME_RATE,
    RING,
    Envelopes,
    Parameters,
    envelopes,
    shipped_parameters,
)
from systems.ecg_pcg.segmentation.segment import NEAR_R_PEAK, find_r_peaks

SMALLEST_R_DEVIATION = 0.03
"""Least standard deviation from R-peak to S1, seconds: elsewhere ECG and heart sound may be less in step."""


@dataclass(frozen=True)
class Truth:
    """One annotated recording.

    Attributes
    ----------
    name, session, database : str
    label : int
        0 normal, 1 abnormal.
    sound : Envelopes
    peaks : numpy.ndarray, shape (peaks,)
        R-peaks, seconds.
    states : HeartStates
        As annotated.
    """

    name: str
    session: str
    database: str
    label: int
    sound: Envelopes
    peaks: NDArray[np.float64]
    states: HeartStates


def read_recordings(cache: Cache) -> list[Truth]:
    """Return the annotated recordings of a cache that have a heart sound."""
    rows, events = cache.table("recordings"), dict(tuple(cache.table("events").groupby("recording")))
    waveforms = {modality: cache.waveforms(modality) for modality in ("pcg", "ecg")}

    def signal(row: pd.Series, modality: str) -> NDArray[np.float32]:
        return np.array(waveforms[modality][row[f"{modality}_offset"] :][: row[f"{modality}_length"]])

    found = []
    for _, row in tqdm(rows.iterrows(), total=len(rows), desc="Envelopes", unit="recording"):
        annotated = row["beat_source"] == "annotation" and row["recording"] in events
        if not (annotated and row["pcg_length"]):
            continue
        marks = events[row["recording"]]
        states = HeartStates(marks["time"].to_numpy(float), marks["state"].to_numpy(str))
        sound = envelopes(signal(row, "pcg"), row["pcg_rate"])
        peaks = find_r_peaks(signal(row, "ecg"), row["ecg_rate"]) if row["ecg_length"] else np.zeros(0)
        found.append(
            Truth(row["recording"], row["session"], row["database"], row["label"], sound, peaks, states)
        )
    if not found:
        raise DataError(f"No recording of {cache.path} has a heart sound and annotated heart states.")
    return found


def even(recordings: Sequence[Truth], most: int, seed: int) -> list[Truth]:
    """Return at most so many recordings of each database, at random: none then outweighs the others."""
    order = np.random.default_rng(seed).permutation(len(recordings))
    table = pd.DataFrame({"database": [recordings[row].database for row in order]})
    return [recordings[row] for row in order[table.groupby("database").cumcount() < most]]


def fit(recordings: Sequence[Truth], frames: int, seed: int) -> Parameters:
    """Fit all parameters to annotated recordings; the evidence of a frame on so many frames of each.

    Where none has an ECG, the parameters of R-peaks are those of the repository.
    """
    levels, state, share = _training_frames(recordings, frames, seed)
    regression = LogisticRegression(C=1.0, max_iter=500).fit(levels, state)
    durations = pd.concat([_durations(recording) for recording in recordings], ignore_index=True)
    within = durations.groupby(["recording", "state"])["duration"]
    typical = within.median().unstack()
    spread = within.std().unstack().median()
    pooled = durations.groupby("state")["duration"].agg(["mean", "std"])
    return Parameters(
        weights=regression.coef_,
        bias=regression.intercept_,
        share=share,
        first_sound=pooled.loc["S1"].to_numpy(),
        second_sound=pooled.loc["S2"].to_numpy(),
        systole=float(spread["systole"]),
        diastole=float(spread["diastole"] / typical["diastole"].median()),
        systolic_interval=_systolic_interval(typical),
        r_peak=_r_peak_metadata(recordings),
    )


def _training_frames(
    recordings: Sequence[Truth], frames: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Return levels and states of some frames of each recording, and the share of each state among all."""
    random = np.random.default_rng(seed)
    levels, states, total = [], [], np.zeros(len(RING))
    for recording in recordings:
        state = frame_states(recording.states, len(recording.sound.levels))
        usable = np.flatnonzero((state >= 0) & recording.sound.heard)
        total += np.bincount(state[usable], minlength=len(RING))
        chosen = random.permutation(usable)[:frames]
        levels.append(recording.sound.levels[chosen])
        states.append(state[chosen])
    return np.concatenate(levels), np.concatenate(states), total / total.sum()


def frame_states(states: HeartStates, frames: int) -> NDArray[np.int64]:
    """Return the annotated state of each frame as its index in `RING`; -1 where it is noisy or unknown."""
    index = np.array([RING.index(name) if name in RING else -1 for name in states.state] + [-1])
    row = np.searchsorted(states.time, np.arange(frames) / FRAME_RATE, side="right") - 1
    return index[row]


def _durations(recording: Truth) -> pd.DataFrame:
    """Return the durations of the states that were annotated from their onset to the next state's."""
    time, state = recording.states.time, recording.states.state
    follows = {name: RING[(index + 1) % len(RING)] for index, name in enumerate(RING)}
    rows = [
        (recording.name, state[k], time[k + 1] - time[k])
        for k in range(1, len(time) - 1)
        if follows.get(state[k]) == state[k + 1]
    ]
    return pd.DataFrame(rows, columns=["recording", "state", "duration"])


def _systolic_interval(typical: pd.DataFrame) -> NDArray[np.float64]:
    """Return factor and power of the cycle that give the systolic interval, and the deviation from it."""
    cycle, interval = typical.sum(axis=1, min_count=len(RING)), typical["S1"] + typical["systole"]
    known = cycle.notna()
    power, logarithm = np.polyfit(np.log(cycle[known]), np.log(interval[known]), 1)
    deviation = (interval - np.exp(logarithm) * cycle**power)[known].std()
    return np.array([np.exp(logarithm), power, deviation])


def _r_peak_metadata(recordings: Sequence[Truth]) -> NDArray[np.float64]:
    """Return what `Parameters.r_peak` holds."""
    delays, missed, stray, duration = [], 0, 0, 0.0
    for recording in recordings:
        beats = recording.states.time[recording.states.state == "S1"]
        if not len(recording.peaks) or not len(beats):
            continue
        distance = beats[:, None] - recording.peaks
        nearest = distance[np.arange(len(beats)), np.abs(distance).argmin(axis=1)]
        delays.append(nearest[np.abs(nearest) <= NEAR_R_PEAK])
        missed += int((np.abs(nearest) > NEAR_R_PEAK).sum())
        stray += int((np.abs(distance).min(axis=0) > NEAR_R_PEAK).sum())
        duration += len(recording.sound.levels) / FRAME_RATE
    if not delays:
        return shipped_parameters().r_peak
    delay = np.concatenate(delays)
    return np.array(
        [
            np.median(delay),
            max(float(delay.std()), SMALLEST_R_DEVIATION),
            len(delay) / (len(delay) + missed),
            max(stray, 1) / duration,
        ]
    )
