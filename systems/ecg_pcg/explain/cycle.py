"""What varies over a beat, averaged over the cardiac cycle: every S2 lands on S2, in fast and in slow hearts.

A beat goes from one S1 onset to the next. Between its own onsets of S1, systole, S2 and diastole time is
stretched so that each state takes its mean share of the cycle. What a beat has at each point is a mass that
the parts of the cycle divide among them: none is lost, and a point that an onset cuts is shared exactly.
Beats are averaged within each recording, then recordings, so that long recordings do not count more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.errors import UserError
from evaluation.statistics import Interval, cluster_bootstrap

Array = NDArray[np.float64]
Maps = Mapping[str, NDArray[np.floating]]

STATES = ("S1", "systole", "S2", "diastole")
WHOLE = "whole beat"
_TICKS_PER_SECOND = 1e5
"""Start and end of beats are stored to this part of a second."""


@dataclass(frozen=True)
class PhaseAxis:
    """The cardiac cycle from 0 to 1: each state its share of it, cut into equal parts.

    Attributes
    ----------
    shares : numpy.ndarray, shape (4,)
        Share of the cycle that S1, systole, S2 and diastole take; they add up to 1.
    parts : numpy.ndarray of int, shape (4,)
        Parts of each state.
    """

    shares: Array
    parts: NDArray[np.int64]

    @property
    def marks(self) -> Array:
        """Onsets of the four states, and the end, shape (5,)."""
        return np.concatenate([[0.0], np.cumsum(self.shares)])

    @property
    def edges(self) -> Array:
        """Edges of the parts, shape (parts + 1,)."""
        return self.stretched(self.marks[None])[0]

    @property
    def state(self) -> NDArray[np.int64]:
        """State of each part, as its place in `STATES`, shape (parts,)."""
        return np.repeat(np.arange(len(STATES)), self.parts)

    def stretched(self, onsets: Array) -> Array:
        """Map onsets of beats (beats, 5) to the edges of the parts between them (beats, parts + 1)."""
        within = np.concatenate([np.arange(count) / count for count in self.parts])
        starts = onsets[:, self.state] + within * np.diff(onsets, axis=1)[:, self.state]
        return np.concatenate([starts, onsets[:, -1:]], axis=1)


@dataclass(frozen=True)
class BeatMaps:
    """Beats, and where a model looks in them.

    Attributes
    ----------
    table : pandas.DataFrame
        One row a beat: ``recording``, ``session``, ``label``, and what else is known of it.
    onsets : numpy.ndarray, shape (beats, 5)
        From `beat_onsets`, all finite.
    signals : mapping of str to numpy.ndarray, shape (beats, points)
        ``ecg`` and ``pcg``.
    looks : mapping of str to (mapping of str to numpy.ndarray, shape (beats, points))
        Quantity, such as ``attribution``, to signal to values of 0 or more.
    """

    table: pd.DataFrame
    onsets: Array
    signals: Maps
    looks: Mapping[str, Maps]


@dataclass(frozen=True)
class CycleMeans:
    """`BeatMaps` over the parts of the cycle, one row a recording: the mean of its beats.

    Attributes
    ----------
    axis : PhaseAxis
    recordings : pandas.DataFrame
        ``recording``, ``session``, ``label``.
    waveforms : mapping of str to numpy.ndarray, shape (recordings, parts)
        Mean ECG, and mean absolute heart sound: its sign is chance.
    time : numpy.ndarray, shape (recordings, parts)
        Share of the time of the beat.
    looks : mapping of str to (mapping of str to numpy.ndarray, shape (recordings, parts))
        Quantity to signal to share; over signals and parts they add up to 1. NaN for a recording with
        nothing to share.
    """

    axis: PhaseAxis
    recordings: pd.DataFrame
    waveforms: Mapping[str, Array]
    time: Array
    looks: Mapping[str, Mapping[str, Array]]


def beat_onsets(samples: pd.DataFrame, events: pd.DataFrame) -> Array:
    """Return the onsets of the heart states of each beat.

    Parameters
    ----------
    samples : pandas.DataFrame
        ``recording``, ``start`` and ``end`` of each beat, seconds.
    events : pandas.DataFrame
        ``recording``, ``time`` (seconds, rising within a recording) and ``state``.

    Returns
    -------
    numpy.ndarray, shape (beats, 5)
        Onset of S1, systole, S2, diastole and of the next S1, seconds; NaN for a beat that is no such cycle:
        found by R-peaks, or with a state that is missing, repeated or empty.
    """
    count = max(len(events) - len(STATES), 0)
    follow = np.arange(count)[:, None] + np.arange(len(STATES) + 1)
    name, state = (events[column].to_numpy(dtype=object)[follow] for column in ("recording", "state"))
    onsets = events["time"].to_numpy(dtype=float)[follow]
    whole = (state == np.array([*STATES, STATES[0]], dtype=object)).all(axis=1)
    whole &= (name == name[:, :1]).all(axis=1) & (np.diff(onsets) > 0).all(axis=1)
    cycles = _ticks(name[whole, 0], onsets[whole, 0], onsets[whole, -1]).join(pd.DataFrame(onsets[whole]))
    beats = _ticks(samples["recording"], samples["start"], samples["end"])
    found = beats.merge(cycles, "left", on=list(beats), validate="m:1")
    return found[list(range(len(STATES) + 1))].to_numpy(dtype=float)


def _ticks(recording: ArrayLike, start: ArrayLike, end: ArrayLike) -> pd.DataFrame:
    """Return what beats are known by, with times as whole numbers, which can be compared."""
    times = {"start": np.asarray(start, dtype=float), "end": np.asarray(end, dtype=float)}
    ticks = {name: np.rint(seconds * _TICKS_PER_SECOND).astype(np.int64) for name, seconds in times.items()}
    return pd.DataFrame({"recording": np.asarray(recording, dtype=object)} | ticks)


def phase_axis(onsets: Array, recording: ArrayLike, parts: int = 100) -> PhaseAxis:
    """Return the axis on which each state takes its mean share: over beats, then over recordings.

    Parameters
    ----------
    onsets : numpy.ndarray, shape (beats, 5)
        From `beat_onsets`; beats of NaN do not count.
    recording : array_like, shape (beats,)
    parts : int
        About so many parts, all about as long.

    Raises
    ------
    UserError
        If no beat has its onsets.
    """
    known = np.isfinite(onsets).all(axis=1)
    if not known.any():
        raise UserError(
            "No beat has annotated onsets of S1, systole, S2 and diastole, so its phases are unknown: "
            "prepare annotated recordings with load_data.py, without --onsets ecg."
        )
    shares = np.diff(_relative(onsets[known]), axis=1)
    mean = _recording_means(shares, np.asarray(recording)[known]).mean(axis=0)
    return PhaseAxis(mean, np.maximum(np.rint(parts * mean), 1).astype(np.int64))


def _relative(onsets: Array) -> Array:
    """Return onsets (beats, 5) as shares of the beat, from 0 to 1."""
    return (onsets - onsets[:, :1]) / (onsets[:, -1:] - onsets[:, :1])


def _recording_means(values: Array, recording: ArrayLike) -> Array:
    """Return the mean of the beats of each recording, recordings in order; beats of NaN do not count."""
    return pd.DataFrame(values).groupby(np.asarray(recording)).mean().to_numpy()


def divide_among(values: NDArray[np.floating], edges: Array) -> Array:
    """Divide what beats have at their points among parts of the beat.

    Parameters
    ----------
    values : numpy.ndarray, shape (beats, points)
        Point i of T stands for the time from i / T to (i + 1) / T of the beat.
    edges : numpy.ndarray, shape (beats, parts + 1)
        Rising from 0 to 1.

    Returns
    -------
    numpy.ndarray, shape (beats, parts)
        With the same sums as the values.
    """
    points = values.shape[1]
    place = edges * points
    point = np.minimum(place.astype(int), points - 1)
    here = np.take_along_axis(values.astype(float), point, axis=1)
    before = np.take_along_axis(np.cumsum(values, axis=1, dtype=float), point, axis=1) - here
    return np.diff(before + (place - point) * here, axis=1)


def over_cycle(beats: BeatMaps, axis: PhaseAxis) -> CycleMeans:
    """Bring beats to the phases of an axis and average them within each recording."""
    edges = axis.stretched(_relative(beats.onsets))
    time = np.diff(edges, axis=1)
    recording = beats.table["recording"].to_numpy()

    def masses(values: NDArray[np.floating]) -> Array:
        return _recording_means(divide_among(values, edges), recording)

    waves = {name: np.abs(wave) if name == "pcg" else wave for name, wave in beats.signals.items()}
    per_time = {name: divide_among(wave / wave.shape[1], edges) / time for name, wave in waves.items()}
    metadata = beats.table[["recording", "session", "label"]]
    return CycleMeans(
        axis=axis,
        recordings=metadata.groupby("recording", as_index=False).first(),
        waveforms={name: _recording_means(values, recording) for name, values in per_time.items()},
        time=_recording_means(time, recording),
        looks={
            quantity: {name: masses(values) for name, values in _as_shares(maps).items()}
            for quantity, maps in beats.looks.items()
        },
    )


def _as_shares(maps: Maps) -> dict[str, Array]:
    """Return maps that add up to 1 over the signals and points of each beat; NaN where all is zero."""
    total = sum(values.sum(axis=1, keepdims=True, dtype=float) for values in maps.values())
    return {name: values / np.where(total > 0, total, np.nan) for name, values in maps.items()}


def share_table(means: CycleMeans, draws: int, seed: int = 0) -> pd.DataFrame:
    """Return the share of each signal and heart state in each quantity, with session-clustered intervals.

    Parameters
    ----------
    means : CycleMeans
    draws : int
        Draws of the bootstrap; 0: no intervals.
    seed : int

    Returns
    -------
    pandas.DataFrame
        ``quantity``, ``signal``, ``state`` (or "whole beat"), ``share``, ``time_share`` (share of the
        time of the beat) and ``enrichment``: the share over the share that the state would have if all
        points of all signals had the same. Share and enrichment with ends ``_low`` and ``_high`` of 95 %.
    """
    rows: list[dict[str, Any]] = []
    for quantity, maps in means.looks.items():
        known = np.isfinite(next(iter(maps.values()))).all(axis=1)
        units = means.recordings[known]
        for name, values in maps.items():
            for state in [*STATES, WHOLE]:
                inside = means.axis.state == STATES.index(state) if state != WHOLE else slice(None)
                part, time = (table[known][:, inside].sum(axis=1) for table in (values, means.time))
                share = _ratio(units, part, np.ones(len(units)), draws, seed)
                enrichment = _ratio(units, part, time / len(maps), draws, seed)
                rows.append({"quantity": quantity, "signal": name, "state": state, **_ends("share", share)})
                rows[-1] |= {"time_share": time.mean(), **_ends("enrichment", enrichment)}
    return pd.DataFrame(rows)


def _ratio(units: pd.DataFrame, part: Array, whole: Array, draws: int, seed: int) -> Interval:
    """Return the mean of one quantity over the mean of another, recordings drawn by sessions."""
    return cluster_bootstrap(
        units, lambda _, weights: (weights @ part) / (weights @ whole), draws=draws, seed=seed
    )


def _ends(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
